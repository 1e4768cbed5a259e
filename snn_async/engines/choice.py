"""Which engine runs a graph (`backend=`)."""

import torch

from snn_async.engines.contract import Engine, Execution
from snn_async.errors import OptionError, UnsupportedByEngineError
from snn_async.graph import Graph

BACKENDS = ("auto", "numba", "reference", "torch")


def check_backend(backend: object) -> None:
    """Raise OptionError unless `backend` names an engine, is "auto", or is an engine."""
    engine = all(hasattr(backend, name) for name in ("name", "check", "simulate", "replay"))
    if not engine and (not isinstance(backend, str) or backend not in BACKENDS):
        raise OptionError(f"backend={backend!r} is unknown; choose one of {list(BACKENDS)}")


def choose_engine(backend: str | Engine, graph: Graph, execution: Execution, device: torch.device) -> Engine:
    """Return the engine called `backend`; "auto" takes "numba" where it can run the graph, else "torch".

    So "torch" gets a model on another device than the CPU, other functions as synapses or between neurons, neurons
    whose spikes have values, and a scheduler written in Python.

    Args:
        device: of the model.

    Raises:
        OptionError: for an unknown name.
        UnsupportedByEngineError: if the engine cannot run the graph or an option.
    """
    check_backend(backend)
    if backend == "auto":
        try:
            return choose_engine("numba" if device.type == "cpu" else "torch", graph, execution, device)
        except UnsupportedByEngineError:
            return choose_engine("torch", graph, execution, device)
    engine = _named(backend) if isinstance(backend, str) else backend
    engine.check(graph, execution)
    return engine


def _named(backend: str) -> Engine:
    """Return the engine of a name; its libraries are imported only then."""
    kind: type[Engine]
    if backend == "numba":
        from snn_async.engines.numba.engine import NumbaEngine as kind
    elif backend == "torch":
        from snn_async.engines.torch.engine import TorchEngine as kind
    else:
        from snn_async.engines.reference.engine import ReferenceEngine as kind
    return kind()
