"""What the forward of snnTorch's neurons does around their dynamics: states in and out, feedback, factors on spikes."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.frameworks import snntorch_neurons
from snn_async.frameworks.calls import Emit
from snn_async.frameworks.libraries import describe, potential_first
from snn_async.neurons.own_step import States, twin

Grade = Callable[[Tensor], Tensor]  # applies the factor on spikes


def caller(module: Any) -> Callable[..., Any]:
    """Return a function of `emit` and a call's arguments that does what a call does, with the dynamics of `emit`.

    It returns what that returns, and keeps what it keeps, for as long as its factor on spikes is not changed from 1.
    """
    if isinstance(module, snntorch.DeltaLeaky):
        return functools.partial(_delta, module)
    if isinstance(module, snntorch.StateLeaky):
        run: Callable[..., Any] = _all_steps
    elif snntorch_neurons.state_names(module):
        run = _with_states
    else:
        run = functools.partial(_with_attributes, functools.cache(functools.partial(_changed_by, module)))
    graded = snntorch_neurons.grades(module)
    return functools.partial(run, module, lambda s: s * module.graded_spikes_factor if graded else s)


def state_attributes(module: Any) -> tuple[str, ...]:
    """Return the attributes in which a module keeps states and records between calls."""
    names = snntorch_neurons.state_names(module)
    own = () if names else tuple(k for k, v in vars(module).items() if v is None or isinstance(v, Tensor))
    return tuple(dict.fromkeys((*names, *own, "mem", "mem_prev", "spk", "reset")))


@contextmanager
def alone(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let `snntorch.utils.reset`, which resets every neuron of the process, see no other neurons than `modules`."""
    everyone = snntorch.SpikingNeuron.instances
    snntorch.SpikingNeuron.instances = [m for m in modules if isinstance(m, snntorch.SpikingNeuron)]
    try:
        yield
    finally:
        snntorch.SpikingNeuron.instances = everyone


def rest(module: Any) -> None:
    """Let a module begin from rest, without touching the tensors that it holds."""
    if isinstance(module, snntorch.DeltaLeaky):
        module.mem = module.mem_prev = None
        return
    for name in snntorch_neurons.state_names(module):
        if module._buffers.get(name) is not None:
            module._buffers[name] = module._buffers[name].new_zeros(0)


def _with_states(module: Any, grade: Grade, emit: Emit, *args: Any, **kwargs: Any) -> Any:
    names = snntorch_neurons.state_names(module)
    bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
    x = bound.args[1]
    given = {name: bound.arguments[name] for name in names if bound.arguments.get(name) is not None}
    if module.init_hidden and given:
        raise TypeError(f"{', '.join(given)} should not be passed as an argument while init_hidden=True")
    held = {name: _held(module, name, given.get(name), x) for name in names}
    current = x
    if hasattr(module, "recurrent"):
        current = x + module.recurrent(torch.zeros_like(x) if held["spk"] is None else held["spk"])
    order = potential_first([name for name in names if name != "spk"], -1)
    going_on = [held[name] for name in order]
    before: States = ()
    if any(state is not None for state in going_on):
        before = tuple(torch.zeros_like(x) if state is None else _as(state, x) for state in going_on)
    spikes, states = emit(current, before, False, len(order))
    spikes = grade(spikes)
    after = dict(zip(order, states, strict=True)) | {"spk": spikes}
    for name in names:
        if name in module._buffers:
            setattr(module, name, after[name])
    shown = tuple(after[name] for name in names if name != "spk")
    return (spikes, *shown) if module.output or not module.init_hidden else spikes


def _held(module: Any, name: str, given: Tensor | None, x: Tensor) -> Tensor | None:
    """Return a state that a call begins with, None for rest (in snnTorch, one of another shape than `x`)."""
    if name in module._buffers:
        state: Tensor = module._buffers[name] if given is None else given
        return state if state.shape == x.shape else None
    if given is None and isinstance(getattr(module, name, None), Tensor):
        raise UnsupportedModelError(
            f"{describe('', module)}: called without {name}, and whether it goes on with the one that it holds is not "
            f"known; give {name} in the call"
        )
    return given


def _as(state: Tensor, x: Tensor) -> Tensor:
    return state if state.shape == x.shape else state.expand(x.shape)


def _with_attributes(
    changed: Callable[[tuple[int, ...]], tuple[str, ...]], module: Any, grade: Grade, emit: Emit, x: Tensor
) -> Tensor:
    names = changed(tuple(x.shape[1:]))
    held = [getattr(module, name) for name in names]
    kept = all(isinstance(value, Tensor) and value.shape == x.shape for value in held)
    spikes, after = emit(x, tuple(held) if kept else (), False, len(names))
    for name, value in zip(names, after, strict=True):
        setattr(module, name, value)
    return grade(spikes)


def _changed_by(module: Any, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the attributes that a class keeps its states in, in the order of its neuron model's."""
    own = twin(module)
    vars(own).pop("forward", None)  # that of `replaced`
    return potential_first(snntorch_neurons._changed_by(describe("", module), own, shape), -1)


def _delta(module: Any, emit: Emit, input_: Tensor, mem: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Its spikes have no factor. The second of its states is last timestep's potential."""
    if mem is None and not module.init_hidden:
        raise TypeError("`mem` must be provided when init_hidden=False")
    v = module.mem if module.init_hidden else mem[0]
    spikes, (after,) = emit(input_, () if v is None else (_as(v, input_),), False, 1)
    module.mem, module.mem_prev = after, torch.zeros_like(input_) if v is None else v
    return spikes, (module.mem, module.mem_prev)


def _all_steps(module: Any, grade: Grade, emit: Emit, input_: Tensor) -> Any:
    if isinstance(module, snntorch.LinearLeaky):
        frames = module.linear(input_.reshape(-1, module.linear.in_features))
        input_ = frames.reshape(*input_.shape[:2], module.linear.out_features)
    spikes, (mem,) = emit(input_, (), True, 1)
    if isinstance(module, snntorch.LinearLeaky):
        module.mem = mem
    if not module.output:
        return mem
    module.spk = grade(grade(spikes))  # `fire` does it, and `forward` once more
    return module.spk, mem
