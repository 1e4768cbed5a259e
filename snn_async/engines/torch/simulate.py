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
from snn_async.engines.torch.device import any_of, count_parts, to_host
from snn_async.engines.torch.log import NOWHERE, Iteration, TorchLog
from snn_async.engines.torch.steps import ForwardSteps
from snn_async.engines.torch.table import pick
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
        untaken: the populations whose turn some sample may not have taken.
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
        self.firing: dict[int, Tensor] = {}
        self.sent: dict[int, tuple[Tensor, Tensor]] = {}
        if self.execution.layered:
            self._run_layered()
        else:
            self._run_events()
        return self._result()

    # -- event by event --------------------------------------------------------------------------------

    def _run_events(self) -> None:
        frame = self.values.x.detach()
        self.hop, self.level = torch.zeros_like(self.step), torch.zeros_like(self.step)
        if self.execution.queues_input:
            self.table.emit(self.structure.sources(-1), frame != 0, frame, self.step[:, None])
        else:
            self.whole.update(self.structure.first_turning)
            self._deliver(self.structure.out_of[-1], frame, frame != 0)
            delivering = {-1}
            self._pass_on(delivering)
            self._keep(self.live, delivering)
        at_turn = (self._turns() == 0).expand(len(frame), -1)
        self._evaluate(self.live, at_turn, self.structure.first_turning)
        self.untaken = [p for p in range(self.layout.populations) if p not in self.structure.first_turning]
        while self._next():
            pass

    def _turns(self) -> Tensor:
        return self.structure.turn[: self.layout.populations]

    def _next(self) -> bool:
        """Do what comes next in every sample; return whether anybody goes on."""
        to_do, table = self._decide(), self.table
        here, amplitudes = table.columns, [plane.amplitude[:, table.columns] for plane in table.every()]
        picked = pick(table, self.execution, self.start, to_do.stepping, self.step)
        step = self.step[:, None] if self.keep_log else None
        table.deliver(picked, step, self.execution.forward_group_size is None)
        some = torch.stack([any_of(mask, 0) for mask in picked]).any(0)
        first, end = table.first + here.start, table.first + here.stop
        columns = self.structure.first_source.clamp(first, end) - first
        populations = self.layout.populations
        flags, delivering, turning, whole, untaken, depth = to_host(
            torch.stack([mask.any() for mask in (self.live, to_do.runaway, to_do.skipped, to_do.releasing)]),
            count_parts(some[None], columns)[0] > 0,
            to_do.at_turn.any(0),
            to_do.at_turn.all(0),
            (self.turn_step[:, :populations] == NOT_YET).any(0),
            self.count.amax()[None] if self.structure.repeats else self.step[:0],
        )
        going_on, has_runaway, skips, releases = flags
        if has_runaway:
            raise self._runaway(to_do.runaway)
        for deepest in depth:
            table.deepen(deepest + 1)
        if skips:
            self._take_turns(to_do.skipped, self.untaken)
        self.untaken = [p for p, some in enumerate(untaken) if some and not whole[p]]
        if not going_on:
            return False
        if releases:
            self._release(to_do.releasing, to_do.end)
        self.whole = {p for p, every in enumerate(whole) if every}
        found = {node for node, some in zip(self.structure.out_of, delivering, strict=True) if some}
        for node in found:
            sources = self.structure.sources(node)
            low, high = max(sources.start, first), min(sources.stop, end)
            outside, at = (low - sources.start, sources.stop - high), slice(low - first, high - first)
            amounts, counts = _together([a[:, at] for a in amplitudes], [mask[:, at] for mask in picked])
            amounts, counts = (functional.pad(one, outside) for one in (amounts, counts))
            self._deliver(self.structure.out_of[node], amounts, counts)
        self._pass_on(found)
        self._keep(to_do.stepping, found)
        self._evaluate(to_do.stepping, to_do.at_turn, [p for p, some in enumerate(turning) if some])
        return True

    def _keep(self, stepping: Tensor, delivering: set[int]) -> None:
        """Keep who delivered in a forward step of the samples `stepping` (B,)."""
        if self.keep_log:
            step = torch.where(stepping, self.step, NOWHERE)
            self.iterations.append(Iteration(step[:, None].int(), frozenset(delivering)))

    def _decide(self) -> ToDo:
        """Decide who does what next, and let their hops pass."""
        idle = self.live & ~self.table.pending()
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
            if p in self.seen or p not in self.firing:
                if p in self.seen:
                    fires, _ = self._spikes(p, self.able[p], self._potential(p))
                else:
                    fires, _ = self._spikes(p, None, self.base[p])
                self.firing[p] = any_of(fires, 1)
            changes[:, p] |= self.firing[p]
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
        self._deliver_unsent(j, now)
        self.junctions.add(j, torch.where(now[:, None], self.structure.bias(self.values, j), 0.0))
        values = self.junctions.values(j)
        self.table.emit(self.structure.sources(j), now[:, None] & (values != 0), values, last[:, None])

    # -- behind a barrier ------------------------------------------------------------------------------

    def _run_layered(self) -> None:
        """Each node once, in topological order, when everything upstream has been delivered."""
        for node in self.layout.order.tolist():
            edges = [k for k in self.structure.into[node] if k not in self.structure.delayed]
            if node < self.layout.populations:
                later, alone = self.live & (self.step > 0), self._turns() == node
                idle = later & ~self._arrives(edges) & ~self._turns_that_change([node])[:, node]
                self._take_turns(idle[:, None] & alone, [node])
                self.live = self.live & ~(later & ~idle & self._stopped())
                proceeding = self.live & ~idle
                self._deliver_sent(edges, proceeding)
                self._evaluate(proceeding, proceeding[:, None] & alone, [node])
                continue
            self._deliver_sent(edges, self.live)
            if node in self.junctions.waiting:
                self._let_go(node, self.live)
            else:
                self.sent[node] = self._relay(node)
                self._keep(self.live, {node})

    def _arrives(self, edges: list[int]) -> Tensor:
        """Return whether projections will bring anything, (B,)."""
        found = torch.zeros_like(self.live)
        for k in edges:
            found |= self._sent(k, self.live)[1].any(1)
        return found

    def _sent(self, k: int, proceeding: Tensor) -> tuple[Tensor, Tensor]:
        """Return what was sent to projection k in the samples `proceeding` (B,): amounts and numbers of events."""
        node, sources = int(self.layout.source[k]), self.structure.sources_of(k)
        if node in self.sent:
            counts, amounts = (one[:, self.structure.taken(k)] for one in self.sent[node])
            return amounts * proceeding[:, None].view(torch.uint8), counts & proceeding[:, None]
        here = self.table.here(sources)
        sent = [plane.alive[:, here] & proceeding[:, None] for plane in self.table.every()]
        amounts, counts = _together([plane.amplitude[:, here] for plane in self.table.every()], sent)
        if node < 0:
            frame = torch.where(proceeding[:, None], self.values.x[:, sources], 0.0)
            if here.stop == here.start:
                return frame, frame != 0
            amounts, counts = amounts + frame, counts.long() + (frame != 0)
        return amounts, counts

    def _deliver_sent(self, edges: list[int], proceeding: Tensor) -> None:
        """Deliver all that was sent through projections, in the samples `proceeding` (B,)."""
        for k in edges:
            self._deliver_through(k, *self._sent(k, proceeding))
            self.arrived[k] = torch.where(proceeding, self.step, NEVER)[:, None].int()

    # -- the end ---------------------------------------------------------------------------------------

    def _result(self) -> Simulation:
        table = self.table
        neurons = table.here(slice(self.layout.inputs, self.layout.inputs + self.layout.neurons))
        potentials = [self._potential(p) for p in range(self.layout.populations)]
        fired = [plane.amplitude[:, neurons] for plane in table.planes]
        spikes = fired[0] if len(fired) == 1 else torch.stack(fired).sum(0)
        counts = torch.stack([count_parts(one != 0, self.structure.starts) for one in fired]).sum(0)
        if any(neuron.analog for neuron in self.structure.neurons):
            sent = zip(self.structure.neurons, potentials, spikes.split(self.structure.sizes, 1), strict=True)
            spikes = torch.cat([potential if neuron.analog else own for neuron, potential, own in sent], 1)
        potential, current = torch.cat(potentials, 1), torch.cat(self.current, 1)
        places, left = None, PendingEvents.none(self.values.base)
        if self.execution.leftover == "carry" and not self.execution.layered:
            places, left = table.left()
        log = None
        if self.keep_log:
            log = TorchLog(
                structure=self.structure,
                table=table,
                iterations=self.iterations,
                relays=self.relays,
                arrived=self.arrived if self.execution.layered else None,
                able=torch.cat(self.able, 1),
                currents=current,
                potentials=potential,
                cells=self.junctions.cells,
                turn_step=self.turn_step,
                places=places,
            )
        return Simulation(
            spikes=spikes,
            current=current,
            potential=potential,
            counts=Counts(
                spikes=counts,
                forward_steps=self.step,
                first_output_step=self.first_output,
                synaptic_operations=self.operations,
                neuron_updates=self.updates,
            ),
            pending=left,
            log=log,
        )


def _together(amplitudes: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sum of each source's events at the masks (B, n), and how many they are."""
    if len(masks) == 1:
        return amplitudes[0] * masks[0].view(torch.uint8), masks[0]
    amounts = torch.stack([a * mask.view(torch.uint8) for a, mask in zip(amplitudes, masks, strict=True)])
    return amounts.sum(0), torch.stack(masks).sum(0)
