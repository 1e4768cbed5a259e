"""A model as a graph: populations, junctions and the projections between them (docs/design.md, section 2)."""

from snn_async.graph.graph import Graph
from snn_async.graph.nodes import INPUT, Dropout, Junction, Population, Projection

__all__ = ["INPUT", "Dropout", "Graph", "Junction", "Population", "Projection"]
