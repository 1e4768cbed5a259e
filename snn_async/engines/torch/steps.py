"""One forward step of every sample: deliver, let junctions pass on, evaluate, emit (docs/design.md, section 3).

Samples never wait for each other: each has its own forward step, in tensors (B,), and what a sample takes no part in
is masked. Neurons are (B, N), receivers (B, N + C).
"""

import torch
from torch import Tensor

from snn_async import random_keys
from snn_async.engines.contract import NOT_YET, Execution, Start, Values
from snn_async.engines.torch import keys
from snn_async.engines.torch.device import MOST_STEPS
from snn_async.engines.torch.junctions import Junctions
from snn_async.engines.torch.maps import current_maps
from snn_async.engines.torch.pending import Table
from snn_async.engines.torch.records import Block, Recorder
from snn_async.engines.torch.structure import structure_of
from snn_async.graph import Graph


class ForwardSteps:
    """The state of all samples while a timestep's events run, and what a forward step does with it.

    Attributes:
        base, current: (B, N) a neuron's potential is base + gain * current; its spikes move the base.
        arriving: (B, N) currents of this forward step.
        reached: (B, N + C) receivers of this forward step's events.
        able: (B, N) able to spike, i.e. not refractory.
        ignoring: (B, N) currents have no effect.
        silent_step: (B, N) forward step of the last evaluation, `NOT_YET` if there was none since the last spike.
        turn_step: (B, P + J) see `EventLog`.
        bias: (B, N) currents that arrive at turns; has_bias: (P,) whether a population has any.
        count: (B, N) spikes.
        spikes: (B, N) sum of their values; only kept where these are graded.
        emitted: (B,) rows of the log so far.
        step: (B,) the next forward step's number; at the end, how many there were.
    """

    def __init__(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> None:
        x = values.x
        self.structure = structure = structure_of(graph, execution, x.device)
        self.layout, self.execution, self.values, self.start = structure.layout, execution, values, start
        self.maps, samples = current_maps(graph, values), len(x)
        self.base = values.base.detach()
        self.current = self.spikes = torch.zeros_like(self.base)
        self.able = torch.ones_like(self.base, dtype=torch.bool)
        self.ignoring = ~self.able
        whole = start.sample_ids  # of their type and device
        self.count = whole.new_zeros(self.base.shape)
        self.silent_step = torch.full_like(self.count, NOT_YET)
        self.turn_step = whole.new_full((samples, len(structure.turn)), NOT_YET)
        self.step, self.operations, self.updates = (whole.new_zeros(samples) for _ in range(3))
        self.first_output = torch.full_like(self.step, NOT_YET)
        self.bias = torch.cat([structure.bias(values, p) for p in range(self.layout.populations)], 1)
        changes = (values.biases != 0).long()
        of_nodes = whole.new_zeros(len(structure.turn)).index_add(0, structure.biased, changes) > 0
        self.has_bias = of_nodes[: self.layout.populations]
        self.junctions = Junctions(graph, self.layout, structure.windows, values)
        self._begin_step()
        self._carry_in(keep_log)

    def _carry_in(self, keep_log: bool) -> None:
        carried, amplitude = self.start.pending, self.values.pending.detach()
        sample, sources = carried.sample, self.layout.inputs + self.layout.neurons
        number = torch.arange(len(sample), device=sample.device) - torch.searchsorted(sample, sample)
        self.emitted = self.carried = torch.searchsorted(
            sample, torch.arange(len(self.step) + 1, device=sample.device)
        ).diff()
        anything = len(sample) > 0 or self.execution.queues_input or self.execution.layered
        first, units = 0 if anything else self.layout.inputs, anything or bool(self.junctions.waiting)
        self.pending = Table(len(self.step), first, sources + self.layout.units * units, self.base)
        if len(sample):
            self.pending.begin(carried, amplitude, number)
        row = (sample, number, carried.source, amplitude, carried.step, carried.potential.to(amplitude))
        nothing, nowhere = torch.zeros_like(amplitude), torch.full_like(sample, NOT_YET)
        self.recorder = Recorder(self.structure, keep_log, [(*row, nothing, nowhere)])

    def _begin_step(self) -> None:
        self.arriving = torch.zeros_like(self.base)
        receivers = (len(self.step), self.layout.neurons + self.layout.cells)
        self.reached = torch.zeros(receivers, dtype=torch.bool, device=self.base.device)

    # -- delivering ------------------------------------------------------------------------------------

    def _deliver(self, edges: list[int], amounts: Tensor, counts: Tensor) -> None:
        """Add what amounts (B, units) of a node bring through projections, and mark the receivers they reach.

        Args:
            counts: (B, units) how many events an amount is made of.
        """
        for k in edges:
            part = self.structure.taken(k)
            self._deliver_through(k, amounts[:, part], counts[:, part])

    def _deliver_through(self, k: int, amounts: Tensor, counts: Tensor) -> None:
        """The same of what one projection takes, (B, fan_in)."""
        scale, targets = self.values.source_scale[k], self.structure.targets(k)
        sent, events = (amounts, counts) if scale is None else (amounts * scale, counts * (scale != 0))
        current, after = self.maps[k](sent), self.values.target_scale[k]
        if targets.start < self.layout.neurons:
            place = self.arriving[:, targets]
        else:
            first = self.layout.neurons
            place = self.junctions.cells[:, targets.start - first : targets.stop - first]
        place += current if after is None else current * after
        connections = self.structure.connections[k]
        self.reached[:, targets] |= connections.reach(events > 0)
        if connections.degree is not None:
            self.operations = self.operations + (events * connections.degree).sum(1)

    def _pass_on(self, nodes: set[int]) -> None:
        """Let junctions that do not wait pass on what reached them in this forward step from `nodes`."""
        for j in self.junctions.instant:
            if any(int(self.layout.source[k]) in nodes for k in self.structure.into[j]):
                nodes.add(j)
                passed, amounts = self._relay(j)
                self._deliver(self.structure.out_of[j], amounts, passed)

    def _relay(self, j: int) -> tuple[Tensor, Tensor]:
        """Log what a junction's units pass on at once; return which (B, U) and what (B, U)."""
        passed, amounts, holders = self.junctions.pass_on(j, self.reached[:, self.layout.neurons :])
        relay, step = not self.execution.layered, self.step[:, None]
        self._emit(self.structure.sources(j), passed, amounts, amounts, step, cell=holders, relay=relay)
        return passed, amounts

    # -- evaluating ------------------------------------------------------------------------------------

    def _evaluate(self, stepping: Tensor, at_turn: Tensor, turning: list[int]) -> None:
        """Finish a forward step of the samples `stepping` (B,): one evaluation of every neuron that was reached.

        Args:
            at_turn: (B, P) whose turn it is: bias and last timestep's spikes arrive, everybody is evaluated.
            turning: the populations of which that can be true.
        """
        structure, step, populations = self.structure, self.step[:, None], self.layout.populations
        evaluated = self.reached[:, : self.layout.neurons]
        if turning:
            everybody = at_turn[:, structure.population_of]
            evaluated = evaluated | everybody
            self.turn_step[:, :populations] = torch.where(at_turn, step, self.turn_step[:, :populations])
            self.arriving += torch.where(everybody, self.bias, 0.0)
            for p in turning:
                self._deliver_last_spikes(p, at_turn[:, p])
        if structure.discarding is not None:
            self.arriving.masked_fill_(self.ignoring, 0.0)
        self.current = self.current + self.arriving
        able = evaluated & self.able
        counted = able if structure.integrating is None else able | (evaluated & structure.integrating)
        self.updates = self.updates + counted.sum(1)
        self.silent_step = torch.where(able, step, self.silent_step)
        potential = self._potential()
        self._spike(*self._spikes(able, potential), potential)
        self.step = self.step + stepping
        self._begin_step()

    def _deliver_last_spikes(self, node: int, now: Tensor) -> None:
        """Deliver last timestep's spikes to a node, in the samples `now` (B,)."""
        for k in self.structure.delayed:
            if int(self.layout.target[k]) == node:
                spikes = torch.where(now[:, None], self.structure.last_spikes(self.values, k), 0.0)
                self._deliver_through(k, spikes, spikes != 0)

    def _take_turns(self, taken: Tensor) -> None:
        """Let turns `taken` (B, P) pass without a forward step: an evaluation at which nothing arrives."""
        count, step = self.layout.populations, self.step[:, None]
        self.turn_step[:, :count] = torch.where(taken, step, self.turn_step[:, :count])
        evaluated = taken[:, self.structure.population_of] & self.able
        self.silent_step = torch.where(evaluated, step, self.silent_step)
        self.updates = self.updates + evaluated.sum(1)

    def _potential(self) -> Tensor:
        """Return the potentials (B, N) as they are now."""
        return self.base + self.values.gain * self.current

    def _spikes(self, able: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of the neurons `able` (B, N) spike at potentials (B, N), and the values, 0 for others."""
        structure, threshold = self.structure, self.values.threshold
        fires = able & (u > threshold)
        if structure.inclusive is not None:
            fires = fires | (able & structure.inclusive & (u == threshold))
        if structure.mute is not None:
            fires = fires & ~structure.mute
        value = fires.to(u.dtype)
        for p in structure.graded:
            here = structure.neurons_of(p)
            graded = structure.neurons[p].surrogate(u[:, here] - threshold[:, here])
            value[:, here] = torch.where(able[:, here], graded, 0.0)
        return value != 0 if structure.graded else fires, value

    def _spike(self, fires: Tensor, value: Tensor, potential: Tensor) -> None:
        """Emit spikes of the neurons that fire (B, N), reset, and become refractory."""
        structure, layout, step = self.structure, self.layout, self.step[:, None]
        sources = slice(layout.inputs, layout.inputs + layout.neurons)
        self._emit(sources, fires, value, potential, step, current=self.current)
        self.count = self.count + fires
        if structure.graded:
            self.spikes = self.spikes + value
        self.silent_step = torch.where(fires, NOT_YET, self.silent_step)
        first = fires[:, structure.neurons_of(layout.output)].any(1) & (self.first_output == NOT_YET)
        self.first_output = torch.where(first, self.step, self.first_output)
        if structure.subtracting is not None:
            lowered = self.base - value * self.values.threshold
            self.base = torch.where(fires & structure.subtracting, lowered, self.base)
        if structure.to_value is not None:
            moved = structure.reset_value.to(self.base) - self.values.gain * self.current
            self.base = torch.where(fires & structure.to_value, moved, self.base)
        if structure.refractory is None:
            return
        resting = fires & structure.refractory
        if structure.dropout is not None:
            number = keys.uniform(
                self.start.seed,
                self.start.sample_ids[:, None],
                self.start.timestep,
                random_keys.REFRACTORY_DROPOUT,
                step,
                torch.arange(sources.start, sources.stop, device=step.device),
            )
            resting = resting & (number >= structure.dropout)
        self.able = self.able & ~resting
        if structure.discarding is not None:
            self.ignoring = self.ignoring | (resting & structure.discarding)

    # -- emitting --------------------------------------------------------------------------------------

    def _emit(
        self,
        sources: slice,
        mask: Tensor,
        amplitude: Tensor,
        potential: Tensor,
        step: Tensor,
        current: Tensor | None = None,
        cell: Tensor | None = None,
        relay: bool = False,
    ) -> None:
        """Log spikes, queued inputs or what junctions pass on, at `mask` (B, n), and make pending what leads anywhere.

        Args:
            sources: the n sources.
            amplitude, potential, current, cell: (B, n), see `EventLog`; None for 0 and -1.
            step: (B, 1).
            relay: it is delivered at once, not pending.
        """
        place = mask.cumsum(1)
        number = self.emitted[:, None] + place - 1  # among the emissions of the sample
        self.emitted = self.emitted + place[:, -1]
        group = self.structure.group_of[sources]
        if self.recorder.keep_log:
            source = torch.arange(sources.start, sources.stop, device=step.device)
            current = torch.zeros_like(amplitude) if current is None else current
            cell = torch.full_like(step, NOT_YET) if cell is None else cell
            emission = (number, source, amplitude, step, potential, current, cell)
            self.recorder.add(Block(mask, emission, (number, group, step) if relay else None))
        if not relay:
            moment = self.start.timestep * MOST_STEPS + step
            leading = mask & self.structure.leads[sources]
            self.pending.put(sources.start, leading, number, amplitude, potential, moment)
