"""SpikingJelly 2.0: its conventions, layers and containers. What its neurons are is in
`snn_async.frameworks.spikingjelly_neurons`.
"""

from typing import Any, Literal

from spikingjelly.activation_based import base, layer, neuron
from torch import nn

from snn_async.capture.layers import Form, Operation
from snn_async.capture.opaque import OpaqueLayer
from snn_async.capture.pooling import VotingLayer
from snn_async.frameworks import spikingjelly_neurons
from snn_async.frameworks.libraries import check_supported, describe
from snn_async.neurons import Neuron

SUPPORTED = (
    *(neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, neuron.SimpleIFNode, neuron.SimpleLIFNode),
    *(neuron.QIFNode, neuron.EIFNode, neuron.KLIFNode, neuron.RAFNode, neuron.CUBALIFNode),
    *(neuron.IzhikevichNode, neuron.ComplementaryLIFNode, neuron.GatedLIFNode, neuron.NoisyCUBALIFNode),
    *(neuron.HalfThresholdIFNode, neuron.ActivationAwareIFNode, neuron.OTTTLIFNode, neuron.SLTTLIFNode),
    *(neuron.ILIFNode, neuron.TernaryIFNode, neuron.TernaryLIFNode),
    *(neuron.NonSpikingIFNode, neuron.NonSpikingLIFNode, neuron.NoisyNonSpikingIFNode),
)
CONTAINERS = (
    *(layer.MultiStepContainer, layer.SeqToANNContainer, layer.StepModeContainer),
    layer.OTTTSequential,
)
RECURRENT = (layer.ElementWiseRecurrentContainer, layer.LinearRecurrentContainer)
LAYERS = (
    *(layer.Linear, layer.Conv1d, layer.Conv2d, layer.BatchNorm1d, layer.BatchNorm2d, layer.Upsample),
    *(layer.MaxPool1d, layer.MaxPool2d, layer.AvgPool1d, layer.AvgPool2d),
    *(layer.AdaptiveAvgPool1d, layer.AdaptiveAvgPool2d),
)
_ALL_STEPS = "it computes all timesteps at once"
_RATE = "it represents spike rates, over all timesteps at once, with a gradient of its own"
_FEW = "it writes a value as a few spikes with values from a table, not as spikes in time"
_TOGETHER = "its neurons reach each other within a layer, all at once after every timestep, a barrier"
_BATCH = "it normalizes its potential over the batch, a barrier"
REASONS = {
    "PSN": _ALL_STEPS,
    "MaskedPSN": _ALL_STEPS,
    "SlidingPSN": _ALL_STEPS,
    "DSRIFNode": _RATE,
    "DSRLIFNode": _RATE,
    "FewSpikeNode": _FEW,
    "HGNode": _FEW,
    "OutlierAwareThresholdNode": _FEW,
    "ILCBaseNode": _TOGETHER,
    "ILCIFNode": _TOGETHER,
    "ILCLIFNode": _TOGETHER,
    "ILCCUBALIFNode": _TOGETHER,
    "NoisyILCBaseNode": _TOGETHER,
    "NoisyILCCUBALIFNode": _TOGETHER,
    "MPBNBaseNode": _BATCH,
    "MPBNLIFNode": _BATCH,
    "LIAFNode": "its output is analog, a function of its final potential, so it would have to wait for it",
    "STBIFNode": "whether it may send depends on how much it has sent, which no threshold says",
    "FlexSN": "its rule is any function, with a surrogate function that cannot be exchanged",
}
_BASE = "a base class, without dynamics of its own"
BASES = {
    "BaseNode": _BASE,
    "SimpleBaseNode": _BASE,
    "AdaptBaseNode": _BASE,
    "NonSpikingBaseNode": _BASE,
    "NoisyBaseNode": _BASE,
    "NoisyNonSpikingBaseNode": _BASE,
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
    if isinstance(module, layer.OTTTSequential):
        return None
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
    return "m" if isinstance(module, base.MultiStepModule) else getattr(module, "step_mode", "s")


def state_names(module: nn.Module) -> tuple[str, ...]:
    """Return the states that a call takes: none, they are kept."""
    return ()


def potential_name(module: nn.Module) -> str:
    """Return which of the states that a call takes is the membrane potential: none."""
    return ""


def recurrent_synapses(path: str, module: nn.Module, form: Form) -> None:
    """Return the synapses by which a neuron reaches its own layer: neurons of this library have none."""
    return None


def layers_before(path: str, place: str, module: nn.Module) -> tuple[Operation, ...]:
    """Return the layers that a neuron module applies to its input itself: none."""
    return ()


def layers_after(path: str, place: str, module: nn.Module) -> tuple[Operation, ...]:
    """Return the layers that a neuron module applies to its spikes itself: none."""
    return ()


def returns(module: nn.Module) -> Literal["spikes", "both", "potentials"]:
    """Return what a call gives: spikes, or potentials."""
    return "potentials" if isinstance(module, spikingjelly_neurons.NON_SPIKING) else "spikes"


def check_class(path: str, module: nn.Module) -> type:
    """Return the class of `module`, or raise UnsupportedModelError if it is refused."""
    return check_supported(path, module, REASONS, BASES)


def make_neuron(path: str, module: nn.Module, shape: tuple[int, ...] | None) -> Neuron:
    """Return the neuron model of `module`, a population of neurons of `shape` (None if that is not known yet).

    Raises:
        UnsupportedModelError: for a class or parameter that cannot be mapped exactly.
    """
    check_class(path, module)
    return spikingjelly_neurons.make(describe(path, module), path, module, shape)
