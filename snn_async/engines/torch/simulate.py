"""The rules of docs/design.md, section 3, for a whole batch at once: a timestep from start to end.

An iteration of the loop does for every sample what comes next in it: a forward step, skipping turns, the release of
waiting junctions, or nothing. It is decided on the device; the host then learns in one synchronization (`_next`)
whether anybody goes on and which nodes deliver anything.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from snn_async.engines.contract import NEVER, NOT_YET, Counts, PendingEvents, Simulation
from snn_async.engines.event_log import EventLog
from snn_async.engines.torch.device import any_of, count_parts, to_host
from snn_async.engines.torch.pending import of_sources, pick
from snn_async.engines.torch.records import Block
from snn_async.engines.torch.steps import ForwardSteps
from snn_async.errors import RunawayError
from snn_async.stopping import After, Output


class ToDo(NamedTuple):
    """What comes next in every sample."""

    stepping: Tensor  # (B,) whether it is a forward step
    releasing: Tensor  # (B,) whether waiting junctions pass on
    end: Tensor  # (B,) the turn at which they do, NEVER if there are no more of them
    skipped: Tensor  # (B, P) turns that pass before
    at_turn: Tensor  # (B, P) turns of the forward step
    runaway: Tensor  # (B,) who has done too many


class BatchRun(ForwardSteps):
    """A batch's timestep.

    Attributes:
        live: (B,) whose timestep has not ended.
        untaken: the populations whose turn some sample had not taken when the host last looked.
        hop: (B,) hops within this phase.
        level: (B,) how many levels of waiting junctions have passed on.
    """

    def run(self) -> Simulation:
        """Run the timestep.

        Raises:
            RunawayError: if it exceeds `max_forward_steps`.
            OptionError: if a Python scheduler's priorities cannot be used.
        """
        self.live = torch.ones_like(self.step, dtype=torch.bool)
        if self.execution.layered:
            self._run_layered()
        else:
            self._run_events()
        return self._result()

    # -- event by event --------------------------------------------------------------------------------

    def _run_events(self) -> None:
        frame, step = self.values.x.detach(), self.step[:, None]
        self.hop, self.level = torch.zeros_like(self.step), torch.zeros_like(self.step)
        if self.execution.queues_input:
            self._emit(self.structure.sources(-1), frame != 0, frame, frame, step)
        else:
            self._deliver(self.structure.out_of[-1], frame, frame != 0)
            self._pass_on({-1})
        at_turn = (self._turns() == 0).expand(len(frame), -1)
        self._evaluate(self.live, at_turn, self.structure.first_turning)
        self.untaken = list(range(self.layout.populations))
        while self._next():
            pass

    def _turns(self) -> Tensor:
        return self.structure.turn[: self.layout.populations]

    def _next(self) -> bool:
        """Do what comes next in every sample; return whether anybody goes on."""
        to_do, table = self._decide(), self.pending
        first, end, here = table.held, table.end_held, table.columns
        number, amplitude = table.number[:, here], table.amplitude[:, here]
        if self.structure.repeats:  # a source that is picked may put its next event at the same place
            number = number.clone()
        picked = pick(table, self.execution, self.start, to_do.stepping, self.step)
        table.remove(picked, self.execution.forward_group_size is None)
        some = any_of(any_of(picked, 2), 0)
        columns = self.structure.first_source.clamp(first, end) - first
        flags, delivering, turning, untaken, sizes, depth = to_host(
            torch.stack([mask.any() for mask in (self.live, to_do.runaway, to_do.skipped, to_do.releasing)]),
            count_parts(some[None], columns)[0] > 0,
            to_do.at_turn.any(0),
            (self.turn_step[:, : self.layout.populations] == NOT_YET).any(0),
            self.recorder.sizes(),
            table.alive.sum(2).amax()[None] if self.structure.repeats else self.step[:0],
        )
        self.recorder.settle(sizes)
        self.untaken = [p for p, some in enumerate(untaken) if some]
        going_on, has_runaway, skips, releases = flags
        if has_runaway:
            raise self._runaway(to_do.runaway)
        for deepest in depth:
            table.deepen(deepest + 1)
        if skips:
            self._take_turns(to_do.skipped)
        if not going_on:
            return False
        if releases:
            self._release(to_do.releasing, to_do.end)
        found = [node for node, some in zip(self.structure.out_of, delivering, strict=True) if some]
        if found:
            group = self.structure.group_of[first:end].repeat_interleave(picked.shape[2])
            delivery = (number.flatten(1), group, self.step[:, None])
            self.recorder.add(Block(picked.flatten(1), delivery=delivery))
        for node in found:
            sources = self.structure.sources(node)
            low, high = max(sources.start, first), min(sources.stop, end)
            part = picked[:, low - first : high - first]
            amounts = of_sources(amplitude[:, low - first : high - first] * part.view(torch.uint8))
            outside = (low - sources.start, sources.stop - high)
            amounts, counts = (functional.pad(one, outside) for one in (amounts, of_sources(part)))
            self._deliver(self.structure.out_of[node], amounts, counts)
        self._pass_on(set(found))
        self._evaluate(to_do.stepping, to_do.at_turn, [p for p, some in enumerate(turning) if some])
        return True

    def _decide(self) -> ToDo:
        """Decide who does what next, and let their hops pass."""
        idle = self.live & ~any_of(self.pending.alive[:, self.pending.columns].flatten(1), 1)
        turn = self._next_turn(idle)  # the one to skip to, or NEVER
        end = self.structure.levels[self.level]
        over = idle & (turn == NEVER)
        finished = over & (end == NEVER)
        self.live = self.live & ~finished
        self.live = self.live & ~self._stopped()
        releasing, stepping = over & self.live, self.live & ~over
        self.hop = torch.where(stepping, torch.minimum(self.hop + 1, end - 1), self.hop)
        until = torch.where(releasing | finished, end, torch.where(stepping & (turn < NEVER), turn, NOT_YET))
        at, untaken = self._turns(), self.turn_step[:, : self.layout.populations] == NOT_YET
        skipped = (at >= self.hop[:, None]) & (at < until[:, None]) & untaken
        self.hop = torch.maximum(self.hop, until)
        return ToDo(
            stepping=stepping,
            releasing=releasing,
            end=end,
            skipped=skipped,
            at_turn=(at == self.hop[:, None]) & stepping[:, None],
            runaway=self.live & (self.step >= self.execution.max_forward_steps),
        )

    def _stopped(self) -> Tensor:
        stop = self.execution.stop
        if isinstance(stop, After):
            return self.step >= stop.steps
        if isinstance(stop, Output):
            fired = self.first_output != NOT_YET
            return fired & (self.step > self.first_output + stop.extra_steps)
        return torch.zeros_like(self.live)

    def _runaway(self, runaway: Tensor) -> RunawayError:
        sample = int(self.start.sample_ids[runaway][0])
        return RunawayError(
            f"timestep {self.start.timestep} of sample {sample} is not quiescent after "
            f"max_forward_steps={self.execution.max_forward_steps} forward steps; raise the limit, "
            "use refractory='discard' or 'integrate', or a stop rule"
        )

    # -- turns and releases ----------------------------------------------------------------------------

    def _turns_that_change(self, populations: list[int]) -> Tensor:
        """Return whether each population's turn can change anything, (B, P); anything for others than those asked."""
        changes = self.has_bias.expand(len(self.step), -1).clone()
        for p in populations:
            here = self.structure.neurons_of(p)
            fires, _ = self._spikes(range(p, p + 1), self.able[:, here], self._potential(here))
            changes[:, p] |= any_of(fires, 1)
        for k in self.structure.delayed:
            p = int(self.layout.target[k])
            if p < self.layout.populations:
                changes[:, p] |= (self.structure.last_spikes(self.values, k) != 0).any(1)
        return changes

    def _next_turn(self, idle: Tensor) -> Tensor:
        """Return the next turn (B,) of this phase that can change anything, NEVER if none or not `idle` (B,)."""
        if not self.untaken:
            return torch.full_like(self.hop, NEVER)
        turn, end = self._turns(), self.structure.levels[self.level]
        coming = (turn > self.hop[:, None]) & (turn < end[:, None]) & idle[:, None]
        return torch.where(coming & self._turns_that_change(self.untaken), turn, NEVER).amin(1)

    def _release(self, releasing: Tensor, level: Tensor) -> None:
        """Let the junctions of a `level` (B,) pass on what they held back, in the samples `releasing` (B,)."""
        for j in self.junctions.waiting:
            self._let_go(j, releasing & (level == self.structure.turn[j]))
        self.level = self.level + releasing

    def _let_go(self, j: int, now: Tensor) -> None:
        """Emit the values of a waiting junction, as if in the last forward step, in the samples `now` (B,)."""
        last = (self.step - 1).clamp(min=0)
        self.turn_step[:, j] = torch.where(now, last, self.turn_step[:, j])
        self._deliver_last_spikes(j, now)
        self.junctions.add(j, torch.where(now[:, None], self.structure.bias(self.values, j), 0.0))
        values = self.junctions.values(j)
        mask = now[:, None] & (values != 0)
        self._emit(self.structure.sources(j), mask, values, values, last[:, None])

    # -- behind a barrier ------------------------------------------------------------------------------

    def _run_layered(self) -> None:
        """Each node once, in topological order, when everything upstream has been delivered."""
        for node in self.layout.order.tolist():
            edges = [k for k in self.structure.into[node] if not self.layout.delayed[k]]
            if node < self.layout.populations:
                later, alone = self.live & (self.step > 0), self._turns() == node
                idle = later & ~self._arrives(edges) & ~self._turns_that_change([node])[:, node]
                self._take_turns(idle[:, None] & alone)
                self.live = self.live & ~(later & ~idle & self._stopped())
                proceeding = self.live & ~idle
                self._deliver_sent(edges, proceeding)
                self._evaluate(proceeding, proceeding[:, None] & alone, [node])
                continue
            self._deliver_sent(edges, self.live)
            if node in self.junctions.waiting:
                self._let_go(node, self.live)
            else:
                self._relay(node)

    def _arrives(self, edges: list[int]) -> Tensor:
        """Return whether projections will bring anything, (B,)."""
        found = torch.zeros_like(self.live)
        for k in edges:
            sources = self.structure.sources_of(k)
            found |= self.pending.alive[:, self.pending.here(sources)].flatten(1).any(1)
            if int(self.layout.source[k]) < 0:
                found |= (self.values.x[:, sources] != 0).any(1)
        return found

    def _deliver_sent(self, edges: list[int], proceeding: Tensor) -> None:
        """Deliver all that was sent through projections, in the samples `proceeding` (B,)."""
        step = self.step[:, None]
        for k in edges:
            sources = self.structure.sources_of(k)
            here = self.pending.here(sources)
            number, amplitude = self.pending.number[:, here], self.pending.amplitude[:, here]
            sent = self.pending.alive[:, here] & proceeding[:, None, None]
            group = self.structure.alone + k
            columns = (number.flatten(1), torch.full_like(step, group), step)
            self.recorder.add(Block(sent.flatten(1), delivery=columns))
            amounts, counts = of_sources(amplitude * sent.view(torch.uint8)), of_sources(sent)
            if int(self.layout.source[k]) < 0:
                frame = torch.where(proceeding[:, None], self.values.x[:, sources], 0.0)
                amounts, counts = amounts + frame, counts.long() + (frame != 0)
            self._deliver_through(k, amounts, counts)

    # -- the end ---------------------------------------------------------------------------------------

    def _result(self) -> Simulation:
        silent, potential = self.able & (self.silent_step != NOT_YET), self._potential(slice(None))
        left, number = PendingEvents.none(self.base), self.emitted[:0]
        if self.execution.leftover == "carry" and not self.execution.layered:
            number, left = self.pending.left()
        log = None
        if self.recorder.keep_log:
            log = EventLog(
                **self.recorder.columns(self.emitted, left, number),
                carried=self.carried,
                silent_step=((self.silent_step + 1) * silent.view(torch.uint8)).long() - 1,
                silent_potential=torch.where(silent, potential, 0.0),
                turn_step=self.turn_step,
            )
        return Simulation(
            spikes=self.spikes,
            current=self.current,
            potential=potential,
            counts=Counts(
                spikes=count_parts(self.count, self.structure.starts),
                forward_steps=self.step,
                first_output_step=self.first_output,
                synaptic_operations=self.operations,
                neuron_updates=self.updates,
            ),
            pending=left,
            log=log,
        )
