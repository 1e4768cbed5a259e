"""The oracle: the masked sum of docs/design.md, section 5, computed from an event log and left to autograd.

    u_i = base_i + b_i + sum_j w_ji s_j [ j was delivered to i no later than i's decisive evaluation ]
    s_i = H(u_i - threshold_i)

Every decisive evaluation is one spike variable. Silent ones (value 0) meet each target at its first decisive
evaluation of the timestep; delivered ones at the first decisive evaluation not before their delivery. Junctions
(section 7) are functions of what reached them: of the log, only the holders of "max" units are read.
"""

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from snn_async.engines.contract import Execution, Start, Values
from snn_async.engines.event_log import EventLog
from snn_async.engines.reference.junctions import members
from snn_async.graph import Graph
from snn_async.graph.layout import Layout, layout_of
from snn_async.graph.synapses import Table

NEVER = 1 << 30


def masked_sum(
    graph: Graph,
    execution: Execution,
    values: Values,
    start: Start,
    log: EventLog,
    surrogates: Sequence[Callable[[Tensor], Tensor]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return differentiable spikes and potentials (T, B, N) of the run that `log` records.

    Args:
        surrogates: one function of u - threshold per population; the neurons' own if None. With smooth
            ones the result is a smooth function of `values`, and its gradient can be checked by finite
            differences.
    """
    samples = [
        _Sample(graph, execution, values, start, log, surrogates, b).run() for b in range(values.x.shape[1])
    ]
    return torch.stack([s for s, _ in samples], 1), torch.stack([v for _, v in samples], 1)


class _Sample:
    def __init__(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        log: EventLog,
        surrogates: Sequence[Callable[[Tensor], Tensor]] | None,
        b: int,
    ) -> None:
        self.graph, self.execution, self.values, self.log, self.b = graph, execution, values, log, b
        self.layout: Layout = layout_of(graph)
        self.neurons = [population.neuron for population in graph.populations]
        self.surrogates = surrogates or [neuron.surrogate for neuron in self.neurons]
        self.spikes_before = torch.from_numpy(start.spikes[b].astype(np.int64))
        self.spike_variable: dict[int, Tensor] = {}
        self.weights = [
            torch.from_numpy(table.coefficient).to(values.x)
            * values.weights[w + torch.from_numpy(table.weight)]
            for table, w in zip(tables_of(graph), self.layout.weight_start.tolist(), strict=True)
        ]
        self.junctions = {self.layout.populations + i: junction for i, junction in enumerate(graph.junctions)}

    def run(self) -> tuple[Tensor, Tensor]:
        potential = self.values.potentials[self.b]
        spikes, potentials = [], []
        self.count_before = self.spikes_before.to(potential)
        for t in range(len(self.values.x)):
            self.t = t
            self._follow_junctions()
            base, residual = self._begin(potential)
            self.silent = torch.zeros_like(base)
            count = torch.zeros_like(base)
            after = torch.zeros_like(base)
            for p in range(len(self.neurons)):
                here = slice(*self.layout.start[p : p + 2])
                u, s, silent = self._population(t, p, base[here])
                after = torch.cat((after[: here.start], u, after[here.stop :]))
                count = torch.cat((count[: here.start], s, count[here.stop :]))
                self.silent = torch.cat((self.silent[: here.start], silent, self.silent[here.stop :]))
            potential = after + residual
            self.spikes_before = count.detach().round().long()
            self.count_before = count
            spikes.append(count)
            potentials.append(potential)
        return torch.stack(spikes), torch.stack(potentials)

    def _begin(self, v: Tensor) -> tuple[Tensor, Tensor]:
        bases, residuals = [], []
        self.swallowed = torch.zeros(len(v), dtype=torch.bool)
        for p, neuron in enumerate(self.neurons):
            here = slice(*self.layout.start[p : p + 2])
            threshold, fired, before = self.values.threshold[here], self.spikes_before[here], v[here]
            if neuron.delayed_reset and neuron.reset == "value":
                before = torch.where(fired > 0, torch.full_like(before, neuron.reset_value), before)
            base = self.values.leak[here] * before + self.values.offset[here]
            if neuron.delayed_reset and neuron.reset == "subtract":
                base = base - fired.to(base) * threshold
            if neuron.swallow_input:
                base = torch.where(fired > 0, torch.full_like(base, neuron.reset_value), base)
                self.swallowed[here] = fired > 0
            residual = torch.zeros_like(base)
            if neuron.retest_residual and neuron.spiking:
                above = before >= threshold if neuron.inclusive else before > threshold
                residual = above.to(base) * threshold
            bases.append(base - residual)
            residuals.append(residual)
        return torch.cat(bases), torch.cat(residuals)

    def _population(self, t: int, p: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the final potential, the spike count and the silent spike variable of each neuron."""
        log, b, neuron, refractory = self.log, self.b, self.neurons[p], self.execution.refractory[p]
        here = slice(*self.layout.start[p : p + 2])
        threshold = self.values.threshold[here]
        fired = self._spikes_of(t, here)  # (row, index within the population, step)
        silent_step = torch.from_numpy(log.silent_step[t, b, here].astype(np.int64))
        first, last = self._decisive_range(silent_step, fired)
        arrivals = self._arrivals(t, p)
        steps = sorted({*arrivals, *silent_step[silent_step >= 0].tolist(), *(step for *_, step in fired)})
        count, silent = torch.zeros_like(u), torch.zeros_like(u)
        would_be = self._would_be_currents(p, first)
        for step in steps:
            lands = ~self.swallowed[here] & ((step <= last) | (refractory == "integrate"))
            u = u + torch.where(lands, arrivals.get(step, torch.zeros_like(u)), 0.0)
            u = u + torch.where(~self.swallowed[here] & (first == step), would_be, 0.0)
            if not neuron.spiking:
                continue
            firing = torch.zeros(len(u), dtype=torch.bool)
            firing[[i for _, i, at in fired if at == step]] = True
            deciding = firing | (silent_step == step)
            s = torch.where(deciding, self.surrogates[p](u - threshold), 0.0)
            count = count + s
            silent = torch.where(silent_step == step, s, silent)
            for row, i, at in fired:
                if at == step:
                    self.spike_variable[row] = s[i]
            u = torch.where(deciding, self._reset(p, u, s, threshold), u)
        return u, count, silent

    def _reset(self, p: int, u: Tensor, s: Tensor, threshold: Tensor) -> Tensor:
        neuron = self.neurons[p]
        if neuron.delayed_reset or neuron.reset == "none":
            return u
        if neuron.detach_reset:
            s = s.detach()
        if neuron.reset == "subtract":
            return u - s * threshold
        return (1 - s) * u + s * neuron.reset_value

    def _spikes_of(self, t: int, here: slice) -> list[tuple[int, int, int]]:
        log, first = self.log, self.layout.inputs + here.start
        rows = range(log.emitted[self.b, 1 + t], log.emitted[self.b, 2 + t])
        size = here.stop - here.start
        return [
            (row, int(log.source[row]) - first, int(log.step[row]))
            for row in rows
            if 0 <= log.source[row] - first < size
        ]

    @staticmethod
    def _decisive_range(silent_step: Tensor, fired: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
        """Forward steps of every neuron's first and last decisive evaluation."""
        first = torch.where(silent_step >= 0, silent_step, NEVER)
        last = silent_step.clone()
        for _, i, step in fired:
            first[i], last[i] = min(int(first[i]), step), max(int(last[i]), step)
        return first, last

    def _arrivals(self, t: int, p: int) -> dict[int, Tensor]:
        """Currents into population p by forward step: bias, recurrent spikes, input and delivered events."""
        arrivals: dict[int, Tensor] = {}
        turn_step = int(self.log.turn_step[t, self.b, p])
        evaluated = turn_step >= 0 or self.execution.leftover == "carry"
        for k in self._into(p):
            if turn_step >= 0:
                first = int(self.layout.bias_start[k])
                bias = self.values.biases[first : first + int(self.layout.fan_out[k])]
                _arrive(arrivals, turn_step, bias * self._target_scale(k))
            if self.layout.delayed[k]:
                first = int(self.layout.first_source[k]) - self.layout.inputs
                counts = self.count_before[first : first + int(self.layout.fan_in[k])]
                if turn_step >= 0:
                    _arrive(arrivals, turn_step, self._through(k, counts))
            elif evaluated:
                for step, amounts in self._emissions(int(self.layout.source[k])).items():
                    _arrive(arrivals, step, self._through(k, amounts))
        return arrivals

    def _emissions(self, node: int) -> dict[int, Tensor]:
        """What a node's units deliver, by forward step; behind a barrier everything counts as step 0."""
        emissions: dict[int, Tensor] = {}
        if node < 0 and not self.execution.queues_input:
            emissions[0] = self.values.x[self.t, self.b]
        kind = self.junctions[node].kind if node in self.junctions else None
        if kind in ("sum", "max"):
            for k in self._into(node):
                for step, amounts in self._emissions(int(self.layout.source[k])).items():
                    _arrive(emissions, step, self._through(k, amounts))
            return emissions if kind == "sum" else self._increases(node, emissions)
        unit = self._first_unit(node)
        joined = self._joined(node) if kind is not None else None
        for row in self.log.deliveries[
            self.log.delivered[self.b, self.t] : self.log.delivered[self.b, self.t + 1]
        ].tolist():
            j = int(self.log.source[row]) - unit
            if 0 <= j < self._size(node):
                value = self._variable(row) if joined is None else joined[j]
                one = torch.zeros(self._size(node), dtype=value.dtype)
                one[j] = 1
                step = 0 if self.execution.layered else int(self.log.delivered_step[row])
                _arrive(emissions, step, one * value)
        return emissions

    def _increases(self, node: int, arrivals: dict[int, Tensor]) -> dict[int, Tensor]:
        """By how much the maximum of every window rises in each step: that of the cell which holds it."""
        increases: dict[int, Tensor] = {}
        cells, before = torch.zeros(self.junctions[node].cell_count).to(self.values.x), None
        for step in sorted(arrivals):
            cells = cells + arrivals[step]
            now = cells[self._holders(node, step)]
            increases[step] = now if before is None else now - before
            before = now
        return increases

    def _joined(self, node: int) -> Tensor:
        """The values of an "and" or "iand", from everything delivered and the silent variables."""
        size = self._size(node)
        operands = [torch.zeros(size).to(self.values.x), torch.zeros(size).to(self.values.x)]
        if self.log.turn_step[self.t, self.b, node] < 0:
            return operands[0]
        for k in self._into(node):
            port = self.graph.projections[k].port
            source = int(self.layout.source[k])
            for amounts in (*self._emissions(source).values(), self._would_be(source, NEVER)):
                operands[port] = operands[port] + self._through(k, amounts)
        a, b = operands
        return a * b if self.junctions[node].kind == "and" else a * (1 - b)

    def _would_be_currents(self, p: int, first: Tensor) -> Tensor:
        """Currents (of value 0) from silent neurons, at each neuron's first decisive evaluation."""
        total = torch.zeros(len(first)).to(self.values.x)
        for step in sorted(set(first[first < NEVER].tolist())):
            for k in self._into(p):
                if not self.layout.delayed[k]:
                    current = self._through(k, self._would_be(int(self.layout.source[k]), step))
                    total = total + torch.where(first == step, current, 0.0)
        return total

    def _would_be(self, node: int, step: int) -> Tensor:
        """What a node's silent units might have sent, as seen by an evaluation in forward step `step`; values 0."""
        zero = torch.zeros(self._size(node)).to(self.values.x)
        if node < 0:
            x = self.values.x[self.t, self.b]
            return torch.where(x == 0, x, 0.0) if self.execution.queues_input else zero
        if node not in self.junctions:
            return self.silent[slice(*self.layout.start[node : node + 2])]
        junction = self.junctions[node]
        if junction.waits:
            return torch.where(self.emitting[node], 0.0, self._joined(node))
        cells = torch.zeros(junction.cell_count).to(self.values.x)
        for k in self._into(node):
            cells = cells + self._through(k, self._would_be(int(self.layout.source[k]), step))
        return cells if junction.kind == "sum" else cells[self._holders(node, step)]

    def _follow_junctions(self) -> None:
        """Read from the log which units passed something on, and which cell holds each maximum from which step on."""
        log, b, t = self.log, self.b, self.t
        self.changes: dict[int, list[tuple[int, int, int]]] = {node: [] for node in self.junctions}
        self.emitting = {node: torch.zeros(self._size(node), dtype=torch.bool) for node in self.junctions}
        for row in range(log.emitted[b, 1 + t], log.emitted[b, 2 + t]):
            for node in self.junctions:
                unit = int(log.source[row]) - self._first_unit(node)
                if 0 <= unit < self._size(node):
                    step = 0 if self.execution.layered else int(log.step[row])
                    self.emitting[node][unit] = True
                    self.changes[node].append((step, unit, int(log.cell[row])))

    def _holders(self, node: int, step: int) -> Tensor:
        junction = self.junctions[node]
        assert junction.windows is not None
        holders = torch.tensor([int(cells[0]) for cells in members(junction.windows, junction.cells[0])])
        for at, unit, cell in self.changes[node]:
            if at <= step:
                holders[unit] = cell
        return holders

    def _through(self, k: int, amounts: Tensor) -> Tensor:
        """Currents of projection k for amounts delivered by its sources."""
        return ((amounts * self._source_scale(k)) @ self.weights[k]) * self._target_scale(k)

    def _first_unit(self, node: int) -> int:
        return 0 if node < 0 else int(self.layout.first_unit[node])

    def _size(self, node: int) -> int:
        return self.layout.inputs if node < 0 else int(self.layout.size[node])

    def _into(self, p: int) -> list[int]:
        return [int(k) for k in np.flatnonzero(self.layout.target == p)]

    def _source_scale(self, k: int) -> "Tensor | float":
        scale = self.values.source_scale[k]
        return 1.0 if scale is None else scale[self.t, self.b]

    def _target_scale(self, k: int) -> "Tensor | float":
        scale = self.values.target_scale[k]
        return 1.0 if scale is None else scale[self.t, self.b]

    def _variable(self, row: int) -> Tensor:
        """The spike variable of a row, its input value, or a constant if it was pending before the run."""
        log = self.log
        if row < log.emitted[self.b, 1]:
            return self.values.x.new_tensor(float(log.amplitude[row]))
        if log.source[row] < self.layout.inputs:
            t = int(np.searchsorted(log.emitted[self.b], row, side="right")) - 2
            return self.values.x[t, self.b, int(log.source[row])]
        return self.spike_variable[row]


_TABLES: WeakKeyDictionary[Graph, list[Table]] = WeakKeyDictionary()


def tables_of(graph: Graph) -> list[Table]:
    """Return every synapse of every projection; graphs are immutable, so they are listed once."""
    if graph not in _TABLES:
        _TABLES[graph] = [projection.synapses.table() for projection in graph.projections]
    return _TABLES[graph]


def _arrive(arrivals: dict[int, Tensor], step: int, current: Tensor) -> None:
    arrivals[step] = arrivals[step] + current if step in arrivals else current
