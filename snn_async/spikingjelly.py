"""Drop-in SpikingJelly neurons with the asynchronous options of a neuron: every supported class.

Everywhere else they are SpikingJelly's own: same constructor, state_dict and outputs. Each also takes the keyword-only
options `refractory` and `refractory_dropout` of `RefractoryOptions`.
"""

from spikingjelly.activation_based import neuron

from snn_async.frameworks.refractory_options import RefractoryOptions, WithoutSpikes

__all__ = [
    "ActivationAwareIFNode",
    "CUBALIFNode",
    "ComplementaryLIFNode",
    "EIFNode",
    "GatedLIFNode",
    "HalfThresholdIFNode",
    "IFNode",
    "ILCCUBALIFNode",
    "ILCIFNode",
    "ILCLIFNode",
    "ILIFNode",
    "IzhikevichNode",
    "KLIFNode",
    "LIFNode",
    "MPBNLIFNode",
    "MaskedPSN",
    "NoisyCUBALIFNode",
    "NoisyILCCUBALIFNode",
    "NoisyNonSpikingIFNode",
    "NonSpikingIFNode",
    "NonSpikingLIFNode",
    "OTTTLIFNode",
    "ParametricLIFNode",
    "QIFNode",
    "RAFNode",
    "SLTTLIFNode",
    "SimpleIFNode",
    "SimpleLIFNode",
    "SlidingPSN",
    "TernaryIFNode",
    "TernaryLIFNode",
]


class IFNode(RefractoryOptions, neuron.IFNode):
    """SpikingJelly's `IFNode` with `RefractoryOptions`."""


class LIFNode(RefractoryOptions, neuron.LIFNode):
    """SpikingJelly's `LIFNode` with `RefractoryOptions`."""


class ParametricLIFNode(RefractoryOptions, neuron.ParametricLIFNode):
    """SpikingJelly's `ParametricLIFNode` with `RefractoryOptions`."""


class SimpleIFNode(RefractoryOptions, neuron.SimpleIFNode):
    """SpikingJelly's `SimpleIFNode` with `RefractoryOptions`."""


class SimpleLIFNode(RefractoryOptions, neuron.SimpleLIFNode):
    """SpikingJelly's `SimpleLIFNode` with `RefractoryOptions`."""


class QIFNode(RefractoryOptions, neuron.QIFNode):
    """SpikingJelly's `QIFNode` with `RefractoryOptions`."""


class EIFNode(RefractoryOptions, neuron.EIFNode):
    """SpikingJelly's `EIFNode` with `RefractoryOptions`."""


class KLIFNode(RefractoryOptions, neuron.KLIFNode):
    """SpikingJelly's `KLIFNode` with `RefractoryOptions`."""


class RAFNode(RefractoryOptions, neuron.RAFNode):
    """SpikingJelly's `RAFNode` with `RefractoryOptions`."""


class CUBALIFNode(RefractoryOptions, neuron.CUBALIFNode):
    """SpikingJelly's `CUBALIFNode` with `RefractoryOptions`."""


class IzhikevichNode(RefractoryOptions, neuron.IzhikevichNode):
    """SpikingJelly's `IzhikevichNode` with `RefractoryOptions`."""


class ComplementaryLIFNode(RefractoryOptions, neuron.ComplementaryLIFNode):
    """SpikingJelly's `ComplementaryLIFNode` with `RefractoryOptions`."""


class GatedLIFNode(RefractoryOptions, neuron.GatedLIFNode):
    """SpikingJelly's `GatedLIFNode` with `RefractoryOptions`."""


class NoisyCUBALIFNode(RefractoryOptions, neuron.NoisyCUBALIFNode):
    """SpikingJelly's `NoisyCUBALIFNode` with `RefractoryOptions`."""


class HalfThresholdIFNode(RefractoryOptions, neuron.HalfThresholdIFNode):
    """SpikingJelly's `HalfThresholdIFNode` with `RefractoryOptions`."""


class ActivationAwareIFNode(RefractoryOptions, neuron.ActivationAwareIFNode):
    """SpikingJelly's `ActivationAwareIFNode` with `RefractoryOptions`."""


class OTTTLIFNode(RefractoryOptions, neuron.OTTTLIFNode):
    """SpikingJelly's `OTTTLIFNode` with `RefractoryOptions`."""


class SLTTLIFNode(RefractoryOptions, neuron.SLTTLIFNode):
    """SpikingJelly's `SLTTLIFNode` with `RefractoryOptions`."""


class ILIFNode(RefractoryOptions, neuron.ILIFNode):
    """SpikingJelly's `ILIFNode` with `RefractoryOptions`."""


class TernaryIFNode(RefractoryOptions, neuron.TernaryIFNode):
    """SpikingJelly's `TernaryIFNode` with `RefractoryOptions`."""


class TernaryLIFNode(RefractoryOptions, neuron.TernaryLIFNode):
    """SpikingJelly's `TernaryLIFNode` with `RefractoryOptions`."""


class ILCIFNode(RefractoryOptions, neuron.ILCIFNode):
    """SpikingJelly's `ILCIFNode` with `RefractoryOptions`."""


class ILCLIFNode(RefractoryOptions, neuron.ILCLIFNode):
    """SpikingJelly's `ILCLIFNode` with `RefractoryOptions`."""


class ILCCUBALIFNode(RefractoryOptions, neuron.ILCCUBALIFNode):
    """SpikingJelly's `ILCCUBALIFNode` with `RefractoryOptions`."""


class NoisyILCCUBALIFNode(RefractoryOptions, neuron.NoisyILCCUBALIFNode):
    """SpikingJelly's `NoisyILCCUBALIFNode` with `RefractoryOptions`."""


class MPBNLIFNode(RefractoryOptions, neuron.MPBNLIFNode):
    """SpikingJelly's `MPBNLIFNode` with `RefractoryOptions`."""


class SlidingPSN(RefractoryOptions, neuron.SlidingPSN):
    """SpikingJelly's `SlidingPSN` with `RefractoryOptions`."""


class MaskedPSN(RefractoryOptions, neuron.MaskedPSN):
    """SpikingJelly's `MaskedPSN` with `RefractoryOptions`."""


class NonSpikingIFNode(WithoutSpikes, neuron.NonSpikingIFNode):
    """SpikingJelly's `NonSpikingIFNode`, which never spikes and takes no option of a spike."""


class NonSpikingLIFNode(WithoutSpikes, neuron.NonSpikingLIFNode):
    """SpikingJelly's `NonSpikingLIFNode`, which never spikes and takes no option of a spike."""


class NoisyNonSpikingIFNode(WithoutSpikes, neuron.NoisyNonSpikingIFNode):
    """SpikingJelly's `NoisyNonSpikingIFNode`, which never spikes and takes no option of a spike."""
