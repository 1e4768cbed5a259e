"""Which engine runs a graph (`backend=`)."""

import torch

from snn_async.engines.contract import Engine, Execution
from snn_async.errors import OptionError, UnsupportedByEngineError
from snn_async.graph import Graph

BACKENDS = ("auto", "numba", "reference", "torch")


def check_backend(backend: object) -> None:
    """Raise OptionError unless `backend` names an engine or is "auto"."""
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise OptionError(f"backend={backend!r} is unknown; choose one of {list(BACKENDS)}")


def choose_engine(backend: str, graph: Graph, execution: Execution) -> Engine:
    """Return the engine called `backend`; "auto" takes "numba" where it can run the graph, else "torch".

    So "torch" gets a model on another device than the CPU, a projection that is some other module, and a scheduler
    written in Python.

    Raises:
        OptionError: for an unknown name.
        UnsupportedByEngineError: if the engine cannot run the graph or an option.
    """
    from snn_async.engines.numba.engine import NumbaEngine
    from snn_async.engines.reference.engine import ReferenceEngine
    from snn_async.engines.torch.engine import TorchEngine

    engines: dict[str, type[Engine]] = {
        "numba": NumbaEngine,
        "reference": ReferenceEngine,
        "torch": TorchEngine,
    }
    check_backend(backend)
    engine = engines["torch" if backend == "auto" else backend]()
    if backend == "auto" and _on_cpu(graph):
        numba = NumbaEngine()
        try:
            numba.check(graph, execution)
        except UnsupportedByEngineError:
            pass
        else:
            return numba
    engine.check(graph, execution)
    return engine


def _on_cpu(graph: Graph) -> bool:
    tensors = [tensor for _, module in graph.modules for tensor in (*module.parameters(), *module.buffers())]
    return all(tensor.device == torch.device("cpu") for tensor in tensors)
