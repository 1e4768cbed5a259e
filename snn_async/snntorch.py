"""Drop-in snnTorch neurons with the asynchronous options of a neuron: every supported class, by its own name.

Everywhere else they are snnTorch's own: same constructor, state_dict and outputs. Each also takes the keyword-only
options `refractory` and `refractory_dropout` of `RefractoryOptions`.
"""

from typing import Any

from snn_async.frameworks.refractory_options import dropin
from snn_async.frameworks.snntorch import SUPPORTED

__all__ = [kind.__name__ for kind in SUPPORTED]

globals().update({kind.__name__: dropin(kind, __name__, True) for kind in SUPPORTED})


def __getattr__(name: str) -> Any:  # for type checkers
    raise AttributeError(f"module {__name__!r} has no {name!r}, only {', '.join(__all__)}")
