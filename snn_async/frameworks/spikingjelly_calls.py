"""What the forward of SpikingJelly's neurons does around their dynamics: states kept, records, traces, decoding."""

import copy
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_async.errors import InputError, UnsupportedModelError
from snn_async.frameworks import spikingjelly_neurons
from snn_async.frameworks.calls import Emit
from snn_async.frameworks.libraries import describe, potential_first, rules_of
from snn_async.neurons.own_step import States, spread, twin

ONLINE = spikingjelly_neurons.ONLINE  # which detach their states in training
SINGLE_STEP = (*ONLINE, neuron.LIAFNode)


def caller(module: Any) -> Callable[..., Any]:
    """Return a function of `emit` and a call's argument that does what a call does, with the dynamics of `emit`.

    It returns what a call of the module, as it is now, returns, and keeps what it keeps.
    """
    if isinstance(module, neuron.FewSpikeNode):
        run: Callable[[Any, Emit, Tensor], Any] = _function
    elif isinstance(module, spikingjelly_neurons.NON_SPIKING):
        run = _readout
    elif isinstance(module, spikingjelly_neurons.IN_SEQUENCE):
        run = _in_sequence
    elif isinstance(module, spikingjelly_neurons.PARALLEL):
        run = _parallel
    else:
        run = functools.partial(_with_memories, _order(module))

    def call(emit: Emit, *args: Any, **kwargs: Any) -> Any:
        (x,) = (*args, *kwargs.values())
        return run(module, emit, x)

    return call


def state_attributes(module: Any) -> tuple[str, ...]:
    """Return the attributes in which a module keeps states and records between calls."""
    if isinstance(module, spikingjelly_neurons.NON_SPIKING):
        return ("v", "noise_step")
    if isinstance(module, spikingjelly_neurons.IN_SEQUENCE):
        return (*_initialized(twin(module), torch.zeros(1)), "noise_step")
    return (*vars(module).get("_memories", ()), "v_seq", "state_seqs")


def alone(modules: object) -> AbstractContextManager[None]:
    """Return a context for a model's modules; SpikingJelly knows of no modules but those that it is given."""
    return nullcontext()


def rest(module: Any) -> None:
    """Let a module begin from rest, without touching the tensors that it holds."""
    if "_memories_rv" in vars(module):
        module._memories.update(copy.deepcopy(module._memories_rv))
    for name in ("v_seq", "state_seqs"):
        if name in vars(module):
            setattr(module, name, None)


def _function(module: Any, emit: Emit, x: Tensor) -> Tensor:
    """Return what a class without a state sends; it is no population, what it does with all of its current waits."""
    if module.step_mode == "m":
        raise UnsupportedModelError(
            f"{describe('', module)}: in step_mode='m' it sends nothing before it has all timesteps; use 's'"
        )
    sent: Tensor = Settled.apply(type(module).forward, module, x)
    return sent


def _same(module: Any, x: Tensor) -> Tensor:
    return x.clone()


class Settled(torch.autograd.Function):
    """A function without parameters as one operator: a capture takes it for one that waits, whatever is in it."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Any, Tensor], Tensor], module: Any, x: Tensor) -> Tensor:
        ctx.function = functools.partial(function, module)
        ctx.save_for_backward(x)
        return function(module, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return None, None, torch.autograd.grad(ctx.function(x), x, gradient)[0]


# -- with registered memories --------------------------------------------------------------------------


def _with_memories(names: tuple[str, ...], module: Any, emit: Emit, x: Tensor) -> Any:
    sequence, memories = module.step_mode == "m", module._memories
    if isinstance(module, neuron.GatedLIFNode):
        x = _timesteps(module, x)
    states = _held(module, names, x[0] if sequence else x)
    if isinstance(module, SINGLE_STEP) and sequence:
        raise UnsupportedModelError(
            f"{describe('', module)}: made for step_mode='s', in 'm' SpikingJelly 2.0 runs another rule; use 's', "
            "within a layer.MultiStepContainer"
        )
    if isinstance(module, ONLINE) and module.training:
        states = tuple(state.detach() for state in states)
    spikes, after = emit(x, states, sequence, len(names))
    memories.update(zip(names, (value[-1] if sequence else value for value in after), strict=True))
    _record(module, after, sequence)
    if isinstance(module, neuron.GatedLIFNode):
        memories["u"] = memories["v"]
    if isinstance(module, neuron.LIAFNode):  # which sends its potential
        h = Settled.apply(_same, module, spikes)
        return module.act(h - module.v_threshold if module.threshold_related else h)
    if not (module.training and isinstance(module, neuron.OTTTLIFNode)):
        return spikes
    trace = torch.zeros_like(spikes) if memories["trace"] is None else memories["trace"]
    memories["trace"] = module.track_trace(spikes, trace, module.tau)
    return [spikes, memories["trace"]]


def _order(module: Any) -> tuple[str, ...]:
    """Return the names of those states of a module's neuron model that it keeps, in order."""
    if rules_of(module, (*spikingjelly_neurons.WRITTEN_OUT, neuron.GatedLIFNode)) is not None:
        return ("v",)
    return potential_first(list(vars(module).get("_memories", ())))


