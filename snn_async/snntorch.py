"""Drop-in snnTorch neurons with the asynchronous options of a neuron.

Everywhere else they are snnTorch's own: same constructor, state_dict and outputs.
"""

import snntorch

from snn_async.frameworks.refractory_options import RefractoryOptions

__all__ = ["Lapicque", "Leaky"]


class Leaky(RefractoryOptions, snntorch.Leaky):
    """`snntorch.Leaky` plus keyword-only `refractory`, `refractory_dropout`: `RefractoryOptions`."""


class Lapicque(RefractoryOptions, snntorch.Lapicque):
    """`snntorch.Lapicque` plus keyword-only `refractory`, `refractory_dropout`: `RefractoryOptions`."""
