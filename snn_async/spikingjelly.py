"""Drop-in SpikingJelly neurons with the asynchronous options of a neuron.

Everywhere else they are SpikingJelly's own: same constructor, state_dict and outputs.
"""

from spikingjelly.activation_based import neuron

from snn_async.frameworks.refractory_options import RefractoryOptions

__all__ = ["IFNode", "LIFNode", "ParametricLIFNode"]


class IFNode(RefractoryOptions, neuron.IFNode):
    """SpikingJelly's `IFNode` plus keyword-only `refractory`, `refractory_dropout`: `RefractoryOptions`."""


class LIFNode(RefractoryOptions, neuron.LIFNode):
    """SpikingJelly's `LIFNode` plus keyword-only `refractory`, `refractory_dropout`: `RefractoryOptions`."""


class ParametricLIFNode(RefractoryOptions, neuron.ParametricLIFNode):
    """SpikingJelly's `ParametricLIFNode` plus keyword-only `refractory`, `refractory_dropout`."""