def _held(module: Any, names: tuple[str, ...], like: Tensor) -> States:
    """Return the states that a module goes on with, () from rest."""
    values = dict(module._memories)
    other = [name for name in names if isinstance(values[name], Tensor) and values[name].shape != like.shape]
    if other:  # of another batch size, say, which is for the class to say
        own = module.materialize_states((like,), tuple(values.values()), "s")
        for name, value in zip(values, own, strict=True):
            if name in other and value is not values[name]:
                values[name] = module._memories_rv[name]
    if not any(isinstance(values[n], Tensor) or values[n] != module._memories_rv[n] for n in names):
        return ()
    return tuple(_as(values[name], like) for name in names)


def _as(state: Any, like: Tensor) -> Tensor:
    same = isinstance(state, Tensor) and state.shape == like.shape and state.dtype == like.dtype
    return state if same else spread(state, like)


def _record(module: Any, after: States, sequence: bool) -> None:
    if isinstance(module, neuron.ComplementaryLIFNode):
        if sequence and module.store_state_seqs:
            module.state_seqs = list(after)
    elif getattr(module, "store_v_seq", False):
        if sequence:
            module.v_seq = after[0]
        elif isinstance(module, neuron.BaseNode):
            module._append_v_seq(module.v)


def _parallel(module: Any, emit: Emit, x: Tensor) -> Tensor:
    """In single-step mode its queue holds the states of its neuron model, which are its last inputs and two more."""
    if module.step_mode == "m":
        if isinstance(module, neuron.MaskedPSN):
            x = _timesteps(module, x, exactly=True)
        return emit(x, (), True, 0)[0]
    reach = module.k
    if isinstance(module, neuron.MaskedPSN):
        if module.time_step >= module.T:
            raise InputError(f"{describe('', module)}: it has run its T={module.T} timesteps; reset it")
        reach, module.time_step = min(module.k, module.T), module.time_step + 1
    spikes, after = emit(x, tuple(module.queue), False, reach + 1)
    module.queue = list(after)
    return spikes


# -- with all timesteps from rest ----------------------------------------------------------------------


def _in_sequence(module: Any, emit: Emit, x: Tensor) -> Tensor:
    names = potential_first(_initialized(module, x[0]))
    if isinstance(module, neuron.NoisyBaseNode):
        x = _timesteps(module, x)
    spikes, after = emit(x, (), True, len(names))
    for name, value in zip(names, after, strict=True):
        setattr(module, name, value[-1])
    return spikes


def _initialized(module: Any, like: Tensor) -> list[str]:
    """Let a module begin and return the attributes that it sets then: its states."""
    before = dict(vars(module))
    module.init_tensor(like)
    return [name for name, value in vars(module).items() if value is not before.get(name)]


def _readout(module: Any, emit: Emit, x: Tensor) -> Any:
    """Decode by the class's own forward, of potentials in the place of currents."""
    if isinstance(module, neuron.NoisyNonSpikingBaseNode):
        x = _timesteps(module, x)
    _, (potentials,) = emit(x, (), True, 1)
    own: Any = twin(module)
    own.is_training = False  # whose noise the dynamics have
    own.neuronal_charge = functools.partial(setattr, own, "v")
    decoded = type(module).forward(own, potentials)
    module.v = potentials[-1]
    return decoded


def _timesteps(module: Any, x: Tensor, exactly: bool = False) -> Tensor:
    """Return the first T timesteps, which is what a class made for T timesteps takes."""
    if len(x) < module.T or (exactly and len(x) > module.T):
        raise InputError(
            f"{describe('', module)}: made for T={module.T} timesteps, but its input has {len(x)}; give {module.T}"
        )
    return x if len(x) == module.T else x[: module.T]
