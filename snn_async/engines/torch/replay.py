"""The masked sum of docs/design.md, section 5, of one timestep for a whole batch at once, left to autograd.

    u_i = base_i + gain_i * (b_i + sum_j w_ji s_j [ j was delivered to i no later than i's decisive evaluation ])

Population by population: everything upstream is known then, so that the currents of all forward steps are one product
per projection, over the pairs of sample and forward step in which something arrives. Which currents a decisive
evaluation sees is a mask. Memory is O(pairs x neurons), on top of what autograd keeps.

Spikes are those of the log and slopes those that are given: rounding cannot turn a decision round.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from snn_async.engines.contract import NEVER, NOT_YET, Execution, Slopes, Start, Values
from snn_async.engines.event_log import EventLog
from snn_async.engines.torch.device import MOST_STEPS, Distinct, numbers, to_host
from snn_async.engines.torch.maps import current_maps
from snn_async.engines.torch.rows import Decisions, LogIndex, Stream
from snn_async.engines.torch.structure import structure_of
from snn_async.graph import Graph
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
        slopes: spikes have the values of the log and these derivatives.
        surrogates: without `slopes`, one function of u - threshold per population, the neurons' own if None. With
            smooth ones the result is a smooth function of `values`: its gradient can be checked by finite differences.
    """
    return _Replay(graph, execution, values, log, slopes, surrogates).run()


