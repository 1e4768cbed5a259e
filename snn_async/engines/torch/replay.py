"""The masked sum of docs/design.md, section 5, for a whole batch at once, left to autograd.

    u_i = base_i + b_i + sum_j w_ji s_j [ j was delivered to i no later than i's decisive evaluation ]

Population by population within a timestep: everything upstream is known then, so that the currents of all forward steps
are one product per projection, over the pairs of sample and forward step in which something arrives. Which currents a
decisive evaluation sees is a mask. Memory within a timestep is O(pairs x neurons), on top of what autograd keeps.

Spikes are those of the log and slopes those at its potentials: rounding cannot turn a decision round.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snn_async.engines.contract import Execution, Simulation, Start, Values
from snn_async.engines.torch.holders import Holders
from snn_async.engines.torch.junctions import Windows
from snn_async.engines.torch.maps import current_maps
from snn_async.engines.torch.neurons import Traits
from snn_async.engines.torch.rows import NEVER, Decisions, LogIndex
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of
from snn_async.learning.slopes import surrogate_derivatives

MOST_STEPS = 1 << 32  # more than a timestep can have


@dataclass(frozen=True)
class Stream:
    """What arrives or is delivered within a timestep.

    Attributes:
        sample, step: (R,) pairs, sorted and each once.
        amounts: (R, n) differentiable.
    """

    sample: Tensor
    step: Tensor
    amounts: Tensor

    @property
    def key(self) -> Tensor:
        """(R,) numbers that order by sample, then step."""
        return self.sample * MOST_STEPS + self.step


def masked_sum(
    graph: Graph,
    execution: Execution,
    values: Values,
    start: Start,
    simulation: Simulation,
    surrogates: Sequence[Callable[[Tensor], Tensor]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return differentiable spikes and potentials (T, B, N) of a simulation that kept its log.

    Args:
        surrogates: one function of u - threshold per population instead of the neurons' own. With smooth ones the
            result is a smooth function of `values`, and its gradient can be checked by finite differences.

    Raises:
        GradientError: if a surrogate's derivative is not finite.
    """
    replay = _Replay(graph, execution, values, start, simulation, surrogates)
    spikes, potentials = zip(*(replay.timestep(t) for t in range(len(values.x))), strict=True)
    return torch.stack(spikes), torch.stack(potentials)


