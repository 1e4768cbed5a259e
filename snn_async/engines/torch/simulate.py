"""The rules of docs/design.md, section 3, for a whole batch at once.

Samples never wait for each other: each has its own forward step, hop and phase, in tensors (B,), and an iteration of
the loop does for every sample what comes next in it, by masks. Neurons are (B, N), receivers (B, N + C).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async import random_keys
from snn_async.engines.contract import Execution, Simulation, Start, Values
from snn_async.engines.torch import keys as torch_keys
from snn_async.engines.torch.junctions import Junctions
from snn_async.engines.torch.maps import connections_of, current_maps
from snn_async.engines.torch.neurons import Traits
from snn_async.engines.torch.pending import Events, Picker, events_of
from snn_async.engines.torch.records import Recorder, Timestep
from snn_async.errors import RunawayError
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of
from snn_async.stopping import After, Output

NOT_YET, NEVER = -1, 1 << 30


class BatchRun:
    """The state of all samples while their events run; `run` goes through all timesteps."""

    def __init__(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> None:
        self.layout = layout = layout_of(graph)
        self.execution, self.values, self.start = execution, values, start
        self.x, device = values.x, values.x.device
        self.samples = samples = values.x.shape[1]
        self.traits = Traits(graph, execution, values)
        self.maps, self.connections = current_maps(graph, values), connections_of(graph, device)
        self.junctions = Junctions(graph, layout, samples, values.x)
        self.sizes = torch.tensor([p.size for p in graph.populations], device=device)
        self.into = [self._edges(layout.target == node) for node in range(len(layout.turn))]
        self.out_of = [
            [k for k in self._edges(layout.source == node) if not layout.delayed[k]]
            for node in range(-1, len(layout.turn))
        ]
        self.biases = [
            values.biases[b : b + n] if b >= 0 else None
            for b, n in zip(layout.bias_start.tolist(), layout.fan_out.tolist(), strict=True)
        ]
        self.has_bias = torch.zeros(layout.populations, dtype=torch.bool, device=device)
        for k, bias in enumerate(self.biases):
            if bias is not None:
                self.has_bias[int(layout.target[k])] |= bias.any()
        firsts = torch.tensor([0, *layout.first_unit.tolist()], device=device)
        nodes = torch.bucketize(torch.arange(self._sources(), device=device), firsts, right=True) - 2
        self.node_of = nodes  # of every source
        self.goes_on = torch.tensor([bool(edges) for edges in self.out_of], device=device)[nodes + 1]
        turn = torch.from_numpy(layout.turn).to(device) + (1 if execution.queues_input else 0)
        if execution.layered:
            turn = torch.full_like(turn, NOT_YET)
            turn[: layout.populations] = torch.arange(layout.populations, device=device)
        self.turn = turn
        waiting = sorted({int(turn[j]) for j in self.junctions.waiting})
        self.levels = torch.tensor([*waiting, NEVER], device=device)
        self.ids = torch.from_numpy(start.sample_ids).to(device)
        self.picker = Picker(execution, start, self.ids)
        self.potential = values.potentials.detach().clone()
        self.spikes = torch.from_numpy(start.spikes).to(device).long()
        self.recorder = Recorder(layout, keep_log)
        self.pending = events_of(start.pending, start.timestep, device)
        self.recorder.emitted(self.pending, None)

    def run(self) -> Simulation:
        """Run every timestep.

        Raises:
            RunawayError: if a timestep exceeds `max_forward_steps`.
            OptionError: if a Python scheduler's priorities cannot be used.
        """
        for t in range(len(self.x)):
            self.t = t
            self._begin()
            if self.execution.layered:
                self._run_layered()
            else:
                self._run_events()
            self._end()
        return self.recorder.simulation(self.x, self.execution.queues_input, self.pending, self.start)

    # -- the timestep's start and end ------------------------------------------------------------------

    def _begin(self) -> None:
        """Leak and delayed reset, in the framework's own order; nobody is refractory."""
        per_neuron, per_sample = (self.samples, self.layout.neurons), (self.samples,)
        base, self.residual, swallowed = self.traits.begin(self.potential, self.spikes, self.potential)
        self.potential = base - self.residual
        self.able = torch.ones_like(swallowed)  # able to spike, i.e. not refractory
        self.ignoring = swallowed.clone()  # currents have no effect
        self.last_evaluation = self.spikes.new_full(per_neuron, NOT_YET)
        self.last_spike = self.spikes.new_full(per_neuron, NOT_YET)
        self.turn_step = self.spikes.new_full((self.samples, len(self.turn)), NOT_YET)
        self.spikes_before, self.spikes = self.spikes, torch.zeros_like(self.spikes)
        # the next forward step's number (finally how many there were), hops in this phase, waiting levels released
        self.step, self.hop, self.level = (self.spikes.new_zeros(per_sample) for _ in range(3))
        self.first_output = self.spikes.new_full(per_sample, NOT_YET)
        self.operations, self.updates = (self.spikes.new_zeros(per_sample) for _ in range(2))
        self.junctions.begin()

    def _end(self) -> None:
        silent = self.able & (self.last_evaluation > self.last_spike)
        at_silence = torch.where(silent, self.potential, 0.0)
        self.potential = self.potential + self.residual
        if self.execution.leftover == "drop" or self.execution.layered:
            self.pending = self.pending.at(self.pending.row[:0])
        self.recorder.timesteps.append(
            Timestep(
                spikes=self.spikes,
                potentials=self.potential.clone(),
                silent_step=torch.where(silent, self.last_evaluation, NOT_YET),
                silent_potential=at_silence,
                turn_step=self.turn_step,
                forward_steps=self.step,
                first_output=self.first_output,
                synaptic_operations=self.operations,
                neuron_updates=self.updates,
            )
        )

    # -- the two ways through a timestep ---------------------------------------------------------------

    def _run_events(self) -> None:
        frame = self.x[self.t]
        live = torch.ones(self.samples, dtype=torch.bool, device=frame.device)
        reached = self._nobody()
        if self.execution.queues_input:
            sample, index = frame.nonzero(as_tuple=True)
            self._emit(sample, index, frame[sample, index], frame[sample, index], self.step[sample])
        else:
            self._deliver(-1, frame, (frame != 0).long(), reached, self.out_of[0])
            self._pass_on(reached)
        self._evaluate(live, reached)
        while bool(live.any()):
            idle = live & (self.pending.counts(self.samples) == 0)
            turn = self._next_turn(idle)
            over = idle & (turn == NEVER)
            finished = over & (self.levels[self.level] == NEVER)
            self._skip(finished, turn)
            live = live & ~finished
            live = live & ~self._stopped(live)
            releasing = over & live
            self._release(releasing)
            self._step(live & ~releasing, turn)

    def _step(self, stepping: Tensor, turn: Tensor) -> None:
        """One forward step of the samples `stepping` (B,); `turn` (B,) is the one to skip to, or NEVER."""
        if not stepping.any():
            return
        hop = torch.minimum(self.hop + 1, self.levels[self.level] - 1)
        self.hop = torch.where(stepping, hop, self.hop)
        turning = stepping & (turn < NEVER)
        self._skip(turning, turn)
        self.hop = torch.where(turning, turn, self.hop)
        reached = self._nobody()
        if len(self.pending):
            picked = self.picker.pick(self.pending, stepping, self.step, self.t)
            group, self.pending = self.pending.at(picked), self.pending.at(~picked)
            self._mark_delivered(group)
            for node, amounts, counts in self._by_node(group):
                self._deliver(node, amounts, counts, reached, self.out_of[node + 1])
            self._pass_on(reached)
        self._evaluate(stepping, reached)

    def _release(self, releasing: Tensor) -> None:
        """Let the junctions of a level pass on what they held back; their units become pending."""
        if not releasing.any():
            return
        level = self.levels[self.level]
        self._skip(releasing, level)
        self.hop = torch.where(releasing, level, self.hop)
        for node in self.junctions.waiting:
            now = releasing & (level == self.turn[node])
            self._let_go(node, now)
        self.level = self.level + releasing

    def _let_go(self, node: int, now: Tensor) -> Tensor:
        """Emit the values (B, U) of a waiting junction in the samples `now` (B,)."""
        self.turn_step[:, node] = torch.where(now, self.step - 1, self.turn_step[:, node])
        values = torch.where(now[:, None], self.junctions.values(node), 0.0)
        sample, unit = values.nonzero(as_tuple=True)
        source, amounts = unit + int(self.layout.first_unit[node]), values[sample, unit]
        self._emit(sample, source, amounts, amounts, self.step[sample] - 1)
        return values

    def _run_layered(self) -> None:
        """Each node once, in topological order, when everything upstream has been delivered."""
        layout, everyone = self.layout, torch.ones(self.samples, dtype=torch.bool, device=self.x.device)
        frame = self.x[self.t]
        passed = {node: (amounts, counts) for node, amounts, counts in self._by_node(self.pending)}
        passed[-1] = (frame, (frame != 0).long())
        live = everyone
        for node in layout.order.tolist():
            into = [k for k in self.into[node] if not layout.delayed[k]]
            sources = sorted({int(layout.source[k]) for k in into} & passed.keys())
            proceeding = live
            if node < layout.populations:
                arriving = torch.zeros_like(live)
                for source in sources:
                    arriving = arriving | passed[source][1].any(1)
                later = live & (self.step > 0)
                idle = later & ~arriving & ~self._turns_that_change()[:, node]
                self._take_turns(idle, self.turn == node)
                live = live & ~(later & ~idle & self._stopped(later & ~idle))
                proceeding = live & ~idle
            self._mark_first_delivery(sources, proceeding)
            reached = self._nobody()
            for source in sources:
                amounts, counts = (part * proceeding[:, None] for part in passed[source])
                edges = [k for k in into if layout.source[k] == source]
                self._deliver(source, amounts, counts, reached, edges)
            if node < layout.populations:
                self.hop = torch.full_like(self.hop, node)
                fires = self._evaluate(proceeding, reached)[:, slice(*layout.start[node : node + 2])]
                _add_to(passed, node, fires.to(frame), fires.long())
            elif node in self.junctions.waiting:
                values = self._let_go(node, proceeding)
                _add_to(passed, node, values, (values != 0).long())
            else:
                passed[node] = self._relay(node, reached)

    def _mark_first_delivery(self, sources: list[int], proceeding: Tensor) -> None:
        """Behind a barrier an event is delivered when the first of its targets is."""
        if not len(self.pending) or not sources:
            return
        from_here = torch.isin(self.node_of[self.pending.source], self.sizes.new_tensor(sources))
        now = from_here & proceeding[self.pending.sample]
        self._mark_delivered(self.pending.at(now))
        self.pending = self.pending.at(~now)

    def _stopped(self, live: Tensor) -> Tensor:
        stop, stopped = self.execution.stop, torch.zeros_like(live)
        if isinstance(stop, After):
            stopped = live & (self.step >= stop.steps)
        if isinstance(stop, Output):
            fired = self.first_output != NOT_YET
            stopped = live & fired & (self.step > self.first_output + stop.extra_steps)
        if not self.execution.layered:
            runaway = live & ~stopped & (self.step >= self.execution.max_forward_steps)
            if runaway.any():
                sample = int(self.ids[runaway][0])
                raise RunawayError(
                    f"timestep {self.start.timestep + self.t} of sample {sample} is not quiescent after "
                    f"max_forward_steps={self.execution.max_forward_steps} forward steps; raise the limit, "
                    "use refractory='discard' or 'integrate', or a stop rule"
                )
        return stopped

    # -- turns -----------------------------------------------------------------------------------------

    def _turns_that_change(self) -> Tensor:
        """Return whether each population's turn can change anything, (B, P)."""
        above = self.traits.above(self.potential) & self.able & self.traits.spiking
        parts = above.split(self.sizes.tolist(), 1)
        changes = torch.stack([part.any(1) for part in parts], 1) | self.has_bias
        for k in self._edges(self.layout.delayed):
            changes[:, int(self.layout.target[k])] |= self._spikes_before(k).any(1)
        return changes

    def _next_turn(self, idle: Tensor) -> Tensor:
        """Return the next turn (B,) of this phase that can change anything, NEVER if none or not idle."""
        if not idle.any():
            return torch.full_like(self.hop, NEVER)
        turn = self.turn[: self.layout.populations]
        coming = (turn > self.hop[:, None]) & (turn < self.levels[self.level][:, None]) & idle[:, None]
        return torch.where(coming & self._turns_that_change(), turn, NEVER).amin(1)

    def _skip(self, mask: Tensor, until: Tensor) -> None:
        """Let turns before `until` (B,) pass that can change nothing: an evaluation, but not a forward step."""
        self._take_turns(mask, (self.turn >= self.hop[:, None]) & (self.turn < until[:, None]))

    def _take_turns(self, mask: Tensor, which: Tensor) -> None:
        """Take the turns `which` (B, nodes) or (nodes,) of the samples `mask` (B,) that were not taken before."""
        count = self.layout.populations
        taken = mask[:, None] & which[..., :count] & (self.turn_step[:, :count] == NOT_YET)
        if not taken.any():
            return
        self.turn_step[:, :count] = torch.where(taken, self.step[:, None], self.turn_step[:, :count])
        evaluated = self._spread_over_neurons(taken) & self.able
        self.last_evaluation = torch.where(evaluated, self.step[:, None], self.last_evaluation)
        self.updates = self.updates + evaluated.sum(1)

    # -- forward steps ---------------------------------------------------------------------------------

    def _by_node(self, events: Events) -> list[tuple[int, Tensor, Tensor]]:
        """Return for each node with events its number, amounts (B, units) and how many events a unit has."""
        found = []
        nodes = self.node_of[events.source]
        for index, count in enumerate(torch.bincount(nodes + 1).tolist()):
            if not count:
                continue
            node = index - 1
            here = nodes == node
            unit = events.source[here] - (int(self.layout.first_unit[node]) if node >= 0 else 0)
            place = (events.sample[here], unit)
            shape = (self.samples, int(self.layout.size[node]) if node >= 0 else self.layout.inputs)
            amounts = self.x.new_zeros(shape).index_put_(place, events.amplitude[here].to(self.x), True)
            counts = self.spikes.new_zeros(shape).index_put_(place, torch.ones_like(unit), True)
            found.append((node, amounts, counts))
        return found

    def _deliver(self, node: int, amounts: Tensor, counts: Tensor, reached: Tensor, edges: list[int]) -> None:
        """Add the currents of a node's amounts (B, units) and mark the receivers they reach.

        Args:
            counts: (B, units) how many events an amount is made of.
            reached: (B, N + C) bool, is marked.
        """
        rows = counts.any(1).nonzero()[:, 0]
        if not len(rows):
            return
        if len(rows) < self.samples:
            amounts, counts = amounts[rows], counts[rows]
        for k in edges:
            self._deliver_through(k, rows, amounts, counts, reached)

    def _deliver_through(
        self, k: int, rows: Tensor, amounts: Tensor, counts: Tensor, reached: Tensor
    ) -> None:
        scale = self.values.source_scale[k]
        if scale is not None:
            factor = scale[self.t][rows]
            amounts, counts = amounts * factor, counts * (factor != 0)
        self._add(k, rows, self.maps[k](amounts))
        reach, degree = self.connections[k].reach, self.connections[k].degree
        reached[rows, self._targets(k)] |= reach(counts > 0)
        if degree is not None:
            self.operations.index_add_(0, rows, (counts * degree).sum(1))

    def _add(self, k: int, rows: Tensor, current: Tensor) -> None:
        """Add currents (R, fan_out) of projection k to its targets in the samples `rows` (R,)."""
        targets, scale = self._targets(k), self.values.target_scale[k]
        if scale is not None:
            current = current * scale[self.t][rows]
        if targets.start < self.layout.neurons:
            kept = torch.where(self.ignoring[rows, targets], 0.0, current)
            self.potential[:, targets].index_add_(0, rows, kept)
        else:
            first = self.layout.neurons
            self.junctions.cells[:, targets.start - first : targets.stop - first].index_add_(0, rows, current)

    def _pass_on(self, reached: Tensor) -> None:
        """Let all junctions that do not wait pass on what reached them in this forward step."""
        for node in self.junctions.instant:
            self._deliver(node, *self._relay(node, reached), reached, self.out_of[node + 1])

    def _relay(self, node: int, reached: Tensor) -> tuple[Tensor, Tensor]:
        """Log what a junction's units pass on at once; return the amounts and the counts (B, U)."""
        here = self.junctions.slices[node]
        passed, amounts, holders = self.junctions.pass_on(node, reached[:, self.layout.neurons :][:, here])
        amounts = torch.where(passed, amounts, 0.0)
        sample, unit = passed.nonzero(as_tuple=True)
        relayed = self._events(
            sample,
            unit + int(self.layout.first_unit[node]),
            amounts[sample, unit],
            amounts[sample, unit],
            self.step[sample],
        )
        self.recorder.emitted(relayed, None if holders is None else holders[sample, unit])
        self._mark_delivered(relayed)
        return amounts, passed.long()

    def _evaluate(self, stepping: Tensor, reached: Tensor) -> Tensor:
        """Finish a forward step: what comes at turns, then one evaluation of every neuron that was reached.

        Returns:
            Who spiked, (B, N).
        """
        count, step = self.layout.populations, self.step[:, None]
        at_turn = (self.turn[:count] == self.hop[:, None]) & stepping[:, None]
        self.turn_step[:, :count] = torch.where(at_turn, step, self.turn_step[:, :count])
        for p in at_turn.any(0).nonzero()[:, 0].tolist():
            rows = at_turn[:, p].nonzero()[:, 0]
            for k in self.into[p]:
                bias = self.biases[k]
                assert bias is not None
                self._add(k, rows, bias.expand(len(rows), -1))
                if self.layout.delayed[k]:
                    counts = self._spikes_before(k)[rows]
                    self._deliver_through(k, rows, counts.to(self.x), (counts != 0).long(), reached)
        traits = self.traits
        evaluated = reached[:, : self.layout.neurons] | self._spread_over_neurons(at_turn)
        able = evaluated & self.able
        self.updates = self.updates + torch.where(traits.integrating, evaluated, able).sum(1)
        self.last_evaluation = torch.where(able, step, self.last_evaluation)
        fires = able & traits.spiking & traits.above(self.potential)
        sample, neuron = fires.nonzero(as_tuple=True)
        if len(sample):
            self._spike(fires, sample, neuron)
        self.step = self.step + stepping
        return fires

    def _spike(self, fires: Tensor, sample: Tensor, neuron: Tensor) -> None:
        traits, step = self.traits, self.step[:, None]
        source, potential = neuron + self.layout.inputs, self.potential[sample, neuron]
        self._emit(sample, source, torch.ones_like(potential), potential, self.step[sample])
        self.spikes = self.spikes + fires
        self.last_spike = torch.where(fires, step, self.last_spike)
        first = fires[:, slice(*self.layout.start[self.layout.output : self.layout.output + 2])].any(1)
        self.first_output = torch.where(first & (self.first_output == NOT_YET), self.step, self.first_output)
        # a residual that was already subtracted for the comparison is given back at the end instead
        self.potential = traits.reset(self.potential, fires)
        refractory = fires & traits.has_refractoriness
        if traits.refractory_dropout is not None:
            number = torch_keys.uniform(
                self.start.seed,
                self.ids[sample],
                self.start.timestep + self.t,
                random_keys.REFRACTORY_DROPOUT,
                self.step[sample],
                source,
            )
            stays = number < traits.refractory_dropout[neuron]
            refractory[sample, neuron] &= ~stays
        self.able = self.able & ~refractory
        self.ignoring = self.ignoring | (refractory & traits.discarding)

    def _emit(
        self, sample: Tensor, source: Tensor, amplitude: Tensor, potential: Tensor, step: Tensor
    ) -> None:
        """Make spikes, queued inputs or released units pending; what leaves the network is only logged."""
        if not len(sample):
            return
        events = self._events(sample, source, amplitude, potential, step)
        self.recorder.emitted(events, None)
        self.pending = self.pending.then(events.at(self.goes_on[source]))

    def _events(
        self, sample: Tensor, source: Tensor, amplitude: Tensor, potential: Tensor, step: Tensor
    ) -> Events:
        row = torch.arange(self.recorder.rows, self.recorder.rows + len(sample), device=sample.device)
        timestep = torch.full_like(row, self.t)
        return Events(row, sample, source, amplitude.double(), potential.double(), timestep, step)

    def _mark_delivered(self, events: Events) -> None:
        self.recorder.delivered(events.row, events.sample, self.t, self.step[events.sample])

    # -- places ----------------------------------------------------------------------------------------

    def _sources(self) -> int:
        return self.layout.inputs + self.layout.neurons + self.layout.units

    def _nobody(self) -> Tensor:
        shape = (self.samples, self.layout.neurons + self.layout.cells)
        return torch.zeros(shape, dtype=torch.bool, device=self.x.device)

    @staticmethod
    def _edges(which: NDArray[np.bool_]) -> list[int]:
        return [int(k) for k in np.flatnonzero(which)]

    def _targets(self, k: int) -> slice:
        first = int(self.layout.first_target[k])
        return slice(first, first + int(self.layout.fan_out[k]))

    def _spread_over_neurons(self, per_population: Tensor) -> Tensor:
        """Return (B, N) from (B, P)."""
        return per_population.repeat_interleave(self.sizes, 1, output_size=self.layout.neurons)

    def _spikes_before(self, k: int) -> Tensor:
        """Last timestep's spike counts (B, fan_in) of the sources of a recurrent projection."""
        first = int(self.layout.first_source[k]) - self.layout.inputs
        return self.spikes_before[:, first : first + int(self.layout.fan_in[k])]


def _add_to(passed: dict[int, tuple[Tensor, Tensor]], node: int, amounts: Tensor, counts: Tensor) -> None:
    """Add amounts and counts (B, units) to those of a node, which may have some from the timestep before."""
    before = passed.get(node)
    passed[node] = (amounts, counts) if before is None else (before[0] + amounts, before[1] + counts)
