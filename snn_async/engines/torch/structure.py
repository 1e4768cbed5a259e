"""What is fixed about a graph and its execution, as tensors that stay on a device from timestep to timestep."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Trait:
    """What holds for all neurons of some populations.

    Attributes:
        which: of every population.
        start: first neuron of each.
        mask: (N,).
    """

    which: list[bool]
    start: list[int]
    mask: Tensor

    def of(self, populations: range, given: Tensor) -> Tensor | None:
        """Return for which of `given` (B, n), the neurons of neighbouring populations, it holds; None for none."""
        here = self.which[populations.start : populations.stop]
        if not any(here):
            return None
        return (
            given
            if all(here)
            else given & self.mask[self.start[populations.start] : self.start[populations.stop]]
        )


class Structure:
    """A graph on a device, as one execution runs it. Nodes are numbered as in `Layout`, projections k = 0, 1, ...

    Attributes:
        into: the projections into each node, delayed ones too.
        out_of: those that deliver this timestep's events of each node.
        delayed: those that deliver last timestep's spikes.
        node_of: (S + N + U,) the node of every source; leads: whether its events lead anywhere; group_of: the group
            of projections out of it.
        first_source: (2 + P + J,) source index of the first unit of the input, of every node, and one after the last.
        instant: junctions that pass on at once, in topological order; `relays` (1 + P + J,) is true of them.
        through_max: nodes whose events may have come through a "max" in the same forward step.
        population_of: (N,) the population of every neuron.
        biased: (V,) the node that each element of `Values.biases` goes to.
        width: neurons or cells of every node.
        starts: (P + 1,) first neuron of each population.
        turn: (P + J,) see `Layout`; queued inputs are one hop further away. Behind a barrier places take turns' place.
        levels: turns at which waiting junctions pass on, ascending, then NEVER.
        first_turning: populations whose turn is the first forward step.
        windows: of every "max", by node.
        mute, inclusive, subtracting, to_value, integrating, discarding, refractory: who never spikes, fires at the
            threshold, has that reset and refractory mode.
        reset_value: (N,) float64.
        dropout: (N,) float64 probabilities of not becoming refractory, None where all are 0.
        graded: populations whose spikes are not binary.
        repeats: whether a neuron may spike more than once in a timestep.
        edges, first_edge, degree: groups of projections, `edges[first_edge[g]:][:degree[g]]`: those out of every
            input, then out of every node, then, from group `alone` on, each by itself.
    """

    def __init__(self, graph: Graph, execution: Execution, device: torch.device) -> None:
        self.layout = layout = layout_of(graph)
        self.device, nodes, sizes = device, range(len(layout.turn)), np.diff(layout.start)
        self.neurons = [population.neuron for population in graph.populations]
        self.into = [np.flatnonzero(layout.target == node).tolist() for node in nodes]
        self.out_of = {
            node: np.flatnonzero((layout.source == node) & ~layout.delayed).tolist() for node in (-1, *nodes)
        }
        self.delayed = np.flatnonzero(layout.delayed).tolist()
        self.connections = connections_of(graph, device)
        self.node_of = self._tensor(np.repeat((-1, *nodes), [layout.inputs, *layout.size]))
        self.leads = self._tensor([bool(edges) for edges in self.out_of.values()])[self.node_of + 1]
        self.first_source = self._tensor([0, *layout.first_unit, len(self.node_of)])
        junctions = list(enumerate(graph.junctions, layout.populations))
        self.instant = [j for j, junction in junctions if not junction.waits]
        self.relays = self._tensor([node in self.instant for node in (-1, *nodes)])
        self.through_max: set[int] = set()
        for j in self.instant:
            sources = {int(layout.source[k]) for k in self.into[j]}
            if dict(junctions)[j].kind == "max" or sources & self.through_max:
                self.through_max.add(j)
        self.population_of = self._tensor(np.repeat(np.arange(layout.populations), sizes))
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
        self.mute = self._where([not neuron.spiking for neuron in self.neurons])
        self.inclusive = self._where([neuron.inclusive for neuron in self.neurons])
        self.subtracting = self._where([neuron.reset == "subtract" for neuron in self.neurons])
        self.to_value = self._where([neuron.reset == "value" for neuron in self.neurons])
        self.integrating = self._where([mode == "integrate" for mode in modes])
        self.discarding = self._where([mode == "discard" for mode in modes])
        self.refractory = self._where([mode != "off" for mode in modes])
        self.reset_value = self._tensor(np.repeat([float(n.reset_value) for n in self.neurons], sizes))
        rates = np.array(execution.refractory_dropout, dtype=np.float64)
        self.dropout = self._tensor(np.repeat(rates, sizes)) if rates.any() else None
        self.graded = [p for p, n in enumerate(self.neurons) if n.spiking and not n.binary]
        self.repeats = "off" in modes or bool(rates.any())
        inputs = [
            [k for k in self.out_of[-1] if graph.projections[k].source == name] for name in graph.input_grids
        ]
        starts = [*inputs, *(self.out_of[node] for node in nodes)]
        self.alone = len(starts)
        counts = [here.stop - here.start for here in graph.input_slices.values()]
        self.group_of = self._tensor(np.repeat(np.arange(self.alone), [*counts, *layout.size]))
        groups = [*starts, *([k] for k in range(len(layout.source)))]
        self.edges = self._tensor([k for group in groups for k in group])
        degree = np.array([len(group) for group in groups])
        self.degree, self.first_edge = self._tensor(degree), self._tensor(np.cumsum(degree) - degree)

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

    def neurons_in(self, populations: range) -> slice:
        """Return the neurons of neighbouring populations."""
        return slice(int(self.layout.start[populations.start]), int(self.layout.start[populations.stop]))

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

    def _where(self, which: list[bool]) -> "Trait":
        return Trait(
            which, self.layout.start.tolist(), self._tensor(np.repeat(which, np.diff(self.layout.start)))
        )

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
