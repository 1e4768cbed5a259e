"""From the calls of an unrolled forward to one step's graph: every step must be the same."""

from collections import Counter
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from snn_async.adapters.interpreting import Interpretation
from snn_async.adapters.libraries import adapter_of
from snn_async.adapters.signals import Argument, Fired, Potential, Recording, Signal
from snn_async.errors import UnsupportedModelError
from snn_async.graph import INPUT, Graph, Population, Projection

_SINGLE_STEP = "pass the single step, a module whose forward takes one timestep (B, ...) and its states"


def fold(model: nn.Module, traced: Interpretation) -> Graph:
    """Return the graph of the one step that all calls repeat.

    Raises:
        UnsupportedModelError: if steps differ, a module is used twice, or there is not exactly one output.
    """
    if not traced.calls:
        raise UnsupportedModelError(
            "the model calls no spiking neuron of snnTorch or SpikingJelly; add one per Linear"
        )
    step = _single_step(traced)
    modules = dict(model.named_modules())
    _check_used_once(step, traced.multi_step)
    populations, projections = [], []
    for name, signal in step.items():
        layers = tuple(modules[path] for path in signal.layers)
        projection = Projection(
            name="+".join(signal.layers),
            source=signal.source.neuron if isinstance(signal.source, Fired) else INPUT,
            target=name,
            layers=layers,
            source_dropout=signal.source_dropout,
            target_dropout=signal.target_dropout,
        )
        adapter = adapter_of(modules[name])
        assert adapter is not None
        neuron = adapter.make_neuron(name, modules[name], projection.fan_out)
        populations.append(Population(name, projection.fan_out, neuron))
        projections.append(projection)
    output = _output(step, traced)
    reads: Literal["spikes", "potentials"] = "spikes" if _returns_spikes(output, traced) else "potentials"
    return Graph(populations, projections, output, flatten=_is_flat(step), reads=reads)


def _single_step(traced: Interpretation) -> dict[str, Signal]:
    """Return the current of every neuron in one step, after checking that all steps agree."""
    counts = {name: len(calls) for name, calls in traced.calls.items()}
    steps = max(counts.values())
    for calls in traced.calls.values():
        if len(calls) != steps:
            longest = next(other for other, count in counts.items() if count == steps)
            raise UnsupportedModelError(
                f"{calls[-1].place}: steps differ: it is called {len(calls)} times and {longest!r} {steps} "
                f"times. Call each neuron once per step, or {_SINGLE_STEP}"
            )
        for k, call in enumerate(calls):
            if _relative(call.signal, k) != _relative(calls[0].signal, 0):
                raise UnsupportedModelError(
                    f"{call.place}: steps differ, or a module is used twice in one step: call {k} gets "
                    f"{_describe(call.signal)}, call 0 {_describe(calls[0].signal)}. "
                    f"Use one module per place, or {_SINGLE_STEP}"
                )
    return {name: calls[0].signal for name, calls in traced.calls.items()}


def _relative(signal: Signal, step: int) -> Signal:
    """Return a current with its source's step, or the input's index, counted from its own step."""
    source = signal.source
    if isinstance(source, Fired):
        return replace(signal, source=replace(source, step=source.step - step))
    if source.path:
        first, *rest = source.path
        index = first - step if isinstance(first, int) else first
        return replace(signal, source=Argument(source.name, (index, *rest)))
    return signal


def _describe(signal: Signal) -> str:
    source = signal.source
    path = source.path if isinstance(source, Argument) else (f"call {source.step}",)
    name = source.name if isinstance(source, Argument) else source.neuron
    layers = ", ".join(repr(path) for path in signal.layers)
    return f"{name}{''.join(f'[{p}]' for p in path)} through {layers}"


