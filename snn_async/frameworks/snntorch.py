"""snnTorch 1.0 neurons as populations: `Leaky`, `Lapicque`, `RLeaky`, and subclasses that keep their rules."""

from collections.abc import Callable
from typing import Any, Literal

import snntorch
import torch
from torch import nn

from snn_async.capture.layers import Form
from snn_async.errors import InputError, UnsupportedModelError
from snn_async.frameworks.libraries import check_sizes, describe, scalar, supported_base
from snn_async.frameworks.refractory_options import options_of
from snn_async.graph.grids import size_of
from snn_async.graph.synapses import Convolution, Dense, OneToOne, Synapses
from snn_async.neurons import Neuron, NeuronParameters, probe_comparison

SUPPORTED = (snntorch.Leaky, snntorch.Lapicque, snntorch.RLeaky)
REASONS = {
    "Synaptic": "it has a synaptic current as a second state",
    "Alpha": "it has excitatory and inhibitory currents as further states",
    "RSynaptic": "it feeds its spikes back to itself and has a second state",
    "SLSTM": "it is an LSTM, with a second state and gates",
    "SConv2dLSTM": "it is a convolutional LSTM, with a second state and gates",
    "DeltaLeaky": "it fires on changes of its potential",
    "StateLeaky": "it runs all timesteps at once and never resets",
    "LinearLeaky": "it runs all timesteps at once, never resets, and holds a Linear of its own",
    "AssociativeLeaky": "its state is a matrix that decays as its input says",
    "LeakyParallel": "it is a recurrent network over all timesteps at once",
    "GradedSpikes": "it makes spikes that are not 0 or 1; scale the next layer's weight instead",
}
BASES = {
    "SpikingNeuron": "a base class, without dynamics of its own",
    "LIF": "a base class, without dynamics of its own",
}
_RESETS: dict[str, Literal["subtract", "value", "none"]] = {
    "_base_sub": "subtract",
    "_base_zero": "value",
    "_base_int": "none",
}
_RESET_NAMES = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}


def is_neuron(module: nn.Module) -> bool:
    """Return whether a module of this library is a neuron rather than some other layer."""
    return isinstance(module, snntorch.SpikingNeuron) or type(module).__name__ in REASONS


def is_container(module: nn.Module) -> bool:
    """Return whether a module of this library only applies its children one after another."""
    return False


def is_recurrent(module: nn.Module) -> bool:
    """Return whether a container feeds its last output back to its module."""
    return False


def layer_base(module: nn.Module) -> type | None:
    """Return the class of this library that a layer without neurons derives from: there is none."""
    return None


def layer_refusal(module: nn.Module) -> str | None:
    """Return why a layer without neurons cannot be one of a graph, None if that is not known beforehand."""
    return None


def read_layer(name: str, place: str, module: nn.Module) -> None:
    """Return a layer that only this library has: there is none."""
    return None


def is_run_dropout(module: nn.Module) -> bool:
    """Return whether a module drops the same values in all timesteps of a run."""
    return False


def flatten_start(module: nn.Module) -> int | None:
    """Return the first dimension that a Flatten of this library flattens, None for other modules."""
    return None


def step_mode(module: nn.Module) -> str:
    """Return "s": snnTorch neurons take one timestep per call."""
    return "s"


def state_names(module: nn.Module) -> tuple[str, ...]:
    """Return the states that a call takes, in order."""
    return ("spk", "mem") if isinstance(module, snntorch.RLeaky) else ("mem",)


def recurrent_synapses(path: str, module: Any, form: Form) -> Synapses | None:
    """Return the synapses by which last timestep's spikes of a neuron reach its own layer, None if it has none.

    Args:
        form: of the layer.

    Raises:
        InputError: if the layer has another size than they take.
        UnsupportedModelError: for weights V of another shape.
    """
    if not isinstance(module, snntorch.RLeaky):
        return None
    grid, layer = form.grid, module.recurrent
    size = size_of(grid)
    if isinstance(layer, nn.Linear):
        fits, takes = grid == (layer.in_features, 1, 1), f"{layer.in_features} features"
        synapses: Synapses = Dense((layer,), grid)
    elif isinstance(layer, nn.Conv2d):
        fits, takes = grid[0] == layer.in_channels, f"{layer.in_channels} channels"
        synapses = Convolution(layer, grid)
        fits = fits and synapses.target == grid
    else:
        check_sizes(path, module, form.shape, V=layer.V)
        values = layer.V.numel()
        fits, takes = values in (1, size), f"V for {values} neurons"
        synapses = OneToOne(grid, owner=layer, parameter="V", per_unit=values > 1)
    if not fits:
        shape = "x".join(map(str, grid if grid[1:] != (1, 1) else grid[:1]))
        raise InputError(
            f"{describe(path, module)}: the recurrent layer takes {takes}, but its neurons are {shape}; "
            "give RLeaky the shape of its input"
        )
    return synapses


