"""From the calls of an unrolled forward to one step: every step must be the same."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from snn_async.capture.expressions import (
    Applied,
    Argument,
    Delayed,
    Expression,
    Fired,
    Sum,
    describe_expression,
    parts_of,
    rebuild,
    relative,
)
from snn_async.capture.interpreting import Interpretation
from snn_async.capture.layers import (
    ConvolutionLayer,
    DropoutLayer,
    FlattenLayer,
    LinearLayer,
    NormLayer,
    Operation,
)
from snn_async.capture.opaque import OpaqueLayer
from snn_async.capture.returned import Returned
from snn_async.errors import UnsupportedModelError

_SINGLE_STEP = "pass the single step, a module whose forward takes one timestep (B, ...) and its states"


@dataclass(frozen=True)
class Step:
    """One timestep of a model.

    Attributes:
        modules: the model's, by path.
        currents: of every neuron, by path, in the order of the calls.
        readout: what forward returns without a neuron, None if it returns a neuron's output.
        output: path of the neuron that is the output, None with a readout.
        feedback: neuron whose last spikes each recurrent container passes to its module.
        reads: which of the output neuron's results forward returns.
    """

    modules: dict[str, nn.Module]
    currents: dict[str, Expression]
    readout: Expression | None
    output: str | None
    feedback: dict[str, str]
    reads: Literal["spikes", "potentials"]

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """What neurons and the readout get."""
        return (*self.currents.values(), *([] if self.readout is None else [self.readout]))


def fold(model: nn.Module, traced: Interpretation) -> Step:
    """Return the one step that all calls repeat.

    Raises:
        UnsupportedModelError: if steps differ, a neuron is used twice, or there is not exactly one output.
    """
    if not traced.calls:
        raise UnsupportedModelError(
            "the model calls no spiking neuron of snnTorch or SpikingJelly; add one per layer"
        )
    currents = {name: _distributed(current) for name, current in _single_step(traced).items()}
    returned = [Returned(value, traced) for value in traced.returned]
    unread = {_distributed(r.readout): r for r in returned if r.readout is not None}
    output, readout = _output(currents, returned, list(unread), traced)
    step = Step(
        modules=dict(model.named_modules()),
        currents=currents,
        readout=readout,
        output=output,
        feedback=_feedback(traced),
        reads="spikes" if any(r.spikes == output for r in returned) else "potentials",
    )
    _check(step, traced.multi_step)
    return step


def _single_step(traced: Interpretation) -> dict[str, Expression]:
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
        first = relative(calls[0].current, 0)
        for k, call in enumerate(calls):
            if relative(call.current, k) != first:
                raise UnsupportedModelError(
                    f"{call.place}: steps differ, or a module is used twice in one step: call {k} gets "
                    f"{describe_expression(call.current)}, call 0 {describe_expression(calls[0].current)}. "
                    f"Use one module per place, or {_SINGLE_STEP}"
                )
    return {name: calls[0].current for name, calls in traced.calls.items()}


def _distributed(expression: Expression) -> Expression:
    """Return it with layers applied to each part of a sum that holds feedback, which meets nothing but its neuron."""
    expression = rebuild(expression, _distributed)
    if not isinstance(expression, Applied) or not isinstance(expression.operand, Sum):
        return expression
    layer, inner = expression.operation, expression.operand
    if not any(isinstance(part, Delayed) for part in parts_of(inner)) or isinstance(layer, FlattenLayer):
        return expression
    first, *rest = inner.parts
    parts = (Applied(layer, first), *(Applied(_unbiased(layer), part) for part in rest))
    return replace(inner, parts=tuple(map(_distributed, parts)))


def _unbiased(layer: Operation) -> Operation:
    """Return a layer that brings no bias, because another use of it does."""
    if isinstance(layer, LinearLayer):
        return replace(layer, biased=False)
    biased = isinstance(layer, ConvolutionLayer) and layer.module.bias is not None
    if biased or isinstance(layer, NormLayer | OpaqueLayer):
        raise UnsupportedModelError(
            f"{layer.place}: it adds a bias to a recurrent container's input and feedback together; use bias=False, "
            "or put the layer outside of the container"
        )
    return layer


def _feedback(traced: Interpretation) -> dict[str, str]:
    neurons = {}
    for container, output in traced.feedback.items():
        if not isinstance(output, Fired):
            raise UnsupportedModelError(
                f"the recurrent container {container!r} does not end in a neuron, but feeds back "
                f"{describe_expression(output)}; let its sub_module end in a spiking neuron"
            )
        neurons[container] = output.neuron
    return neurons


def _check(step: Step, multi_step: bool) -> None:
    parts = list(parts_of(*step.expressions))
    masks = Counter(
        id(part.operation.dropout.module)
        for part in parts
        if isinstance(part, Applied)
        and isinstance(part.operation, DropoutLayer)
        and part.operation.dropout.per_run
    )
    if any(count > 1 for count in masks.values()):
        raise UnsupportedModelError(
            "a SpikingJelly Dropout is used twice in one step; use one module per place"
        )
    inputs = {part.name: part for part in parts if isinstance(part, Argument)}
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
    for part in parts:
        if isinstance(part, Applied) and isinstance(part.operation, FlattenLayer) and part.operation.timed:
            raise UnsupportedModelError(
                f"{part.operation.place}: the input is flattened from dimension 2, but its features begin at 1; use "
                "nn.Flatten()"
            )


def _output(
    currents: dict[str, Expression],
    returned: list[Returned],
    readouts: list[Expression],
    traced: Interpretation,
) -> tuple[str | None, Expression | None]:
    """Return the one neuron that feeds no other, or the one readout, that forward returns."""
    parts = parts_of(*currents.values(), *readouts)
    feeding = {part.neuron for part in parts if isinstance(part, Fired)}
    sinks = [name for name in currents if name not in feeding]
    names = {r.neuron for r in returned}
    for name in sinks:
        if name not in names:
            raise UnsupportedModelError(
                f"{traced.calls[name][0].place}: it feeds no other neuron and forward does not return its "
                "spikes or potential; return them or remove it"
            )
    if len(sinks) + len(readouts) != 1:
        found = [*sinks, *map(describe_expression, readouts)]
        raise UnsupportedModelError(
            f"the model has {len(found)} outputs, {found}; make one network per output, or join them in one Linear"
        )
    return (sinks[0], None) if sinks else (None, readouts[0])
