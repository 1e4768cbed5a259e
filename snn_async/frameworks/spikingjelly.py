"""SpikingJelly 2.0: IF, LIF, PLIF and the non-spiking IF and LIF as populations, its layers and containers."""

from typing import Any, Literal

import torch
from spikingjelly.activation_based import base, layer, neuron
from torch import Tensor, nn

from snn_async.capture.layers import Form, Operation
from snn_async.capture.opaque import OpaqueLayer
from snn_async.capture.pooling import VotingLayer
from snn_async.errors import UnsupportedModelError
from snn_async.frameworks.libraries import check_sizes, describe, scalar, supported_base
from snn_async.frameworks.refractory_options import options_of
from snn_async.neurons import Neuron, NeuronParameters, probe_comparison

SPIKING = (neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode)
READOUTS = (neuron.NonSpikingIFNode, neuron.NonSpikingLIFNode)
SUPPORTED = SPIKING + READOUTS
CONTAINERS = (layer.MultiStepContainer, layer.SeqToANNContainer, layer.StepModeContainer)
RECURRENT = (layer.ElementWiseRecurrentContainer, layer.LinearRecurrentContainer)
LAYERS = (
    *(layer.Linear, layer.Conv1d, layer.Conv2d, layer.BatchNorm1d, layer.BatchNorm2d, layer.Upsample),
    *(layer.MaxPool1d, layer.MaxPool2d, layer.AvgPool1d, layer.AvgPool2d),
    *(layer.AdaptiveAvgPool1d, layer.AdaptiveAvgPool2d),
)
_UNREACHED = 1e30  # a readout's threshold; finite, so that 0 * threshold stays 0
_SECOND = "it has a second state beside its potential"
_ALL_STEPS = "it computes all timesteps at once, without a reset"
_GRADED = "its output is not spikes of 0 or 1"
_ONLINE = "it trains online, with a gradient of its own"
_NOISE = "it adds noise to its potential"
_RATE = "it represents spike rates, not spikes in time"
_FEW = "it writes a value as a few spikes with values from a table"
_TOGETHER = "its populations code one value together"
_NONLINEAR = "its potential does not decay linearly, which the engines' leak does"
REASONS = {
    "QIFNode": _NONLINEAR,
    "EIFNode": _NONLINEAR,
    "AdaptBaseNode": _SECOND,
    "IzhikevichNode": _SECOND,
    "CUBALIFNode": _SECOND,
    "ComplementaryLIFNode": _SECOND,
    "RAFNode": _SECOND,
    "KLIFNode": "it rescales and rectifies its potential before firing",
    "LIAFNode": _GRADED,
    "GatedLIFNode": "its gates mix several rules, differently in every timestep",
    "ILIFNode": _GRADED,
    "TernaryIFNode": _GRADED,
    "TernaryLIFNode": _GRADED,
    "STBIFNode": _GRADED,
    "HalfThresholdIFNode": "it is meant for converted networks",
    "ActivationAwareIFNode": "it is meant for converted networks, with offsets per channel",
    "MPBNLIFNode": "it normalizes its potential over the batch, a barrier",
    "OTTTLIFNode": _ONLINE,
    "SLTTLIFNode": _ONLINE,
    "PSN": _ALL_STEPS,
    "MaskedPSN": _ALL_STEPS,
    "SlidingPSN": _ALL_STEPS,
    "DSRIFNode": _RATE,
    "DSRLIFNode": _RATE,
    "FewSpikeNode": _FEW,
    "FlexSN": "its rule is any function, which cannot be read",
    "NoisyBaseNode": _NOISE,
    "NoisyNonSpikingBaseNode": _NOISE,
    "ILCBaseNode": _TOGETHER,
    "SimpleBaseNode": "it is SpikingJelly's teaching version",
    "SimpleIFNode": "it is SpikingJelly's teaching version; use IFNode",
    "SimpleLIFNode": "it is SpikingJelly's teaching version; use LIFNode",
    "HGNode": _FEW,
    "OutlierAwareThresholdNode": _FEW,
    "MPBNBaseNode": "it normalizes its potential over the batch, a barrier",
    "ILCIFNode": _TOGETHER,
    "ILCLIFNode": _TOGETHER,
    "ILCCUBALIFNode": _TOGETHER,
    "NoisyCUBALIFNode": _NOISE,
    "NoisyILCBaseNode": _NOISE,
    "NoisyILCCUBALIFNode": _NOISE,
    "NoisyNonSpikingIFNode": _NOISE,
}
BASES = {
    "BaseNode": "a base class, without dynamics of its own",
    "NonSpikingBaseNode": "a base class, without dynamics of its own",
}


