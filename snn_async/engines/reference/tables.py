"""Every synapse of every projection as a matrix."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from snn_async.engines.contract import Values
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of
from snn_async.graph.parameters import dealt
from snn_async.graph.synapses import Affine, Table

_TABLES: WeakKeyDictionary[Graph, list[Table]] = WeakKeyDictionary()


def tables_of(graph: Graph) -> list[Table]:
    """Return every synapse of every projection; graphs are immutable, so they are listed once."""
    if graph not in _TABLES:
        _TABLES[graph] = [projection.synapses.table() for projection in graph.projections]
    return _TABLES[graph]


def connections(graph: Graph) -> list[Tensor]:
    """Return per projection whether there is a synapse, (fan_in, fan_out)."""
    return [torch.as_tensor(table.coefficient) != 0 for table in tables_of(graph)]


def matrices(graph: Graph, values: Values) -> list[Tensor]:
    """Return every projection's weights (fan_in, fan_out), differentiable in the packed ones and the parameters."""
    found, weights = [], values.weights
    starts, (live, _) = layout_of(graph).weight_start.tolist(), dealt(graph, values.parameters)
    for p, table, start, own in zip(graph.projections, tables_of(graph), starts, live, strict=True):
        matrix = torch.as_tensor(table.coefficient).to(weights)
        if table.weight is not None:
            matrix = matrix * weights[start + torch.as_tensor(table.weight)]
        if isinstance(p.synapses, Affine):  # it shows its weights when asked about every source by itself
            matrix = p.synapses.current(torch.eye(p.fan_in).to(weights), own)
        found.append(matrix)
    return found
