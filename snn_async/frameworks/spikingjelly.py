"""SpikingJelly 2.0: its conventions, layers and containers. What its neurons are is in
`snn_async.frameworks.spikingjelly_neurons`.
"""

from spikingjelly.activation_based import neuron
from torch import nn

from snn_async.frameworks import spikingjelly_neurons
from snn_async.frameworks.libraries import check_supported, describe
from snn_async.neurons import Neuron

WITHOUT_SPIKES = (
    *(neuron.NonSpikingIFNode, neuron.NonSpikingLIFNode, neuron.NoisyNonSpikingIFNode, neuron.LIAFNode),
    *(neuron.FewSpikeNode, neuron.HGNode, neuron.OutlierAwareThresholdNode),
)
SUPPORTED = (
    *(neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, neuron.SimpleIFNode, neuron.SimpleLIFNode),
    *(neuron.QIFNode, neuron.EIFNode, neuron.KLIFNode, neuron.RAFNode, neuron.CUBALIFNode),
    *(neuron.IzhikevichNode, neuron.ComplementaryLIFNode, neuron.GatedLIFNode, neuron.NoisyCUBALIFNode),
    *(neuron.HalfThresholdIFNode, neuron.ActivationAwareIFNode, neuron.OTTTLIFNode, neuron.SLTTLIFNode),
    *(neuron.ILIFNode, neuron.TernaryIFNode, neuron.TernaryLIFNode),
    *(neuron.ILCIFNode, neuron.ILCLIFNode, neuron.ILCCUBALIFNode, neuron.NoisyILCCUBALIFNode),
    *(neuron.MPBNLIFNode, neuron.SlidingPSN, neuron.MaskedPSN, neuron.STBIFNode),
    *WITHOUT_SPIKES,
)
_RATE = "its gradient is one of spike rates over all timesteps, not of spikes in time"
REASONS = {
    "PSN": "what it does in a timestep depends on later inputs; use SlidingPSN or MaskedPSN",
    "DSRIFNode": _RATE,
    "DSRLIFNode": _RATE,
    "FlexSN": "its rule is any function, with a surrogate function that cannot be exchanged",
}
_BASE = "a base class, without dynamics of its own"
BASES = {
    "BaseNode": _BASE,
    "SimpleBaseNode": _BASE,
    "AdaptBaseNode": _BASE,
    "NonSpikingBaseNode": _BASE,
    "ILCBaseNode": _BASE,
    "MPBNBaseNode": _BASE,
    "NoisyBaseNode": _BASE,
    "NoisyILCBaseNode": _BASE,
    "NoisyNonSpikingBaseNode": _BASE,
}


def is_neuron(module: nn.Module) -> bool:
    """Return whether a module of this library is a neuron rather than some other layer."""
    package = "spikingjelly.activation_based.neuron"
    return any(cls.__module__.startswith(package) for cls in type(module).__mro__)


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