_STATISTICS = "it takes statistics over timesteps, a barrier; use layer.BatchNorm1d or layer.BatchNorm2d"
_HOLDS = "it holds a state of its own over timesteps"
_ATTENTION = "attention multiplies what reaches it, which is not linear: currents of events must add up"
LAYER_REASONS = {
    "_ThresholdDependentBatchNormBase": _STATISTICS,
    "_TemporalEffectiveBatchNormBase": "it scales every timestep differently; use layer.BatchNorm2d",
    "_BatchNormThroughTimeBase": "it has another BatchNorm in every timestep; use layer.BatchNorm2d",
    "NeuNorm": "it keeps a running mean of all channels' spikes, a barrier; use layer.BatchNorm2d",
    "SynapseFilter": _HOLDS,
    "Delay": _HOLDS,
    "Dropout2d": "it drops whole channels; use layer.Dropout",
    "DropConnectLinear": "it draws new weights; use layer.Linear and layer.Dropout",
    "TemporalWiseAttention": _ATTENTION,
    "MultiDimensionalAttention": _ATTENTION,
    "SpikingSelfAttention": _ATTENTION,
    "QKAttention": _ATTENTION,
    "SpikeDrivenSelfAttention": _ATTENTION,
    "SpikeCountToBinary": "it rewrites spike counts over timesteps",
    "TemporalBinSum": "it adds up timesteps",
}


def is_neuron(module: nn.Module) -> bool:
    """Return whether a module of this library is a neuron rather than some other layer."""
    package = "spikingjelly.activation_based.neuron"
    return any(cls.__module__.startswith(package) for cls in type(module).__mro__)


def is_container(module: nn.Module) -> bool:
    """Return whether a module of this library only applies its children one after another."""
    return type(module) in (*CONTAINERS, *RECURRENT)


def is_recurrent(module: nn.Module) -> bool:
    """Return whether a container feeds its last output back to its module."""
    return type(module) in RECURRENT


def container_mode(module: nn.Module) -> Literal["steps", "frames"] | None:
    """Return how a container treats [T, N, ...]: step by step, as T * N frames, or None for [N, ...]."""
    if isinstance(module, (layer.StepModeContainer, *RECURRENT)) and module.step_mode == "s":
        return None
    if is_recurrent(module):
        return "steps"
    stateful = isinstance(module, layer.MultiStepContainer) or getattr(module, "stateful", False)
    return "steps" if stateful else "frames"


def is_run_dropout(module: nn.Module) -> bool:
    """Return whether a module drops the same values in all timesteps of a run."""
    return type(module) is layer.Dropout


def layer_base(module: nn.Module) -> type | None:
    """Return the class of this library that a layer without neurons is or derives from, if it is one that is read."""
    return next((cls for cls in type(module).__mro__ if cls in LAYERS), None)


def layer_refusal(module: nn.Module) -> str | None:
    """Return why a layer without neurons cannot be one of a graph, None if that is not known beforehand."""
    reasons = (LAYER_REASONS.get(cls.__name__) for cls in type(module).__mro__)
    reason = next(filter(None, reasons), None)
    if reason is None and isinstance(module, base.MemoryModule):
        reason = f"{_HOLDS}; rewrite the model without it"
    return reason


def read_layer(name: str, place: str, module: Any) -> Operation | None:
    """Return a layer that only this library has; those it shares with torch are read by their torch class."""
    if isinstance(module, layer.WSConv2d | layer.WSLinear):
        return OpaqueLayer(name, place, module, module.step_mode == "m")
    return VotingLayer(name, place, module.voting_size) if type(module) is layer.VotingLayer else None


def flatten_start(module: Any) -> int | None:
    """Return the first dimension that a Flatten of this library flattens, None for other modules."""
    if type(module) is not layer.Flatten or module.end_dim != -1:
        return None
    return int(module.start_dim) + (module.step_mode == "m")