def _check_used_once(step: dict[str, Signal], multi_step: bool) -> None:
    layers = Counter(path for signal in step.values() for path in signal.layers)
    shared = [path for path, count in layers.items() if count > 1]
    masks = Counter(
        id(d.module) for s in step.values() for d in (*s.source_dropout, *s.target_dropout) if d.per_run
    )
    if shared or any(count > 1 for count in masks.values()):
        raise UnsupportedModelError(
            f"{repr(shared[0]) if shared else 'a SpikingJelly Dropout'} is used twice in one step; "
            "use one module per place"
        )
    inputs = {s.source.name: s.source for s in step.values() if isinstance(s.source, Argument)}
    if len(inputs) > 1:
        raise UnsupportedModelError(
            f"forward has several inputs that feed currents: {sorted(inputs)}; pass one input tensor"
        )
    for source in inputs.values():
        if source.path not in (((),) if multi_step else ((), (0,))):
            raise UnsupportedModelError(
                f"step 0 reads {source.name}{list(source.path)}; index the input (T, B, ...) once, "
                "as x[step] from 0 on"
            )


def _is_flat(step: dict[str, Signal]) -> bool:
    flats = {signal.flat for signal in step.values() if isinstance(signal.source, Argument)}
    if 2 in flats:
        raise UnsupportedModelError(
            "the input is flattened from dimension 2, but its features begin at 1; use nn.Flatten()"
        )
    if len(flats) > 1:
        raise UnsupportedModelError("the input is used both flattened and as it is; flatten it once, first")
    return flats == {1}


def _output(step: dict[str, Signal], traced: Interpretation) -> str:
    """Return the one population that feeds no other, whose spikes or potentials forward returns."""
    feeding = {signal.source.neuron for signal in step.values() if isinstance(signal.source, Fired)}
    sinks = [name for name in step if name not in feeding]
    returned = {name for value in traced.returned for name in _names(value, traced)}
    for name in sinks:
        if name not in returned:
            raise UnsupportedModelError(
                f"{traced.calls[name][0].place}: it feeds no other neuron and forward does not return its "
                "spikes or potential; return them or remove it"
            )
    if len(sinks) != 1:
        raise UnsupportedModelError(
            f"the model has {len(sinks)} outputs, {sinks}; make one network per output, "
            "or join them in one Linear"
        )
    return sinks[0]


def _returns_spikes(output: str, traced: Interpretation) -> bool:
    """Whether forward returns spikes of the output, be it beside its potential."""
    parts = [part for value in traced.returned for part in getattr(value, "values", (value,))]
    sources = [part.source for part in parts if isinstance(part, Signal)]
    return any(isinstance(source, Fired) and source.neuron == output for source in sources)


def _names(value: Any, traced: Interpretation) -> list[str]:
    """Return the neurons whose spikes or potentials a returned value holds."""
    if isinstance(value, Recording):
        steps = [step for item in value.values for step in _steps(item)]
        names = {name for item in value.values for name in _names(item, traced)}
        if len(names) != 1 or steps != list(range(len(traced.calls[next(iter(names))]))):
            raise UnsupportedModelError(
                "a stacked output must hold one neuron's spikes, or its potential, of every step in order; "
                f"it holds {len(steps)} of {sorted(names)}"
            )
        return list(names)
    if isinstance(value, Potential):
        return [value.neuron]
    if isinstance(value, Signal) and value.layers:
        raise UnsupportedModelError(
            f"forward returns the current of {value.layers[-1]!r}: no neuron follows it. "
            "Add one; a readout is Leaky(reset_mechanism='none') or a non-spiking node, with run.potentials"
        )
    if isinstance(value, Signal) and isinstance(value.source, Fired):
        return [value.source.neuron]
    if value is None or isinstance(value, Argument | Signal):
        return []
    raise UnsupportedModelError(
        f"forward returns a {type(value).__name__.lower()}; return the output neuron's spikes or potential"
    )


def _steps(value: Any) -> list[int]:
    result = value.source if isinstance(value, Signal) else value
    return [result.step] if isinstance(result, Fired | Potential) else []
