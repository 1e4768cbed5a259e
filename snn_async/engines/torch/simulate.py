"""The rules of docs/design.md, section 3, for a whole batch at once: a timestep from start to end.

An iteration of the loop does for every sample what comes next in it: a forward step, skipping turns, the release of
waiting junctions, or nothing. It is decided on the device; the host then learns in one synchronization (`_next`)
whether anybody goes on and which nodes deliver anything.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from snn_async.engines.contract import NEVER, NOT_YET, Counts, PendingEvents, Simulation
from snn_async.engines.torch.device import count_parts, places, to_host
from snn_async.engines.torch.pending import Picker, of_sources
from snn_async.engines.torch.records import Block
from snn_async.engines.torch.steps import ForwardSteps
from snn_async.errors import RunawayError
from snn_async.stopping import After, Output


class ToDo(NamedTuple):
    """What comes next in every sample.

    Attributes:
        stepping, releasing: (B,) whether it is a forward step, or waiting junctions pass on.
        end: (B,) the turn at which they do, NEVER if there are no more of them.
        skipped: (B, P) turns that pass before.
        at_turn: (B, P) turns of the forward step.
        runaway: (B,) who has done too many.
    """

    stepping: Tensor
    releasing: Tensor
    end: Tensor
    skipped: Tensor
    at_turn: Tensor
    runaway: Tensor


class BatchRun(ForwardSteps):
    """A batch's timestep.

    Attributes:
        live: (B,) whose timestep has not ended.
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
        self.picker = Picker(self.execution, self.start)
        if self.execution.queues_input:
            self._emit(self.structure.sources(-1), frame != 0, frame, frame, step)
        else:
            self._deliver(self.structure.out_of[-1], frame, frame != 0)
            self._pass_on({-1})
        at_turn = (self._turns() == 0).expand(len(frame), -1)
        self._evaluate(self.live, at_turn, self.structure.first_turning)
        self.iteration = 0
        while self._next():
            self.iteration += 1

    def _turns(self) -> Tensor:
        return self.structure.turn[: self.layout.populations]

    def _next(self) -> bool:
        """Do what comes next in every sample; return whether anybody goes on."""
        to_do, table = self._decide(), self.pending
        number, amplitude = table.number, table.amplitude
        picked = self.picker.pick(table, to_do.stepping, self.step)
        table.remove(picked)
        counts = of_sources(picked)
        delivering = count_parts(counts, self.structure.columns(table.first, table.end)) > 0  # (B, nodes)
        flags, samples, turning, sizes, depth = to_host(
            torch.stack([mask.any() for mask in (self.live, to_do.runaway, to_do.skipped, to_do.releasing)]),
            delivering.sum(0),
            to_do.at_turn.any(0),
            self.recorder.sizes(),
            table.alive.sum(2).amax()[None] if self.structure.repeats else self.step[:0],
        )
        self.recorder.settle(sizes)
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
        found = {node: size for node, size in zip(self.structure.out_of, samples, strict=True) if size}
        if found:
            self._record_deliveries(picked, number)
            amounts = of_sources(torch.where(picked, amplitude, 0.0))
        for node, size in found.items():
            here = table.here(self.structure.sources(node))
            sent, events, rows = amounts[:, here], counts[:, here], None
            if size < len(self.step):
                (rows,) = places(delivering[:, node + 1], size)
                sent, events = sent[rows], events[rows]
            self._deliver(self.structure.out_of[node], sent, events, rows)
        self._pass_on(set(found))
        self._evaluate(to_do.stepping, to_do.at_turn, [p for p, some in enumerate(turning) if some])
        return True

    def _decide(self) -> ToDo:
        """Decide who does what next, and let their hops pass."""
        idle = self.live & ~self.pending.alive.flatten(1).any(1)
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

    def _record_deliveries(self, picked: Tensor, number: Tensor) -> None:
        if self.recorder.keep_log:
            group = self.structure.node_of[self.pending.first : self.pending.end] + 1
            columns = (number.flatten(1), group.repeat_interleave(picked.shape[2]), self.step[:, None])
            self.recorder.add(Block(picked.flatten(1), delivery=columns))

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

    def _turns_that_change(self) -> Tensor:
        """Return whether each population's turn can change anything, (B, P)."""
        fires, _ = self._spikes(self.able, self._potential())
        changes = (count_parts(fires, self.structure.starts) > 0) | self.has_bias
        for k in self.structure.delayed:
            changes[:, int(self.layout.target[k])] |= (self._last_spikes(k) != 0).any(1)
        return changes

    def _next_turn(self, idle: Tensor) -> Tensor:
        """Return the next turn (B,) of this phase that can change anything, NEVER if none or not `idle` (B,)."""
        if self.iteration >= self.structure.last_turn:  # every hop is a number of iterations at least
            return torch.full_like(self.hop, NEVER)
        turn, end = self._turns(), self.structure.levels[self.level]
        coming = (turn > self.hop[:, None]) & (turn < end[:, None]) & idle[:, None]
        return torch.where(coming & self._turns_that_change(), turn, NEVER).amin(1)

    def _release(self, releasing: Tensor, level: Tensor) -> None:
        """Let the junctions of a `level` (B,) pass on what they held back, in the samples `releasing` (B,)."""
        for j in self.junctions.waiting:
            self._let_go(j, releasing & (level == self.structure.turn[j]))
        self.level = self.level + releasing

    def _let_go(self, j: int, now: Tensor) -> None:
        """Emit the values of a waiting junction, as if in the last forward step, in the samples `now` (B,)."""
        last = (self.step - 1).clamp(min=0)
        self.turn_step[:, j] = torch.where(now, last, self.turn_step[:, j])
        values = self.junctions.values(j)
        mask = now[:, None] & (values != 0)
        self._emit(self.structure.sources(j), mask, values, values, last[:, None])

    # -- behind a barrier ------------------------------------------------------------------------------

    def _run_layered(self) -> None:
        """Each node once, in topological order, when everything upstream has been delivered."""
        for node in self.layout.order.tolist():
            edges = [k for k in self.structure.into[node] if not self.layout.delayed[k]]
            if node >= self.layout.populations:
                self._deliver_layered(edges, self.live)
                if node in self.junctions.waiting:
                    self._let_go(node, self.live)
                else:
                    self._relay(node)
                continue
            arriving = torch.stack([self._waiting_for(k)[1].any(1) for k in edges]).any(0)
            later, alone = self.live & (self.step > 0), self._turns() == node
            idle = later & ~arriving & ~self._turns_that_change()[:, node]
            self._take_turns(idle[:, None] & alone)
            self.live = self.live & ~(later & ~idle & self._stopped())
            proceeding = self.live & ~idle
            self._deliver_layered(edges, proceeding)
            self._evaluate(proceeding, proceeding[:, None] & alone, [node])

    def _waiting_for(self, k: int) -> tuple[Tensor, Tensor]:
        """Return what projection k will bring: amounts and how many events they are made of, (B, fan_in)."""
        node = int(self.layout.source[k])
        here = self.pending.here(self.structure.sources(node))
        alive = self.pending.alive[:, here]
        amounts = of_sources(torch.where(alive, self.pending.amplitude[:, here], 0.0))
        counts = of_sources(alive)
        if node >= 0:
            return amounts, counts
        frame = self.values.x.detach()
        return (amounts + frame, counts.long() + (frame != 0)) if counts.shape[1] else (frame, frame != 0)

    def _deliver_layered(self, edges: list[int], proceeding: Tensor) -> None:
        """Deliver everything that the sources of projections have sent, in the samples `proceeding` (B,)."""
        for k in edges:
            amounts, counts = (part * proceeding[:, None] for part in self._waiting_for(k))
            self._deliver([k], amounts, counts)
            number = self.pending.number[
                :, self.pending.here(self.structure.sources(int(self.layout.source[k])))
            ]
            mask = (number.flatten(1) >= 0) & proceeding[:, None]
            step = self.step[:, None]
            group = torch.full_like(step, len(self.structure.turn) + 1 + k)
            self.recorder.add(Block(mask, None, (number.flatten(1), group, step)))

    # -- the end ---------------------------------------------------------------------------------------

    def _result(self) -> Simulation:
        silent, potential = self.able & (self.silent_step != NOT_YET), self._potential()
        silent_step = torch.where(silent, self.silent_step, NOT_YET)
        left, number = PendingEvents.none(self.base), self.emitted[:0]
        if self.execution.leftover == "carry" and not self.execution.layered:
            number, left = self.pending.left()
        log = None
        if self.recorder.keep_log:
            (sizes,) = to_host(self.recorder.sizes())
            self.recorder.settle(sizes)
            u, current = (torch.where(silent, value, 0.0) for value in (potential, self.current))
            log = self.recorder.log(
                self.emitted, self.carried, left, number, (silent_step, u, current), self.turn_step
            )
        return Simulation(
            spikes=self.spikes if self.structure.graded else self.count.to(self.base.dtype),
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
