"""The oracle: the masked sum of docs/design.md, section 5, computed from an event log and left to autograd.

    u_i = base_i + gain_i * (b_i + sum_j w_ji s_j [ j was delivered to i no later than i's decisive evaluation ])
    s_i = H(u_i - threshold_i)

Every decisive evaluation is one spike variable. Silent ones (value 0) meet each target at its first decisive
evaluation; delivered ones at the first decisive evaluation not before their delivery. Junctions (section 7) are
functions of what reached them: of the log, only the holders of "max" units are read.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from snn_async.engines.contract import NEVER, Execution, Slopes, Start, Values
from snn_async.engines.event_log import EventLog
from snn_async.engines.reference.junctions import members
from snn_async.engines.reference.tables import matrices
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of
from snn_async.graph.parameters import dealt


def masked_sum(
    graph: Graph,
    execution: Execution,
    values: Values,
    start: Start,
    log: EventLog,
    slopes: Slopes | None = None,
    surrogates: Sequence[Callable[[Tensor], Tensor]] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the differentiable spikes, currents and potentials (B, N) and the amplitudes left over (L,).

    Args:
        values: on the CPU, like everything else.
        slopes: spikes have the values of the log and these derivatives.
        surrogates: without `slopes`, one function of u - threshold per population, the neurons' own if None. With
            smooth ones the results are smooth functions of `values`: finite differences can check their gradient.
    """
    weights = matrices(graph, values)
    samples = [
        _Sample(graph, execution, values, weights, start, log, slopes, surrogates, b).run()
        for b in range(len(values.x))
    ]
    spikes, current, potential, left = zip(*samples, strict=True)
    return torch.stack(spikes), torch.stack(current), torch.stack(potential), torch.cat(left)


class _Sent(NamedTuple):
    """An emission of this timestep: its row in the log, the node's unit, the forward step, the holder of a "max"."""

    row: int
    unit: int
    step: int
    cell: int