class _Replay:
    def __init__(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        simulation: Simulation,
        surrogates: Sequence[Callable[[Tensor], Tensor]] | None,
    ) -> None:
        assert simulation.log is not None
        log, device = simulation.log, values.x.device
        self.graph, self.execution, self.values, self.simulation = graph, execution, values, simulation
        self.layout = layout = layout_of(graph)
        self.maps, self.traits = current_maps(graph, values), Traits(graph, execution, values)
        self.neurons = [population.neuron for population in graph.populations]
        self.surrogates, self.slopes = surrogates, None
        if surrogates is None:
            on_cpu = replace(values, threshold=values.threshold.detach().cpu())
            self.slopes = surrogate_derivatives(graph, on_cpu, log)
        self.log, self.index = log, LogIndex(layout, log, execution.layered)
        self.turn_step = torch.from_numpy(log.turn_step).long().to(device)
        self.everyone = torch.arange(values.x.shape[1], device=device)
        self.junctions = dict(enumerate(graph.junctions, layout.populations))
        self.windows = {n: Windows(j, device) for n, j in self.junctions.items() if j.kind == "max"}
        self.into = [
            [k for k, target in enumerate(layout.target.tolist()) if target == node]
            for node in range(len(layout.turn))
        ]
        self.through_max = self._nodes_through_max()
        self.potential = values.potentials
        self.count = torch.from_numpy(start.spikes).to(values.x)
        self.recorded = values.potentials.detach(), self.count.long()
        self.variables: dict[tuple[int, int], Tensor] = {}  # of spikes, by timestep and population

    def timestep(self, t: int) -> tuple[Tensor, Tensor]:
        """Return the spike counts and the potentials (B, N) of timestep t, which follows the last one."""
        self.t = t
        potentials, spikes = self.recorded
        base, residual, self.swallowed = self.traits.begin(self.potential, spikes, potentials)
        base = base - residual
        self.streams: dict[int, Stream | None] = {}
        self.joins: dict[int, Tensor] = {}
        self.holders: dict[int, Holders] = {}
        self.silent: list[Tensor] = []
        if self.execution.leftover == "drop":
            self.variables.clear()
        after, counts = [], []
        for p in range(len(self.neurons)):
            here = slice(*self.layout.start[p : p + 2])
            u, count, silent = self._population(p, base[:, here])
            after.append(u)
            counts.append(count)
            self.silent.append(silent)
        self.potential, self.count = torch.cat(after, 1) + residual, torch.cat(counts, 1)
        self.recorded = self.simulation.potentials[t], self.simulation.spikes[t].long()
        return self.count, self.potential

    # -- neurons ---------------------------------------------------------------------------------------

    def _population(self, p: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the final potential, the spike count and the silent spike variable of each neuron, (B, n)."""
        decisions = self.index.decisions(self.t, p, self.slopes, u.device)
        spiking, here = self.neurons[p].spiking, slice(*self.layout.start[p : p + 2])
        arrivals, lands = self._arrivals(p), ~self.swallowed[:, here]
        before = torch.full(u.shape, -1, device=u.device)
        count, silent, variables = torch.zeros_like(u), torch.zeros_like(u), []
        for m, step in enumerate(decisions.step):
            deciding = step < NEVER
            current = _between(arrivals, before, torch.where(deciding, step, -1))
            if m == 0:
                current = current + self._would_be_currents(p, step)
            u = u + torch.where(lands & deciding, current, 0.0)
            before = torch.where(deciding, step, before)
            if not spiking:
                continue
            s = self._spike(p, u - self.values.threshold[here], decisions, m)
            variables.append(s)
            count = count + s
            silent = torch.where(deciding & ~decisions.fired[m], s, silent)
            u = torch.where(deciding, self._reset(p, u, s), u)
        if variables:
            self.variables[self.t, p] = torch.stack(variables)[tuple(decisions.spikes)]
        if self.execution.refractory[p] == "integrate":
            rest = _between(arrivals, before, torch.full_like(before, NEVER))
            u = u + torch.where(lands, rest, 0.0)
        return u, count, silent

    def _spike(self, p: int, above: Tensor, decisions: Decisions, m: int) -> Tensor:
        """Return the m-th spike variables (B, n), with the surrogate gradient at `above` = u - threshold."""
        if self.surrogates is not None:
            return torch.where(decisions.step[m] < NEVER, self.surrogates[p](above), 0.0)
        assert decisions.slope is not None
        return decisions.fired[m].to(above) + decisions.slope[m] * (above - above.detach())

    def _reset(self, p: int, u: Tensor, s: Tensor) -> Tensor:
        neuron, here = self.neurons[p], slice(*self.layout.start[p : p + 2])
        if neuron.delayed_reset or neuron.reset == "none":
            return u
        if neuron.detach_reset:
            s = s.detach()
        if neuron.reset == "subtract":
            return u - s * self.values.threshold[here]
        return (1 - s) * u + s * neuron.reset_value

    def _arrivals(self, p: int) -> list[Stream]:
        """Currents into population p: bias, recurrent spikes, input and delivered events."""
        arrivals = []
        turn_step = self.turn_step[self.t, :, p]
        turned = turn_step >= 0
        rows = self.everyone[turned]
        for k in self.into[p]:
            first, size = int(self.layout.bias_start[k]), int(self.layout.fan_out[k])
            bias = self.values.biases[first : first + size].expand(len(rows), -1)
            arrivals.append(
                Stream(rows, turn_step[rows], self._scaled(bias, self.values.target_scale[k], rows))
            )
            if self.layout.delayed[k]:
                begin = int(self.layout.first_source[k]) - self.layout.inputs
                counts = self.count[rows, begin : begin + int(self.layout.fan_in[k])]
                arrivals.append(Stream(rows, turn_step[rows], self._through(k, counts, rows)))
                continue
            stream = self._emissions(int(self.layout.source[k]))
            if stream is None:
                continue
            if self.execution.leftover == "drop" and not bool(turned.all()):
                stream = _only(stream, turned[stream.sample])  # the barrier was not reached in the others
            arrivals.append(replace(stream, amounts=self._through(k, stream.amounts, stream.sample)))
        return arrivals

    # -- what nodes send -------------------------------------------------------------------------------

    def _emissions(self, node: int) -> Stream | None:
        """What a node's units deliver in this timestep, None if nothing."""
        if node not in self.streams:
            self.streams[node] = self._compute_emissions(node)
        return self.streams[node]

    def _compute_emissions(self, node: int) -> Stream | None:
        if node < 0 and not self.execution.queues_input:
            pending = self._delivered(node)
            now = Stream(self.everyone, torch.zeros_like(self.everyone), self.values.x[self.t])
            return now if pending is None else _merge([now, pending])
        if node not in self.junctions or self.junctions[node].waits:
            return self._delivered(node)
        parts = []
        for k in self.into[node]:
            stream = self._emissions(int(self.layout.source[k]))
            if stream is not None:
                parts.append(replace(stream, amounts=self._through(k, stream.amounts, stream.sample)))
        if not parts:
            return None
        arrivals = _merge(parts)
        return arrivals if self.junctions[node].kind == "sum" else self._increases(node, arrivals)

    def _increases(self, node: int, arrivals: Stream) -> Stream:
        """By how much the maximum of every window rises in each step: that of the cell which holds it."""
        samples, rows = arrivals.sample, torch.arange(len(arrivals.sample), device=arrivals.sample.device)
        first = torch.searchsorted(samples, samples)
        rank = rows - first
        shape = (len(self.everyone), int(rank.max()) + 1, arrivals.amounts.shape[1])
        steps = arrivals.amounts.new_zeros(shape).index_put((samples, rank), arrivals.amounts)
        cells = steps.cumsum(1)[samples, rank]
        now = cells.gather(1, self._holders(node).at(samples, arrivals.step))
        before = torch.where((rank > 0)[:, None], now.roll(1, 0), 0.0)
        return replace(arrivals, amounts=now - before)

    def _delivered(self, node: int) -> Stream | None:
        """The events of a node's own that were delivered."""
        rows = self.index.delivered(self.t, node)
        if not len(rows):
            return None
        device, index = self.values.x.device, self.index
        key, pair = np.unique(index.sample[rows] * MOST_STEPS + index.step[rows], return_inverse=True)
        place = (torch.from_numpy(pair).to(device), torch.from_numpy(index.unit[rows]).to(device))
        zeros = self.values.x.new_zeros((len(key), self._size(node)))
        amounts = zeros.index_put(place, self._variables_of(node, rows), accumulate=True)
        sample, step = (torch.from_numpy(part).to(device) for part in np.divmod(key, MOST_STEPS))
        return Stream(sample, step, amounts)

    def _variables_of(self, node: int, rows: np.ndarray) -> Tensor:
        """The spike variables of rows, their input values, or constants if they were pending before the run."""
        emitted = self.index.timestep[rows]
        times = np.unique(emitted).tolist()
        if len(times) == 1:
            return self._variables_from(times[0], node, rows)
        parts = [np.flatnonzero(emitted == t) for t in times]
        found = [self._variables_from(t, node, rows[part]) for t, part in zip(times, parts, strict=True)]
        back = np.argsort(np.concatenate(parts))
        return torch.cat(found)[torch.from_numpy(back).to(self.values.x.device)]

    def _variables_from(self, t: int, node: int, rows: np.ndarray) -> Tensor:
        """The same for rows that were all emitted in timestep t."""
        device, index = self.values.x.device, self.index
        if t < 0:
            return torch.from_numpy(self.log.amplitude[rows]).to(self.values.x)
        if 0 <= node < self.layout.populations:
            return self.variables[t, node][torch.from_numpy(index.place[rows]).to(device)]
        of_units = self.values.x[t] if node < 0 else self._joined(node)
        sample, unit = (torch.from_numpy(part[rows]).to(device) for part in (index.sample, index.unit))
        return of_units[sample, unit]

    def _joined(self, node: int) -> Tensor:
        """The values (B, U) of an "and" or "iand", from everything delivered and the silent variables."""
        if node not in self.joins:
            operands = [self.values.x.new_zeros((len(self.everyone), self._size(node))) for _ in range(2)]
            at_last = torch.full_like(self.everyone, NEVER)
            for k in self.into[node]:
                port, source = self.graph.projections[k].port, int(self.layout.source[k])
                stream = self._emissions(source)
                if stream is not None:
                    current = self._through(k, stream.amounts, stream.sample)
                    operands[port] = operands[port].index_add(0, stream.sample, current)
                silent = self._would_be(source, self.everyone, at_last)
                if silent is not None:
                    operands[port] = operands[port] + self._through(k, silent, self.everyone)
            a, b = operands
            value = a * b if self.junctions[node].kind == "and" else a * (1 - b)
            released = self.turn_step[self.t, :, node] >= 0
            self.joins[node] = torch.where(released[:, None], value, 0.0)
        return self.joins[node]

    # -- what silent units would have sent -------------------------------------------------------------

    def _would_be_currents(self, p: int, first: Tensor) -> Tensor:
        """Currents (B, n), of value 0, from silent units, at each neuron's first decisive evaluation (B, n)."""
        total = torch.zeros(first.shape, device=first.device).to(self.values.x)
        for k in self.into[p]:
            if self.layout.delayed[k]:
                continue
            node = int(self.layout.source[k])
            if not self.through_max[node]:
                amounts = self._would_be(node, self.everyone, self.everyone)
                if amounts is not None:
                    total = total + self._through(k, amounts, self.everyone)
                continue
            # who holds a maximum depends on when one looks
            key = torch.unique(self.everyone[:, None] * MOST_STEPS + first)
            sample, step = key // MOST_STEPS, key % MOST_STEPS
            some = step < NEVER
            sample, step = sample[some], step[some]
            amounts = self._would_be(node, sample, step)
            if amounts is not None:
                current = self._through(k, amounts, sample)
                seen = torch.where(first[sample] == step[:, None], current, 0.0)
                total = total.index_add(0, sample, seen)
        return total

    def _would_be(self, node: int, sample: Tensor, step: Tensor) -> Tensor | None:
        """What silent units might have sent (R, units), as seen in a sample's forward step; None for nothing."""
        if node < 0:
            if not self.execution.queues_input:
                return None
            x = self.values.x[self.t]
            return torch.where(x == 0, x, 0.0)[sample]
        if node not in self.junctions:
            return self.silent[node][sample]
        junction = self.junctions[node]
        if junction.waits:
            return torch.where(self._released(node), 0.0, self._joined(node))[sample]
        cells: Tensor | None = None
        for k in self.into[node]:
            amounts = self._would_be(int(self.layout.source[k]), sample, step)
            if amounts is not None:
                current = self._through(k, amounts, sample)
                cells = current if cells is None else cells + current
        if cells is None or junction.kind == "sum":
            return cells
        return cells.gather(1, self._holders(node).at(sample, step))

    def _released(self, node: int) -> Tensor:
        """Which units (B, U) of a waiting junction passed something on."""
        rows = self.index.emitted(self.t, node)
        released = torch.zeros((len(self.everyone), self._size(node)), dtype=torch.bool)
        released[torch.from_numpy(self.index.sample[rows]), torch.from_numpy(self.index.unit[rows])] = True
        return released.to(self.values.x.device)

    def _nodes_through_max(self) -> dict[int, bool]:
        """Whether what a node passes on at once has come through a "max"."""
        found = {node: False for node in range(-1, self.layout.populations)}
        for node, junction in self.junctions.items():  # in topological order
            sources = [int(self.layout.source[k]) for k in self.into[node]]
            found[node] = junction.kind == "max" or (
                junction.kind == "sum" and any(found[source] for source in sources)
            )
        return found

    def _holders(self, node: int) -> Holders:
        if node not in self.holders:
            rows = self.index.emitted(self.t, node)
            self.holders[node] = Holders(
                self.windows[node].first,
                len(self.everyone),
                self.index.sample[rows],
                self.index.step[rows],
                self.index.unit[rows],
                self.log.cell[rows].astype(np.int64),
            )
        return self.holders[node]

    # -- synapses --------------------------------------------------------------------------------------

    def _through(self, k: int, amounts: Tensor, rows: Tensor) -> Tensor:
        """Currents (R, fan_out) of projection k for amounts (R, fan_in) delivered in the samples `rows`."""
        amounts = self._scaled(amounts, self.values.source_scale[k], rows)
        return self._scaled(self.maps[k](amounts), self.values.target_scale[k], rows)

    def _scaled(self, amounts: Tensor, scale: Tensor | None, rows: Tensor) -> Tensor:
        return amounts if scale is None else amounts * scale[self.t][rows]

    def _size(self, node: int) -> int:
        return self.layout.inputs if node < 0 else int(self.layout.size[node])


def _between(streams: list[Stream], after: Tensor, until: Tensor) -> Tensor:
    """Return the sum (B, n) of what each neuron gets later than `after` (B, n) and no later than `until` (B, n)."""
    total: Tensor | None = None
    for stream in streams:
        step = stream.step[:, None]
        seen = (step > after[stream.sample]) & (step <= until[stream.sample])
        part = torch.where(seen, stream.amounts, 0.0)
        zeros = part.new_zeros(after.shape)
        total = (zeros if total is None else total).index_add(0, stream.sample, part)
    assert total is not None  # every population has a projection into it
    return total


def _merge(streams: list[Stream]) -> Stream:
    """Return the sum of streams."""
    if len(streams) == 1:
        return streams[0]
    key, pair = torch.unique(torch.cat([stream.key for stream in streams]), return_inverse=True)
    amounts = torch.cat([stream.amounts for stream in streams])
    summed = amounts.new_zeros((len(key), amounts.shape[1])).index_add(0, pair, amounts)
    return Stream(key // MOST_STEPS, key % MOST_STEPS, summed)


def _only(stream: Stream, mask: Tensor) -> Stream:
    return Stream(stream.sample[mask], stream.step[mask], stream.amounts[mask])
