"""A graph as text."""

from typing import TYPE_CHECKING

from snn_async.graph.nodes import Junction, Projection

if TYPE_CHECKING:
    from snn_async.graph.graph import Graph

_JUNCTIONS = {
    "sum": "sum, passed on at once",
    "max": "max pooling, a window passes each increase of its maximum on at once",
    "and": "AND, waits until nothing upstream can change in the timestep",
    "iand": "IAND, waits until nothing upstream can change in the timestep",
    "wait": "waits until nothing upstream can change in the timestep",
}


def describe(graph: "Graph") -> str:
    """Return populations, junctions, projections and neuron models as lines of text."""
    lines = [f"{name} ({shape_text(grid)})" for name, grid in graph.input_grids.items()]
    for name in graph.order:
        lines += [f"  {p.source} -> {name}: {_projection(p)}" for p in graph.into(name)]
        node = graph.nodes[name]
        if isinstance(node, Junction):
            lines.append(f"{name} ({_JUNCTIONS[node.kind]}, {shape_text(node.grid)})")
            continue
        neuron = node.neuron
        kind = type(neuron.module).__name__ + ("" if neuron.spiking or neuron.analog else " (readout)")
        end = "  <- output" if name == graph.output else ""
        lines.append(f"{name} ({shape_text(node.shape)} x {kind}: {neuron.describe()}){end}")
    return "\n".join(lines)


def shape_text(sides: tuple[int, ...]) -> str:
    """Return (2, 34, 34) as "2x34x34" and (64, 1, 1) as "64"."""
    shown = sides[:1] if len(sides) == 3 and sides[1:] == (1, 1) else sides
    return "x".join(map(str, shown))


def _projection(projection: Projection) -> str:
    parts = [projection.synapses.describe()]
    if projection.delayed:
        parts.append("last timestep's spikes")
    if projection.synapses.biased or projection.constant is not None:
        parts.append("bias once per timestep")
    if projection.source_gain or projection.target_gain:
        parts.append("dropout or another gain of each timestep")
    return ", ".join(parts)
