"""Engines: several implementations of one contract (docs/design.md, section 6), chosen by `backend=`."""

from snn_async.engines.contract import Engine, Execution
from snn_async.errors import OptionError, UnsupportedByEngineError
from snn_async.graph import Graph


def choose_engine(backend: str, graph: Graph, execution: Execution) -> Engine:
    """Return the engine called `backend`; "auto" takes the fastest that runs the graph.

    Raises:
        OptionError: for an unknown name.
        UnsupportedByEngineError: if the engine cannot run the graph or an option.
    """
    from snn_async.engines.numba_engine import NumbaEngine
    from snn_async.engines.reference import ReferenceEngine

    engines: dict[str, type[Engine]] = {"numba": NumbaEngine, "reference": ReferenceEngine}
    if backend == "auto":
        numba = NumbaEngine()
        try:
            numba.check(graph, execution)
        except UnsupportedByEngineError:
            return ReferenceEngine()
        return numba
    if not isinstance(backend, str) or backend not in engines:
        raise OptionError(f"backend={backend!r} is unknown; choose one of {['auto', *sorted(engines)]}")
    engine = engines[backend]()
    engine.check(graph, execution)
    return engine
