"""What is fixed about a graph and its execution, as tensors that stay on a device from timestep to timestep."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from snn_async.engines.contract import NEVER, NOT_YET, Execution, Values
from snn_async.engines.torch.junctions import Windows
from snn_async.engines.torch.maps import connections_of
from snn_async.graph import Graph, Population
from snn_async.graph.layout import layout_of


class Structure:
    """A graph on a device, as one execution runs it. Nodes are numbered as in `Layout`, projections k = 0, 1, ...

    Attributes:
        into: the projections into each node, delayed ones too.
        out_of: those that deliver this timestep's events of each node.
        delayed: those that deliver no events, but last timestep's spikes or settled potentials.
        first_source: (2 + P + J,) source index of the first unit of the input, of every node, and one after the last.
        instant: junctions that pass on at once, in topological order.
        biased: (V,) the node that each element of `Values.biases` goes to.
        width: neurons or cells of every node.
        sizes: neurons of each population; starts: (P + 1,) first one of each.
        turn: (P + J,) see `Layout`; queued inputs are one hop further away. Behind a barrier places take turns' place.
        levels: turns at which waiting junctions pass on, ascending, then NEVER.
        first_turning: populations whose turn is the first forward step.
        windows: of every "max", by node.
        repeats: whether a neuron may spike more than once in a timestep.
        moves_on: whether currents may go on to arrive after a decisive evaluation.
    """

    def __init__(self, graph: Graph, execution: Execution, device: torch.device) -> None:
        self.layout = layout = layout_of(graph)
        self.device, nodes, self.sizes = device, range(len(layout.turn)), np.diff(layout.start).tolist()
        self.neurons = [population.neuron for population in graph.populations]
        unsent = layout.delayed | layout.settled
        self.into = [np.flatnonzero(layout.target == node).tolist() for node in nodes]
        self.out_of = {
            node: np.flatnonzero((layout.source == node) & ~unsent).tolist() for node in (-1, *nodes)
        }
        self.delayed = np.flatnonzero(unsent).tolist()
        self.connections = connections_of(graph, device)
        self.first_source = self._tensor([0, *layout.first_unit, layout.inputs + int(layout.size.sum())])
        junctions = list(enumerate(graph.junctions, layout.populations))
        self.instant = [j for j, junction in junctions if not junction.waits]
        has_bias = layout.bias_start >= 0
        self.width = [
            node.size if isinstance(node, Population) else node.cell_count for node in graph.nodes.values()
        ]
        self.biased = self._tensor(np.repeat(layout.target[has_bias], layout.fan_out[has_bias]))
        self.starts = self._tensor(layout.start)
        turn = layout.turn + execution.queues_input
        waiting = sorted({int(turn[j]) for j, junction in junctions if junction.waits})
        self.levels = self._tensor([*waiting, NEVER])
        self.first_turning = np.flatnonzero(turn[: layout.populations] == 0).tolist()
        if execution.layered:
            turn[:] = NOT_YET
            turn[: layout.populations] = np.arange(layout.populations)
        self.turn = self._tensor(turn)
        self.windows = {j: Windows(junction, device) for j, junction in junctions if junction.kind == "max"}
        modes = execution.refractory
        self.repeats = "off" in modes or any(execution.refractory_dropout)
        self.moves_on = self.repeats or any(mode != "discard" for mode in modes)

    def targets(self, k: int) -> slice:
        """Return the receivers of a projection."""
        first = int(self.layout.first_target[k])
        return slice(first, first + int(self.layout.fan_out[k]))

    def taken(self, k: int) -> slice:
        """Return which units of its node projection k takes: of all inputs, its own."""
        first = int(self.layout.first_source[k]) - self.sources(int(self.layout.source[k])).start
        return slice(first, first + int(self.layout.fan_in[k]))

    def sources_of(self, k: int) -> slice:
        """Return the source indices of what a projection takes."""
        first = int(self.layout.first_source[k])
        return slice(first, first + int(self.layout.fan_in[k]))

    def sources(self, node: int) -> slice:
        """Return the source indices of a node's units."""
        first = int(self.layout.first_unit[node]) if node >= 0 else 0
        return slice(first, first + (int(self.layout.size[node]) if node >= 0 else self.layout.inputs))

    def neurons_of(self, p: int) -> slice:
        """Return the neurons of a population."""
        return slice(int(self.layout.start[p]), int(self.layout.start[p + 1]))

    def bias(self, values: Values, node: int) -> Tensor:
        """Return the biases of the projections into a node, (B, n) or (1, n) of its neurons or cells."""
        total = values.x.new_zeros((1, self.width[node]))
        for k in self.into[node]:
            begin, scale = int(self.layout.bias_start[k]), values.target_scale[k]
            if begin >= 0:
                bias = values.biases[begin : begin + int(self.layout.fan_out[k])]
                total = total + self.placed(k, bias if scale is None else bias * scale)
        return total

    def placed(self, k: int, current: Tensor) -> Tensor:
        """Return what projection k brings (..., fan_out) as currents of all its node's neurons or cells."""
        node = int(self.layout.target[k])
        first = int(self.layout.first_target[k] - self.layout.first_receiver[node])
        rest = self.width[node] - first - current.shape[-1]
        return functional.pad(current, (first, rest)) if first or rest else current

    def last_spikes(self, values: Values, k: int) -> Tensor:
        """Return what a delayed projection delivers, (B, fan_in)."""
        first = int(self.layout.first_source[k]) - self.layout.inputs
        return values.last_spikes[:, first : first + int(self.layout.fan_in[k])]

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(values).to(self.device, copy=True)


_STRUCTURES: WeakKeyDictionary[Graph, dict[Any, Structure]] = WeakKeyDictionary()


def structure_of(graph: Graph, execution: Execution, device: torch.device) -> Structure:
    """Return the structure of a graph; it is kept for the next timestep."""
    modes = (execution.refractory, execution.refractory_dropout, execution.layered, execution.queues_input)
    kept = _STRUCTURES.setdefault(graph, {})
    if (device, modes) not in kept:
        with torch.inference_mode(False):  # what is kept for later runs must not be an inference tensor
            kept[device, modes] = Structure(graph, execution, device)
    return kept[device, modes]