class _Replay:
    """A timestep.

    Attributes:
        variables: of the rows of a node (`LogIndex.rows`), as they become known.
        silent: (B, n) spike variables of a population's silent decisive evaluations, 0 where there is none.
    """

    def __init__(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        log: EventLog,
        slopes: Slopes | None,
        surrogates: Sequence[Callable[[Tensor], Tensor]] | None,
    ) -> None:
        self.execution, self.values, self.log, self.slopes = execution, values, log, slopes
        self.structure = structure = structure_of(graph, execution, values.x.device)
        self.layout, self.neurons = structure.layout, structure.neurons
        self.surrogates = surrogates or [neuron.surrogate for neuron in self.neurons]
        self.maps, self.index = current_maps(graph, values), LogIndex(structure, log, slopes)
        self.junctions = dict(enumerate(graph.junctions, self.layout.populations))
        self.live = dealt(graph, values.parameters)[1]
        self.everyone = self.index.everyone
        self.variables: dict[int, Tensor] = {}
        self.silent: dict[int, Tensor] = {}
        self.passed: dict[int, list[Stream]] = {}
        self.joined: dict[int, Tensor] = {}

    def run(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return spikes, currents and potentials (B, N), and the amplitudes left over (L,)."""
        results = [self._population(p) for p in range(len(self.neurons))]
        spikes, current, potential = (torch.cat(parts, 1) for parts in zip(*results, strict=True))
        return spikes, current, potential, self._left()

    # -- neurons ---------------------------------------------------------------------------------------

    def _population(self, p: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum of the spikes, the current and the potential of each neuron, (B, n)."""
        here, decisions, values = self.structure.neurons_of(p), self.index.decisions(p), self.values
        base, gain, threshold = values.base[:, here], values.gain[:, here], values.threshold[:, here]
        arrivals, current = self._arrivals(p), torch.zeros_like(base)
        before = torch.full(base.shape, NOT_YET, device=base.device)
        count, silent, variables = torch.zeros_like(base), torch.zeros_like(base), []
        for m, step in enumerate(decisions.step):
            deciding = step < NEVER
            current = current + _between(
                arrivals, before, torch.where(deciding, step, NOT_YET), self.everyone
            )
            seen = numbers(deciding, base)
            if m == 0:
                current = current + seen * self._would_be_currents(p, step)
            before = torch.where(deciding, step, before)
            if not self.neurons[p].spiking:
                continue
            u, fired = base + gain * current, decisions.fired[m]
            s = seen * self._spike(p, u - threshold, decisions, m)
            variables.append(s)
            count = count + s
            silent = silent + numbers(deciding & ~fired, s) * s  # a neuron has one silent one at most
            base = base + self._reset(p, u, s, threshold, fired)
        self.silent[p] = silent
        if variables:
            self.variables[p] = torch.stack(variables).view(-1).index_select(0, decisions.spikes)
        if self.execution.refractory[p] == "integrate":  # who never decided got nothing
            until = torch.where(before >= 0, NEVER, NOT_YET)
            current = current + _between(arrivals, before, until, self.everyone)
        return count, current, base + gain * current

    def _spike(self, p: int, above: Tensor, decisions: Decisions, m: int) -> Tensor:
        """Return the m-th spike variables (B, n) at `above` = u - threshold."""
        if self.slopes is None:
            return self.surrogates[p](above)
        return decisions.value[m] + decisions.slope[m] * (above - above.detach())

    def _reset(self, p: int, u: Tensor, s: Tensor, threshold: Tensor, fired: Tensor) -> "Tensor | float":
        """What the spikes do to the base at once; 0 for spike variables of 0."""
        neuron = self.neurons[p]
        if neuron.detach_reset:
            s = s.detach()
        if neuron.reset == "subtract":
            return -s * threshold
        if neuron.reset == "value":  # whatever a graded spike's value is, it sets the potential
            return (s if neuron.binary else fired.to(s)) * (neuron.reset_value - u)
        return 0.0

    # -- what arrives ----------------------------------------------------------------------------------

    def _arrivals(self, node: int) -> list[Stream]:
        """Currents into a node: bias, recurrent spikes, input and delivered events."""
        arrivals = []
        for k in self.structure.into[node]:
            if not self.layout.delayed[k]:
                streams = self._sent(k)
                arrivals += [replace(s, amounts=self._through(k, s.amounts, s.sample)) for s in streams]
        if node < self.layout.populations:
            arrivals.append(Stream(self.everyone, self.log.turn_step[:, node], self._unsent(node), 1))
        return arrivals

    def _unsent(self, node: int) -> Tensor:
        """What a node gets without events of this timestep, (B, n): bias and recurrent spikes."""
        total = self.structure.bias(self.values, node)
        for k in self.structure.into[node]:
            if self.layout.delayed[k]:
                spikes = self.structure.last_spikes(self.values, k)
                total = total + self.structure.placed(k, self._through(k, spikes, self.everyone))
        return total.expand(len(self.everyone), -1)

    def _sent(self, k: int) -> list[Stream]:
        """What the sources of projection k deliver through it."""
        node = int(self.layout.source[k])
        if node in self.structure.instant:
            return self._passed_on(node)
        streams = self.index.delivered(k, partial(self._variables, node))
        if node < 0 and not self.execution.queues_input:
            x = self.values.x[:, self.structure.taken(k)]
            streams.append(Stream(self.everyone, torch.zeros_like(self.everyone), x, 1))
        return streams

    def _variables(self, node: int, rows: Tensor) -> Tensor:
        """The differentiable amplitudes of rows of a node."""
        own, carried = self._variables_of(node), self.values.pending
        if not len(carried):
            return own.index_select(0, self.index.place.index_select(0, rows))
        place = self.index.place[rows] + torch.where(self.index.carried[rows], 0, len(carried))
        return torch.cat((carried, own)).index_select(0, place)

    def _variables_of(self, node: int) -> Tensor:
        """The same of all rows that a node emitted in this timestep, in their order."""
        if node not in self.variables:
            rows = self.index.rows(node)
            if 0 <= node < self.layout.populations:
                self.variables[node] = self.values.x.new_zeros(len(rows))  # it decided nothing
            else:
                of_units = self.values.x if node < 0 else self._joined(node)
                self.variables[node] = of_units[self.index.sample[rows], self.index.unit[rows]]
        return self.variables[node]

    def _left(self) -> Tensor:
        """The amplitudes of what is left over."""
        if not len(self.log.left):
            return self.values.x.new_zeros(0)
        found = [self.values.pending]  # by node, as in `LogIndex.position`
        for node in self.structure.out_of:
            passed_on = node in self.structure.instant  # such events are never pending
            rows = self.index.rows(node)
            found.append(self.values.x.new_zeros(len(rows)) if passed_on else self._variables_of(node))
        return torch.cat(found)[self.index.position[self.log.left]]

    # -- junctions -------------------------------------------------------------------------------------

    def _passed_on(self, node: int) -> list[Stream]:
        """What all units of a sum or max pass on."""
        if node not in self.passed:
            arrivals = self._arrivals(node)
            if self.execution.layered:  # everything arrives before it passes anything on
                rows, step = self.index.rows(node), torch.zeros_like(self.everyone)
                step = step.index_put((self.index.sample[rows],), self.log.step[rows])
                arrivals = [replace(stream, step=step[stream.sample]) for stream in arrivals]
            if len(arrivals) > 1:
                arrivals = [_merged(arrivals, len(self.everyone))]
            if self.junctions[node].kind == "max":
                arrivals = [self._increases(node, stream) for stream in arrivals]
            self.passed[node] = arrivals
        return self.passed[node]

    def _increases(self, node: int, arrivals: Stream) -> Stream:
        """By how much the maximum of every window rises in each step: that of the cell which holds it."""
        samples, every = arrivals.sample, torch.arange(len(arrivals.sample), device=arrivals.sample.device)
        nth = every - torch.searchsorted(samples, samples)
        steps = arrivals.amounts.new_zeros((len(self.everyone), arrivals.most, arrivals.amounts.shape[1]))
        cells = steps.index_put((samples, nth), arrivals.amounts).cumsum(1)[samples, nth]
        now = cells.gather(1, self.index.holders(node, samples, arrivals.step))
        before = torch.where((nth > 0)[:, None], now.roll(1, 0), 0.0)
        return replace(arrivals, amounts=now - before)

    def _joined(self, node: int) -> Tensor:
        """The values (B, U) of a junction that waits, from everything delivered and the silent variables."""
        if node not in self.joined:
            at_last, cells = torch.full_like(self.everyone, NEVER), self._unsent(node)
            for k in self.structure.into[node]:
                if self.layout.delayed[k]:
                    continue
                silent = self._would_be_through(k, self.everyone, at_last)
                if silent is not None:
                    cells = cells + self.structure.placed(k, silent)
                for stream in self._sent(k):
                    current = self._through(k, stream.amounts, stream.sample)
                    cells = cells.index_add(0, stream.sample, self.structure.placed(k, current))
            value = self.junctions[node].value(cells, self.live[node - self.layout.populations])
            self.joined[node] = torch.where(self.log.turn_step[:, node, None] >= 0, value, 0.0)
        return self.joined[node]

    # -- what silent units would have sent -------------------------------------------------------------

    def _would_be_currents(self, p: int, first: Tensor) -> Tensor:
        """Currents (B, n), of value 0, from silent units, at each neuron's first decisive evaluation (B, n)."""
        total = torch.zeros_like(self.values.base[:, self.structure.neurons_of(p)])
        looks: tuple[Tensor, Tensor] | None = None
        for k in self.structure.into[p]:
            node = int(self.layout.source[k])
            if self.layout.delayed[k]:
                continue
            if node not in self.structure.through_max:
                current = self._would_be_through(k, self.everyone, self.everyone)
                if current is not None:
                    total = total + current
                continue
            # who holds a maximum depends on when one looks
            looks = looks or _pairs(self.everyone[:, None] * MOST_STEPS + first)
            sample, step = looks
            current = self._would_be_through(k, sample, step)
            if current is not None:
                seen = first[sample] == step[:, None]
                total = total.index_add(0, sample, torch.where(seen, current, 0.0))
        return total

    def _would_be_through(self, k: int, sample: Tensor, step: Tensor) -> Tensor | None:
        """Return the currents (R, fan_out) of `_would_be` through projection k."""
        amounts = self._would_be(int(self.layout.source[k]), sample, step)
        return None if amounts is None else self._through(k, amounts[:, self.structure.taken(k)], sample)

    def _would_be(self, node: int, sample: Tensor, step: Tensor) -> Tensor | None:
        """What silent units might have sent (R, units), as seen in a sample's forward step; None for nothing."""
        if node < 0:
            x = self.values.x
            return torch.where(x == 0, x, 0.0)[sample] if self.execution.queues_input else None
        if node not in self.junctions:
            return self.silent[node][sample]
        if node not in self.structure.instant:
            emitted = torch.zeros_like(self._joined(node), dtype=torch.bool)
            rows = self.index.rows(node)
            at = (self.index.sample[rows], self.index.unit[rows])
            emitted.index_put_(at, torch.ones_like(rows, dtype=torch.bool))
            return torch.where(emitted, 0.0, self._joined(node))[sample]
        cells: Tensor | None = None
        for k in self.structure.into[node]:
            current = self._would_be_through(k, sample, step)
            if current is not None:
                cells = current if cells is None else cells + current
        if cells is None or self.junctions[node].kind == "sum":
            return cells
        return cells.gather(1, self.index.holders(node, sample, step))

    # -- synapses --------------------------------------------------------------------------------------

    def _through(self, k: int, amounts: Tensor, rows: Tensor) -> Tensor:
        """Currents (R, fan_out) of projection k for amounts (R, fan_in) delivered in the samples `rows`."""
        amounts = _scaled(amounts, self.values.source_scale[k], rows)
        return _scaled(self.maps[k](amounts), self.values.target_scale[k], rows)


def _scaled(amounts: Tensor, scale: Tensor | None, rows: Tensor) -> Tensor:
    return amounts if scale is None else amounts * scale[rows]


def _between(streams: list[Stream], after: Tensor, until: Tensor, everyone: Tensor) -> Tensor:
    """Return the sum (B, n) of what each neuron gets later than `after` (B, n) and no later than `until` (B, n)."""
    total = torch.zeros(after.shape, dtype=streams[0].amounts.dtype, device=after.device)
    for stream in streams:
        step, whole = stream.step[:, None], stream.sample is everyone
        low, high = (after, until) if whole else (after[stream.sample], until[stream.sample])
        part = stream.amounts * numbers((step > low) & (step <= high), stream.amounts)
        total = total + part if whole else total.index_add(0, stream.sample, part)
    return total


def _merged(streams: list[Stream], samples: int) -> Stream:
    """Return the sum of streams."""
    distinct = Distinct(torch.cat([stream.sample * MOST_STEPS + stream.step for stream in streams]))
    bounds = torch.arange(samples + 1, device=distinct.index.device) * MOST_STEPS
    ((size,), (most,)) = to_host(distinct.size, distinct.below(bounds).diff().amax())
    amounts, key = torch.cat([stream.amounts for stream in streams]), distinct.values(size)
    summed = amounts.new_zeros((size, amounts.shape[1])).index_add(0, distinct.index, amounts)
    return Stream(key // MOST_STEPS, key % MOST_STEPS, summed, most)


def _pairs(key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different pairs of sample and step among keys, each (R,)."""
    distinct = Distinct(key.flatten())
    ((size,),) = to_host(distinct.size)
    found = distinct.values(size)
    return found // MOST_STEPS, found % MOST_STEPS
