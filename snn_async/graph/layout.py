"""Where everything lies: a graph as index arrays, shared by the engines."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from snn_async.graph import Graph

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Index arrays over P populations, J junctions and K projections.

    Nodes are numbered -1 for all inputs together, 0 .. P - 1 for the populations, P .. P + J - 1 for the junctions,
    both in topological order. *Sources* count the inputs' features first, then neurons, then junction units;
    *receivers* count neurons first, then junction cells.

    Attributes:
        inputs, neurons, units, cells: how many there are; units and cells are the junctions'.
        start: (P + 1,) first neuron of each population.
        order: (P + J,) nodes in topological order.
        turn: (P + J,) turn of each population; that of a junction is where it passes on (`Graph.node_turns`).
        phase_length: turns of one phase; see `Graph.phase_length`.
        output: index of the output population.
        first_unit: (P + J,) source index of each node's first unit.
        first_receiver: (P + J,) receiver index of each node's first neuron or cell.
        size: (P + J,) neurons or units.
        source, target: (K,) node numbers.
        fan_in, fan_out: (K,).
        first_source: (K,) source index of the projection's first source.
        first_target: (K,) receiver index of its first target (one that waits has a range for each port).
        delayed: (K,) whether it delivers last timestep's spikes.
        settled: (K,) whether it delivers potentials of analog neurons to a junction that waits, when that passes on.
        weight_start: (K,) where its part of `Values.weights` begins; empty for synapses without packed weights.
        bias_start: (K,) where its part of `Values.biases` begins, -1 for a projection into a junction
            other than "wait".
    """

    inputs: int
    neurons: int
    units: int
    cells: int
    start: Indices
    order: Indices
    turn: Indices
    phase_length: int
    output: int
    first_unit: Indices
    first_receiver: Indices
    size: Indices
    source: Indices
    target: Indices
    fan_in: Indices
    fan_out: Indices
    first_source: Indices
    first_target: Indices
    delayed: NDArray[np.bool_]
    settled: NDArray[np.bool_]
    weight_start: Indices
    bias_start: Indices

    @property
    def populations(self) -> int:
        return len(self.start) - 1


_LAYOUTS: WeakKeyDictionary[Graph, Layout] = WeakKeyDictionary()


def layout_of(graph: Graph) -> Layout:
    """Return the layout of a graph; graphs are immutable, so it is computed once."""
    if graph not in _LAYOUTS:
        _LAYOUTS[graph] = _compute(graph)
    return _LAYOUTS[graph]


def _compute(graph: Graph) -> Layout:
    number = graph.node_index
    takes_bias = np.array([graph.takes_bias(p.target) for p in graph.projections])
    start = _starts([population.size for population in graph.populations])
    unit = _starts([junction.size for junction in graph.junctions])
    cell = _starts([junction.cell_count for junction in graph.junctions])
    inputs, neurons = graph.input_size, int(start[-1])
    first_unit = np.concatenate((inputs + start[:-1], inputs + neurons + unit[:-1]))
    first_receiver = np.concatenate((start[:-1], neurons + cell[:-1]))
    source = np.array([number[p.source] for p in graph.projections], dtype=np.int64)
    target = np.array([number[p.target] for p in graph.projections], dtype=np.int64)
    fan_out = np.array([p.fan_out for p in graph.projections], dtype=np.int64)
    junctions = {junction.name: junction for junction in graph.junctions}
    analog = {population.name for population in graph.populations if population.neuron.analog}
    first_cell = np.array(
        [junctions[p.target].first_cell(p.port) if p.target in junctions else 0 for p in graph.projections]
    )
    biases = _starts(np.where(takes_bias, fan_out, 0).tolist())[:-1]
    return Layout(
        inputs=inputs,
        neurons=neurons,
        units=int(unit[-1]),
        cells=int(cell[-1]),
        start=start,
        order=np.array([number[name] for name in graph.order], dtype=np.int64),
        turn=np.array([graph.node_turns[name] for name in graph.nodes], dtype=np.int64),
        phase_length=graph.phase_length,
        output=number[graph.output],
        first_unit=first_unit,
        first_receiver=first_receiver,
        size=np.array([node.size for node in graph.nodes.values()], dtype=np.int64),
        source=source,
        target=target,
        fan_in=np.array([p.fan_in for p in graph.projections], dtype=np.int64),
        fan_out=fan_out,
        first_source=np.array(
            [
                graph.input_slices[p.source].start if node < 0 else first_unit[node]
                for p, node in zip(graph.projections, source, strict=True)
            ],
            dtype=np.int64,
        ),
        first_target=first_receiver[target] + first_cell,
        delayed=np.array([p.delayed for p in graph.projections]),
        settled=np.array([p.source in analog and not p.delayed for p in graph.projections]),
        weight_start=_starts([p.synapses.weight_count for p in graph.projections])[:-1],
        bias_start=np.where(takes_bias, biases, -1),
    )


def _starts(sizes: list[int]) -> Indices:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