class _Sample:
    """One sample's timestep, from its part of the log.

    Attributes:
        sent: per node.
        deliveries: per projection (row, forward step).
        variables: those of carried events and of spikes, by row, as they become known.
        silent: per population, the spike variables of silent decisive evaluations; 0 where there is none.
        sent_by: per population, the sum of what each neuron sends.
    """

    def __init__(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        weights: list[Tensor],
        start: Start,
        log: EventLog,
        slopes: Slopes | None,
        surrogates: Sequence[Callable[[Tensor], Tensor]] | None,
        b: int,
    ) -> None:
        self.graph, self.execution, self.values, self.b = graph, execution, values, b
        self.log, self.slopes, self.layout = log, slopes, layout_of(graph)
        self.neurons = [population.neuron for population in graph.populations]
        self.surrogates = surrogates or [neuron.surrogate for neuron in self.neurons]
        self.weights, self.live = weights, dealt(graph, values.parameters)[1]
        self.junctions = dict(enumerate(graph.junctions, self.layout.populations))
        self.x, self.turn_step = values.x[b], log.turn_step[b].tolist()
        self.silent: dict[int, Tensor] = {}
        self.sent_by: dict[int, Tensor] = {}
        self.passed: dict[int, dict[int, Tensor]] = {}
        self.joined: dict[int, Tensor] = {}
        self.rows = range(int(log.offsets[b]), int(log.offsets[b + 1]))
        self.variables = dict(zip(self.rows, values.pending[start.pending.sample == b], strict=False))
        self.sent: dict[int, list[_Sent]] = defaultdict(list)
        for row in self.rows[int(log.carried[b]) :]:
            node, unit = self._place(row)
            self.sent[node].append(_Sent(row, unit, int(log.step[row]), int(log.cell[row])))
        self.deliveries: dict[int, list[tuple[int, int]]] = defaultdict(list)
        columns = (log.event.tolist(), log.projection.tolist(), log.step_of_delivery.tolist())
        for row, k, step in zip(*columns, strict=True):
            if row in self.rows:
                self.deliveries[k].append((row, step))

    def run(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return spikes, current and potential (N,), and the amplitudes left over."""
        results = [self._population(p) for p in range(len(self.neurons))]
        spikes, current, potential = (torch.cat(parts) for parts in zip(*results, strict=True))
        left = [self._variable(row)[None] for row in self.log.left.tolist() if row in self.rows]
        return spikes, current, potential, torch.cat([self.x.new_zeros(0), *left])

    # -- neurons ---------------------------------------------------------------------------------------

    def _population(self, p: int) -> tuple[Tensor, Tensor, Tensor]:
        here = slice(*self.layout.start[p : p + 2].tolist())
        base, gain, threshold = (
            member[self.b, here] for member in (self.values.base, self.values.gain, self.values.threshold)
        )
        silent_step = self.log.silent_step[self.b, here]
        first, last = self._decisive_range(p, silent_step)
        arrivals, would_be = self._arrivals(p), self._would_be_currents(p, first)
        integrating = self.execution.refractory[p] == "integrate"
        spikes, current, silent, nothing = (torch.zeros_like(base) for _ in range(4))
        decisions = {*silent_step[silent_step >= 0].tolist(), *(sent.step for sent in self.sent[p])}
        for step in sorted(decisions | set(arrivals)):
            lands = (step <= last) | integrating
            current = current + torch.where(lands, arrivals.get(step, nothing), 0.0)
            current = current + torch.where(first == step, would_be, 0.0)
            if not self.neurons[p].spiking:
                continue
            fired = {sent.unit: sent.row for sent in self.sent[p] if sent.step == step}
            firing = torch.zeros(len(base), dtype=torch.bool)
            firing[list(fired)] = True
            deciding = firing | (silent_step == step)
            u = base + gain * current
            s = torch.where(deciding, self._spike(p, u - threshold, fired), 0.0)
            spikes = spikes + s
            silent = torch.where(silent_step == step, s, silent)
            self.variables.update({row: s[i] for i, row in fired.items()})
            base = base + self._reset(p, u, s, threshold, firing)
        self.silent[p], potential = silent, base + gain * current
        self.sent_by[p] = potential if self.neurons[p].analog else spikes
        return self.sent_by[p], current, potential

    def _decisive_range(self, p: int, silent_step: Tensor) -> tuple[Tensor, Tensor]:
        """Forward steps of every neuron's first and last decisive evaluation; NEVER and -1 if there is none."""
        first = torch.where(silent_step >= 0, silent_step, NEVER)
        last = silent_step.clone()
        for sent in self.sent[p]:
            first[sent.unit] = min(int(first[sent.unit]), sent.step)
            last[sent.unit] = max(int(last[sent.unit]), sent.step)
        return first, last

    def _spike(self, p: int, above: Tensor, fired: dict[int, int]) -> Tensor:
        """Spike variables at `above` = u - threshold; `fired` are those who spiked, with their rows."""
        if self.slopes is None:
            return self.surrogates[p](above)
        value = torch.zeros_like(above)
        slope = self.slopes.silent[self.b, slice(*self.layout.start[p : p + 2].tolist())].clone()
        for i, row in fired.items():
            value[i], slope[i] = self.log.amplitude[row], self.slopes.events[row]
        return value + slope * (above - above.detach())

    def _reset(self, p: int, u: Tensor, s: Tensor, threshold: Tensor, firing: Tensor) -> Tensor:
        """What the spikes do to the base at once; 0 for spike variables of 0."""
        neuron = self.neurons[p]
        if neuron.detach_reset:
            s = s.detach()
        if neuron.reset == "subtract":
            return -s * threshold
        if neuron.reset == "value":  # whatever a graded spike's value is, it sets the potential
            return (s if neuron.binary else firing.to(s)) * (neuron.reset_value - u)
        return torch.zeros_like(u)

    # -- what arrives ----------------------------------------------------------------------------------

    def _arrivals(self, node: int) -> dict[int, Tensor]:
        """Currents into a population, or a junction that passes them on at once, by forward step."""
        arrivals: dict[int, Tensor] = {}
        turn = self.turn_step[node]
        for k in self._into(node):
            for step, current in self._currents(k).items():
                _add(arrivals, step, current)
            if turn >= 0:
                _add(arrivals, turn, self._bias(k))
        return arrivals

    def _bias(self, k: int) -> Tensor:
        """The bias that projection k brings to its target."""
        begin, out = int(self.layout.bias_start[k]), int(self.layout.fan_out[k])
        bias = self.values.biases[begin : begin + out] if begin >= 0 else self.x.new_zeros(out)
        return bias * self._target_scale(k)

    def _currents(self, k: int) -> dict[int, Tensor]:
        """What projection k brings, by forward step."""
        amounts: dict[int, Tensor] = self._unlogged(k)
        for row, step in self.deliveries[k]:
            one = torch.zeros(int(self.layout.fan_in[k]), dtype=self.x.dtype)
            one[self.log.source[row] - int(self.layout.first_source[k])] = 1
            _add(amounts, step, one * self._variable(row))
        return {step: self._through(k, sent) for step, sent in amounts.items()}

    def _unlogged(self, k: int) -> dict[int, Tensor]:
        """What no row of the log stands for: the input frame, what junctions pass on of its zeros, the last spikes."""
        source, target = int(self.layout.source[k]), int(self.layout.target[k])
        turn = self.turn_step[target]
        if target < len(self.neurons) and turn < 0:
            return {}
        if self.layout.delayed[k]:
            first = int(self.layout.first_source[k]) - self.layout.inputs
            return {turn: self.values.last_spikes[self.b, first : first + int(self.layout.fan_in[k])]}
        if self.layout.settled[k]:
            return {turn: self._part(k, self.sent_by[source])}
        if source < 0:
            return {} if self.execution.queues_input else {0: self._part(k, self.x)}
        if source not in self.junctions or self.junctions[source].waits:
            return {}
        amounts = dict(self._passed(source))
        for sent in self.sent[source]:
            logged = torch.arange(self._size(source)) == sent.unit
            amounts[sent.step] = torch.where(logged, 0.0, amounts[sent.step])
        return amounts

    def _variable(self, row: int) -> Tensor:
        """The differentiable amplitude of an event."""
        if row in self.variables:
            return self.variables[row]
        node, unit = self._place(row)
        if node < 0:
            return self.x[unit]
        waits = self.junctions[node].waits
        return (self._joined(node) if waits else self._passed(node)[int(self.log.step[row])])[unit]

    def _through(self, k: int, amounts: Tensor) -> Tensor:
        """Currents of projection k for amounts delivered by its sources."""
        scale = self.values.source_scale[k]
        if scale is not None:
            amounts = amounts * scale[self.b]
        return (amounts @ self.weights[k]) * self._target_scale(k)

    def _target_scale(self, k: int) -> "Tensor | float":
        scale = self.values.target_scale[k]
        return 1.0 if scale is None else scale[self.b]

    # -- junctions -------------------------------------------------------------------------------------

    def _passed(self, node: int) -> dict[int, Tensor]:
        """What all units of a sum or max pass on, by forward step."""
        if node not in self.passed:
            arrivals = self._arrivals(node)
            if self.execution.layered:  # everything arrives before it passes anything on
                step = self.sent[node][0].step if self.sent[node] else 0
                arrivals = {step: sum(arrivals.values(), self.x.new_zeros(self.junctions[node].cell_count))}
            is_sum = self.junctions[node].kind == "sum"
            self.passed[node] = arrivals if is_sum else self._increases(node, arrivals)
        return self.passed[node]

    def _increases(self, node: int, arrivals: dict[int, Tensor]) -> dict[int, Tensor]:
        """By how much the maximum of every window rises in each step: that of the cell which holds it."""
        increases: dict[int, Tensor] = {}
        cells, before = self.x.new_zeros(self.junctions[node].cell_count), self.x.new_zeros(())
        for step in sorted(arrivals):
            cells = cells + arrivals[step]
            now = cells[self._holders(node, step)]
            increases[step], before = now - before, now
        return increases

    def _holders(self, node: int, step: int) -> Tensor:
        """The cells that hold the maxima of a "max" after a forward step."""
        junction = self.junctions[node]
        assert junction.windows is not None
        holders = torch.tensor([int(cells[0]) for cells in members(junction.windows, junction.cells[0])])
        for sent in self.sent[node]:
            if sent.step <= step:
                holders[sent.unit] = sent.cell
        return holders

    def _joined(self, node: int) -> Tensor:
        """The values of a junction that waits, from everything delivered and the silent variables."""
        if node not in self.joined:
            junction, live = self.junctions[node], self.live[node - self.layout.populations]
            cells = self.x.new_zeros(junction.cell_count)
            for k in self._into(node):
                current = sum(self._currents(k).values(), self._bias(k))
                if not self.layout.delayed[k]:
                    current = current + self._would_be_through(k, NEVER)
                first = int(self.layout.first_target[k] - self.layout.first_receiver[node])
                cells = cells + functional.pad(current, (first, len(cells) - first - len(current)))
            released = self.turn_step[node] >= 0
            value = junction.value(cells[None], live)[0] if released else self.x.new_zeros(self._size(node))
            self.joined[node] = value
        return self.joined[node]

    # -- what silent units would have sent -------------------------------------------------------------

    def _would_be_currents(self, p: int, first: Tensor) -> Tensor:
        """Currents, of value 0, from silent units, at each neuron's first decisive evaluation."""
        total = torch.zeros(len(first), dtype=self.x.dtype)
        for step in sorted(set(first[first < NEVER].tolist())):
            for k in self._into(p):
                if not self.layout.delayed[k]:
                    current = self._would_be_through(k, step)
                    total = total + torch.where(first == step, current, 0.0)
        return total

    def _would_be_through(self, k: int, step: int) -> Tensor:
        """The currents of `_would_be` through projection k."""
        return self._through(k, self._part(k, self._would_be(int(self.layout.source[k]), step)))

    def _would_be(self, node: int, step: int) -> Tensor:
        """What a node's silent units might have sent, as seen by an evaluation in forward step `step`; values 0."""
        if node < 0:
            return (
                torch.where(self.x == 0, self.x, 0.0)
                if self.execution.queues_input
                else torch.zeros_like(self.x)
            )
        if node not in self.junctions:
            return self.silent[node]
        junction = self.junctions[node]
        if junction.waits:
            emitting = torch.zeros(self._size(node), dtype=torch.bool)
            emitting[[sent.unit for sent in self.sent[node]]] = True
            return torch.where(emitting, 0.0, self._joined(node))
        cells = self.x.new_zeros(junction.cell_count)
        for k in self._into(node):
            cells = cells + self._would_be_through(k, step)
        return cells if junction.kind == "sum" else cells[self._holders(node, step)]

    # -- where things are ------------------------------------------------------------------------------

    def _place(self, row: int) -> tuple[int, int]:
        """Node and unit of an event."""
        source = int(self.log.source[row])
        node = int(np.searchsorted(self.layout.first_unit, source, side="right")) - 1
        return node, source - (0 if node < 0 else int(self.layout.first_unit[node]))

    def _part(self, k: int, values: Tensor) -> Tensor:
        """What projection k takes of the values of its node: of all inputs, its own."""
        node = int(self.layout.source[k])
        first = int(self.layout.first_source[k]) - (0 if node < 0 else int(self.layout.first_unit[node]))
        return values[first : first + int(self.layout.fan_in[k])]

    def _size(self, node: int) -> int:
        return self.layout.inputs if node < 0 else int(self.layout.size[node])

    def _into(self, node: int) -> list[int]:
        return np.flatnonzero(self.layout.target == node).tolist()


def _add(arrivals: dict[int, Tensor], step: int, current: Tensor) -> None:
    arrivals[step] = arrivals[step] + current if step in arrivals else current
