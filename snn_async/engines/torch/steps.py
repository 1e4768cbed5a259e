"""One forward step of every sample: deliver, let junctions pass on, evaluate, emit (docs/design.md, section 3).

Samples never wait for each other: each has its own forward step, in tensors (B,), and what a sample takes no part in
is masked. Neurons are (B, N), receivers (B, N + C).
"""

import torch
from torch import Tensor

from snn_async import random_keys
from snn_async.engines.contract import NOT_YET, Execution, Start, Values
from snn_async.engines.torch import keys
from snn_async.engines.torch.device import MOST_STEPS, any_of, numbers
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
        reached: (B, N + C) receivers of this forward step's events; touched: their nodes.
        able: (B, N) able to spike, i.e. not refractory.
        open: (B, N) 1, or 0 where currents have no effect.
        silent_step: (B, N) int32, forward step of the last evaluation, `NOT_YET` if none since the last spike.
        turn_step: (B, P + J) see `EventLog`.
        bias: currents that arrive at each population's turn; has_bias: (P,) whether it has any.
        spikes: (B, N) sum of the spikes' values; count: how many, only kept where their values are graded.
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
        self.base = values.base.detach().clone()
        self.arriving, self.current, self.spikes = (torch.zeros_like(self.base) for _ in range(3))
        self.open = torch.ones_like(self.base)
        self.able = torch.ones_like(self.base, dtype=torch.bool)
        receivers = (samples, self.layout.neurons + self.layout.cells)
        self.reached = torch.zeros(receivers, dtype=torch.bool, device=x.device)
        self.touched: set[int] = set()
        whole = start.sample_ids  # of their type and device
        self.count = whole.new_zeros(self.base.shape) if structure.graded else self.spikes
        self.silent_step = torch.full_like(self.base, NOT_YET, dtype=torch.int32)
        self.turn_step = whole.new_full((samples, len(structure.turn)), NOT_YET)
        self.step, self.operations, self.updates = (whole.new_zeros(samples) for _ in range(3))
        self.first_output = torch.full_like(self.step, NOT_YET)
        self.bias = [structure.bias(values, p) for p in range(self.layout.populations)]
        changes = (values.biases != 0).long()
        of_nodes = whole.new_zeros(len(structure.turn)).index_add(0, structure.biased, changes) > 0
        self.has_bias = of_nodes[: self.layout.populations]
        self.junctions = Junctions(graph, self.layout, structure.windows, values)
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
        end = sources + self.layout.units * units
        self.pending = Table(len(self.step), first, end, self.base, self.execution)
        if len(sample):
            self.pending.begin(carried, amplitude, number)
        row = (sample, number, carried.source, amplitude, carried.step, carried.potential.to(amplitude))
        nothing, nowhere = torch.zeros_like(amplitude), torch.full_like(sample, NOT_YET)
        self.recorder = Recorder(self.structure, keep_log, [(*row, nothing, nowhere)])

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
        self.touched.add(int(self.layout.target[k]))
        if connections.degree is not None:
            number = events.view(torch.uint8) if events.dtype == torch.bool else events
            self.operations = self.operations + (number.double() @ connections.degree.double()).long()

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
        step, populations = self.step[:, None], self.layout.populations
        if turning:
            self.turn_step[:, :populations] = torch.where(at_turn, step, self.turn_step[:, :populations])
        for p in turning:
            here, now = self.structure.neurons_of(p), at_turn[:, p, None]
            self.reached[:, here] |= now
            self.arriving[:, here] += self.bias[p] * now.view(torch.uint8)
            self._deliver_last_spikes(p, at_turn[:, p])
        touched = [p for p in self.touched.union(turning) if p < populations]
        if touched:
            self._evaluate_all(range(min(touched), max(touched) + 1))
        if self.layout.cells:
            self.reached[:, self.layout.neurons :] = False
        self.touched.clear()
        self.step = self.step + stepping

    def _evaluate_all(self, populations: range) -> None:
        """Evaluate the neurons of neighbouring populations that were reached."""
        structure, step = self.structure, self.step[:, None].int()
        here = structure.neurons_in(populations)
        arriving, current, reached = self.arriving[:, here], self.current[:, here], self.reached[:, here]
        current.addcmul_(arriving, self.open[:, here])
        able = reached & self.able[:, here]
        integrating = structure.integrating.of(populations, reached)
        counted = able if integrating is None else able | integrating
        self.updates = self.updates + counted.sum(1)
        potential = self._potential(here)
        fires, value = self._spikes(populations, able, potential)
        silent_step = self.silent_step[:, here]
        silent_step += (step - silent_step) * numbers(able, step)
        silent_step -= (step + 1) * numbers(fires, step)
        self._spike(populations, fires, value, potential)
        arriving.zero_()
        reached.zero_()

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
        self.silent_step = torch.where(evaluated, step.int(), self.silent_step)
        self.updates = self.updates + evaluated.sum(1)

    def _potential(self, here: slice) -> Tensor:
        """Return the potentials (B, n) of neurons as they are now."""
        return self.base[:, here] + self.values.gain[:, here] * self.current[:, here]

    def _spikes(self, populations: range, able: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of neighbouring populations' neurons spike, and the values, 0 for others, (B, n).

        Args:
            able: (B, n) which can.
            u: (B, n) their potentials.
        """
        structure = self.structure
        here = structure.neurons_in(populations)
        threshold = self.values.threshold[:, here]
        inclusive = structure.inclusive.of(populations, able)
        if inclusive is able:
            fires = able & (u >= threshold)
        else:
            fires = able & (u > threshold)
            if inclusive is not None:
                fires |= inclusive & (u == threshold)
        mute = structure.mute.of(populations, fires)
        if mute is not None:
            fires = fires ^ mute
        value = numbers(fires, u)
        graded = [p for p in structure.graded if p in populations]
        for p in graded:
            own = structure.neurons_of(p)
            at = slice(own.start - here.start, own.stop - here.start)
            found = structure.neurons[p].surrogate(u[:, at] - threshold[:, at])
            value[:, at] = torch.where(able[:, at], found, 0.0)
        return value != 0 if graded else fires, value

    def _spike(self, populations: range, fires: Tensor, value: Tensor, potential: Tensor) -> None:
        """Emit spikes of neighbouring populations' neurons that fire (B, n), reset, and become refractory."""
        structure, layout, step = self.structure, self.layout, self.step[:, None]
        here = structure.neurons_in(populations)
        sources = slice(layout.inputs + here.start, layout.inputs + here.stop)
        base, current = self.base[:, here], self.current[:, here]
        self._emit(sources, fires, value, potential, step, current=current)
        self.spikes[:, here] += value
        if structure.graded:
            self.count[:, here] += fires
        if layout.output in populations:
            own = structure.neurons_of(layout.output)
            fired = any_of(fires[:, own.start - here.start : own.stop - here.start], 1)
            first = fired & (self.first_output == NOT_YET)
            self.first_output = torch.where(first, self.step, self.first_output)
        subtracting = structure.subtracting.of(populations, fires)
        if subtracting is not None:
            lowered = base - value * self.values.threshold[:, here]
            torch.where(subtracting, lowered, base, out=base)
        to_value = structure.to_value.of(populations, fires)
        if to_value is not None:
            moved = structure.reset_value[here].to(base) - self.values.gain[:, here] * current
            torch.where(to_value, moved, base, out=base)
        resting = structure.refractory.of(populations, fires)
        if resting is None:
            return
        if structure.dropout is not None:
            number = keys.uniform(
                self.start.seed,
                self.start.sample_ids[:, None],
                self.start.timestep,
                random_keys.REFRACTORY_DROPOUT,
                step,
                torch.arange(sources.start, sources.stop, device=step.device),
            )
            resting = resting & (number >= structure.dropout[here])
        self.able[:, here] &= ~resting
        discarding = structure.discarding.of(populations, resting)
        if discarding is not None:
            self.open[:, here] *= numbers(~discarding, base)

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
        number = place + (self.emitted[:, None] - 1)  # among the emissions of the sample
        self.emitted = self.emitted + place[:, -1]
        group = self.structure.group_of[sources]
        if self.recorder.keep_log:
            source = torch.arange(sources.start, sources.stop, device=step.device)
            current = amplitude.new_zeros(()) if current is None else current
            cell = torch.full_like(step, NOT_YET) if cell is None else cell
            emission = (number, source, amplitude, step, potential, current, cell)
            self.recorder.add(Block(mask, emission, (number, group, step) if relay else None))
        if not relay:
            moment = self.start.timestep * MOST_STEPS + step
            leading = mask & self.structure.leads[sources]
            self.pending.put(sources.start, leading, number, amplitude, potential, moment)
