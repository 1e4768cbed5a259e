"""Where everything lies: a graph as index arrays, shared by the engines."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from snn_async.graph import INPUT, Graph

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Index arrays over P populations and K projections.

    Attributes:
        start: (P + 1,) first neuron of each population.
        turn: (P,) turn of each population.
        output: index of the output population.
        source, target: (K,) population index; source -1 is the input.
        fan_in, fan_out: (K,).
        first_source: (K,) source index of the projection's first source (inputs come first).
        weight_start, bias_start: (K,) where its part of `Values.weights` and `.biases` begins.
    """

    inputs: int
    neurons: int
    start: Indices
    turn: Indices
    output: int
    source: Indices
    target: Indices
    fan_in: Indices
    fan_out: Indices
    first_source: Indices
    weight_start: Indices
    bias_start: Indices

    @property
    def population_of(self) -> Indices:
        """(N,) population index of every neuron."""
        return np.repeat(np.arange(len(self.turn)), np.diff(self.start))


_LAYOUTS: WeakKeyDictionary[Graph, Layout] = WeakKeyDictionary()


def layout_of(graph: Graph) -> Layout:
    """Return the layout of a graph; graphs are immutable, so it is computed once."""
    if graph not in _LAYOUTS:
        _LAYOUTS[graph] = _compute(graph)
    return _LAYOUTS[graph]


def _compute(graph: Graph) -> Layout:
    index = graph.index | {INPUT: -1}
    sizes = [population.size for population in graph.populations]
    start = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    source = np.array([index[p.source] for p in graph.projections], dtype=np.int64)
    fan_in = np.array([p.fan_in for p in graph.projections], dtype=np.int64)
    fan_out = np.array([p.fan_out for p in graph.projections], dtype=np.int64)
    inputs = graph.input_size
    return Layout(
        inputs=inputs,
        neurons=int(start[-1]),
        start=start,
        turn=np.array(graph.turns, dtype=np.int64),
        output=index[graph.output],
        source=source,
        target=np.array([index[p.target] for p in graph.projections], dtype=np.int64),
        fan_in=fan_in,
        fan_out=fan_out,
        first_source=np.where(source < 0, 0, inputs + start[source]),
        weight_start=np.concatenate(([0], np.cumsum(fan_in * fan_out)[:-1])).astype(np.int64),
        bias_start=np.concatenate(([0], np.cumsum(fan_out)[:-1])).astype(np.int64),
    )