def step_mode(module: nn.Module) -> str:
    """Return "s" for a neuron that takes [N, ...], "m" for [T, N, ...]."""
    return "m" if isinstance(module, neuron.NonSpikingBaseNode) else getattr(module, "step_mode", "s")


def state_names(module: nn.Module) -> tuple[str, ...]:
    """Return the states that a call takes: none, they are kept."""
    return ()


def recurrent_synapses(path: str, module: nn.Module, form: Form) -> None:
    """Return the synapses by which a neuron reaches its own layer: neurons of this library have none."""
    return None


def returns(module: nn.Module) -> Literal["spikes", "both", "potentials"]:
    """Return what a call gives: spikes, or potentials."""
    return "potentials" if isinstance(module, READOUTS) else "spikes"


def check_class(path: str, module: nn.Module) -> type:
    """Return the supported class that `module` is or derives from, or raise UnsupportedModelError."""
    return supported_base(path, module, SUPPORTED, REASONS)


def make_neuron(path: str, module: nn.Module, shape: tuple[int, ...] | None) -> Neuron:
    """Return the neuron model of `module`, a population of neurons of `shape` (None if that is not known yet).

    Raises:
        UnsupportedModelError: for a class or parameter that cannot be mapped exactly.
    """
    cls = check_class(path, module)
    where = describe(path, module)
    if cls in READOUTS:
        return _readout(where, module)
    if module._neuron_precision is not None:
        raise UnsupportedModelError(
            f"{where}: its neuron precision {module._neuron_precision} is not supported; convert the "
            "whole model's dtype instead"
        )
    start = module.get_reset_value("v")
    if not isinstance(start, int | float):
        raise UnsupportedModelError(f"{where}: its reset value of v is no number ({start!r}); give a float")
    tau = {} if cls is neuron.IFNode else {"w": module.w} if hasattr(module, "w") else {"tau": module.tau}
    hard = module.v_reset is not None
    numbers = tau | ({"v_reset": module.v_reset} if hard else {})
    check_sizes(path, module, shape, v_threshold=module.v_threshold, **numbers)
    surrogate: Any = module.surrogate_function
    return Neuron(
        module=module,
        read=_read,
        surrogate=surrogate,
        inclusive=probe_comparison(surrogate, where),
        reset="value" if hard else "subtract",
        reset_value=float(module.v_reset) if hard else 0.0,
        detach_reset=bool(module.detach_reset),
        rest=float(start),
        **options_of(module),
    )


def _read(module: nn.Module) -> NeuronParameters:
    """h = v - rate (v - v_reset) + x, or rate x with decay_input; the rate of an IFNode is 0."""
    if isinstance(module, neuron.ParametricLIFNode):
        rate = module.w.sigmoid()
    elif isinstance(module, neuron.LIFNode):
        rate = 1 / scalar(module.tau)
    else:
        rate = torch.zeros((), dtype=torch.float64)
    gain = rate if getattr(module, "decay_input", False) else torch.ones_like(rate).detach()
    towards = 0.0 if module.v_reset is None else float(module.v_reset)  # type: ignore[arg-type]
    return NeuronParameters(
        leak=1 - rate, gain=gain, offset=rate * towards, threshold=scalar(module.v_threshold)
    )


def _readout(where: str, module: nn.Module) -> Neuron:
    if module.decode is not None:
        raise UnsupportedModelError(
            f"{where}: decode={module.decode!r} needs all timesteps at once; set decode=None and decode "
            "run.potentials yourself"
        )
    return Neuron(
        module=module, read=_read_readout, surrogate=_silent, inclusive=False, reset="none", spiking=False
    )


def _read_readout(module: nn.Module) -> NeuronParameters:
    rate = scalar(1 / module.tau) if isinstance(module, neuron.NonSpikingLIFNode) else None
    one, zero = scalar(1.0), scalar(0.0)
    return NeuronParameters(
        leak=one if rate is None else 1 - rate,
        gain=one if rate is None else rate,
        offset=zero,
        threshold=scalar(_UNREACHED),
    )


def _silent(u: Tensor) -> Tensor:
    return torch.zeros_like(u)
