"""A model as a graph: populations, junctions and the projections between them (docs/design.md, section 2)."""

from snn_async.graph.graph import Graph
from snn_async.graph.nodes import INPUT, Junction, Population, Projection

__all__ = ["INPUT", "Graph", "Junction", "Population", "Projection"]