def returns(module: nn.Module) -> Literal["spikes", "both", "potentials"]:
    """Return what a call gives: spikes, or (spikes, potential)."""
    return "both" if module.output or not module.init_hidden else "spikes"


def check_class(path: str, module: nn.Module) -> type:
    """Return the supported class that `module` is or derives from, or raise UnsupportedModelError."""
    return supported_base(path, module, SUPPORTED, REASONS)


def make_neuron(path: str, module: nn.Module, shape: tuple[int, ...] | None) -> Neuron:
    """Return the neuron model of `module`, a population of neurons of `shape` (None if that is not known yet).

    Raises:
        UnsupportedModelError: for a class or parameter that cannot be mapped exactly.
    """
    base = check_class(path, module)
    where = describe(path, module)
    reset = _RESETS[_state_function(where, module, base)]
    _check_options(where, module)
    delayed = base is snntorch.Lapicque or bool(module.reset_delay)
    read = _read_lapicque if base is snntorch.Lapicque else _read_leaky
    if base is snntorch.Lapicque:
        _check_lapicque(where, module)
        check_sizes(path, module, shape, R=module.R, C=module.C, threshold=module.threshold)
    else:
        check_sizes(path, module, shape, beta=module.beta, threshold=module.threshold)
    lowest = float(scalar(module.threshold).detach().min())
    if reset == "value" and not delayed and lowest < 0:
        raise UnsupportedModelError(
            f"{where}: threshold {lowest} < 0 with reset_mechanism='zero' and reset_delay=False lets "
            "snnTorch double the potential after a reset; use a threshold of at least 0 or reset_delay=True"
        )
    surrogate: Callable[[torch.Tensor], torch.Tensor] = module.spike_grad  # type: ignore[assignment]
    return Neuron(
        module=module,
        read=read,
        surrogate=surrogate,
        inclusive=probe_comparison(surrogate, where),
        reset=reset,
        delayed_reset=delayed and reset != "none",
        swallow_input=delayed and base is not snntorch.Leaky and reset == "value",
        retest_residual=reset != "none" and not delayed,
        **options_of(module),
    )


def _state_function(where: str, module: nn.Module, base: type) -> str:
    function: Any = module.state_function
    name = getattr(function, "__name__", "")
    if getattr(function, "__self__", None) is not module or name not in _RESETS:
        raise UnsupportedModelError(
            f"{where}: its state_function was replaced, so its dynamics are unknown; "
            f"use {base.__name__} as it is"
        )
    now = list(snntorch.SpikingNeuron.reset_dict)[int(module.reset_mechanism_val)]
    if now != _RESET_NAMES[name]:
        raise UnsupportedModelError(
            f"{where}: reset_mechanism became {now!r} after construction, but snnTorch goes on with "
            f"{_RESET_NAMES[name]!r}; construct the neuron with reset_mechanism={now!r}"
        )
    return name


def _check_options(where: str, module: nn.Module) -> None:
    if module.inhibition:
        raise UnsupportedModelError(
            f"{where}: inhibition=True compares all neurons of the layer at once, a barrier; "
            "use inhibition=False"
        )
    if module.state_quant:
        raise UnsupportedModelError(f"{where}: state_quant is not supported; use state_quant=False")
    factor: Any = module.graded_spikes_factor
    if isinstance(factor, nn.Parameter) or bool((factor != 1).any()):
        raise UnsupportedModelError(
            f"{where}: graded_spikes_factor={factor.tolist()} makes spikes that are not 0 or 1; use 1.0, not "
            "learnable, and scale the next Linear's weight instead"
        )


def _check_lapicque(where: str, module: nn.Module) -> None:
    if isinstance(module.beta, nn.Parameter):
        raise UnsupportedModelError(
            f"{where}: learn_beta=True has no effect in snnTorch, which computes R and C from beta once; "
            "use learn_beta=False, or Leaky to learn beta"
        )


def _read_leaky(module: nn.Module) -> NeuronParameters:
    return NeuronParameters(
        leak=scalar(module.beta).clamp(0, 1),
        gain=scalar(1.0),
        offset=scalar(0.0),
        threshold=scalar(module.threshold),
    )


def _read_lapicque(module: nn.Module) -> NeuronParameters:
    rate = scalar(module.time_step) / scalar(module.C)
    return NeuronParameters(
        leak=1 - rate / scalar(module.R),
        gain=rate,
        offset=torch.zeros_like(rate),
        threshold=scalar(module.threshold),
    )
