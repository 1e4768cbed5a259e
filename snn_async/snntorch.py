"""Drop-in snnTorch neurons with the asynchronous options of a neuron: every supported class.

Everywhere else they are snnTorch's own: same constructor, state_dict and outputs. Each also takes the keyword-only
options `refractory` and `refractory_dropout` of `RefractoryOptions`.
"""

import snntorch

from snn_async.frameworks.refractory_options import RefractoryOptions

__all__ = [
    "Alpha",
    "DeltaLeaky",
    "Lapicque",
    "Leaky",
    "LinearLeaky",
    "RLeaky",
    "RSynaptic",
    "StateLeaky",
    "Synaptic",
]


class Leaky(RefractoryOptions, snntorch.Leaky):
    """snnTorch's `Leaky` with `RefractoryOptions`."""


class Lapicque(RefractoryOptions, snntorch.Lapicque):
    """snnTorch's `Lapicque` with `RefractoryOptions`."""


class RLeaky(RefractoryOptions, snntorch.RLeaky):
    """snnTorch's `RLeaky` with `RefractoryOptions`."""


class Synaptic(RefractoryOptions, snntorch.Synaptic):
    """snnTorch's `Synaptic` with `RefractoryOptions`."""


class RSynaptic(RefractoryOptions, snntorch.RSynaptic):
    """snnTorch's `RSynaptic` with `RefractoryOptions`."""


class Alpha(RefractoryOptions, snntorch.Alpha):
    """snnTorch's `Alpha` with `RefractoryOptions`."""


class DeltaLeaky(RefractoryOptions, snntorch.DeltaLeaky):
    """snnTorch's `DeltaLeaky` with `RefractoryOptions`."""


class StateLeaky(RefractoryOptions, snntorch.StateLeaky):
    """snnTorch's `StateLeaky` with `RefractoryOptions`."""


class LinearLeaky(RefractoryOptions, snntorch.LinearLeaky):
    """snnTorch's `LinearLeaky` with `RefractoryOptions`."""
