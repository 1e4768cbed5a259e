"""Drop-in SpikingJelly neurons with the asynchronous options of a neuron: every supported class, by its own name.

Everywhere else they are SpikingJelly's own: same constructor, state_dict and outputs. Each also takes the keyword-only
options `refractory` and `refractory_dropout` of `RefractoryOptions`, which only neurons that spike can have.
"""

from typing import Any

from snn_async.frameworks.refractory_options import dropin
from snn_async.frameworks.spikingjelly import SUPPORTED, WITHOUT_SPIKES

__all__ = [kind.__name__ for kind in SUPPORTED]

globals().update({kind.__name__: dropin(kind, __name__, kind not in WITHOUT_SPIKES) for kind in SUPPORTED})


def __getattr__(name: str) -> Any:  # for type checkers
    raise AttributeError(f"module {__name__!r} has no {name!r}, only {', '.join(__all__)}")
