"""The rules of docs/design.md, section 3, one sample at a time, written to be read: a timestep from start to end."""

import torch
from torch import Tensor

from snn_async.engines.contract import NEVER, NOT_YET
from snn_async.engines.reference.steps import Event, ForwardSteps
from snn_async.errors import RunawayError
from snn_async.stopping import After, Output


class SampleRun(ForwardSteps):
    """One sample's timestep.

    Attributes:
        potential: (N,) at the end.
        silent_step, silent_potential: (N,) see `EventLog`.
    """

    def run(self, frame: Tensor) -> "SampleRun":
        """Run the timestep on one input frame (S,)."""
        amplitudes = [(i, float(frame[i])) for i in frame.nonzero().flatten().tolist()]
        inputs = [Event(i, a, a, self.clock, self.step) for i, a in amplitudes]
        if self.execution.layered:
            self._run_layered(inputs)
        else:
            self._run_events(inputs)
        self.potential = self.potential_of(slice(None))
        for p, neuron in enumerate(self.neurons):
            if neuron.analog:
                self.spikes[self._neurons(p)] = self.potential[self._neurons(p)]
        silent = self.able & (self.last_evaluation > self.last_spike)
        self.silent_step = torch.where(silent, self.last_evaluation, NOT_YET)
        self.silent_potential = torch.where(silent, self.potential, 0)
        if self.execution.leftover == "drop":
            self.pending = []
        return self

    # -- the two ways through a timestep ---------------------------------------------------------------

    def _run_events(self, inputs: list[Event]) -> None:
        self.unreleased = sorted({int(self.turn[j]) for j in self.junctions.waiting})
        if self.execution.queues_input:
            for event in inputs:
                self._emit(event)
            self._evaluate(self._nobody())
        else:
            self._evaluate(self._spread(inputs))
        while True:
            turn = None if self.pending else self._next_turn()
            over = not self.pending and turn is None
            if over and not self.unreleased:
                self._skip_to(None)
                return
            if self._stopped():
                return
            if over:
                self._release(self.unreleased.pop(0))
                continue
            self.hop = min(self.hop + 1, self._end_of_phase() - 1)
            if turn is not None:
                self._skip_to(turn)
            self._evaluate(self._spread(self._pick()))

    def _release(self, level: int) -> None:
        """Let the junctions of a level pass on what they held back."""
        self._skip_to(level)
        for j in self.junctions.waiting:
            if self.turn[j] == level:
                self._release_junction(j)

    def _release_junction(self, j: int) -> None:
        """Its units become pending, as if emitted in the last forward step."""
        last = self.turn_step[j] = max(self.step - 1, 0)
        self._add_unsent(j, self._nobody())
        for source, value in self.junctions.values(j):
            self._emit(Event(source, value, value, self.clock, last))

    def _end_of_phase(self) -> int:
        return self.unreleased[0] if self.unreleased else NEVER

    def _run_layered(self, inputs: list[Event]) -> None:
        """Each node once, in topological order, when everything upstream has been delivered."""
        available = self.pending  # whatever was emitted so far and may still reach something
        self.turn[: len(self.neurons)] = torch.arange(len(self.neurons))
        for node in self.layout.order.tolist():
            into = self._into(node)
            arriving = [
                event for event in inputs + available if any(self._row(k, event.source) >= 0 for k in into)
            ]
            if node < len(self.neurons) and self.step > 0:
                if not arriving and not self._turn_changes(node):
                    self._take_turn(node)
                    continue
                if self._stopped():
                    break
            reached = self._nobody()
            self._deliver(arriving, reached, into)
            if node < len(self.neurons):
                self.hop = node
                self._evaluate(reached)
            elif node in self.junctions.waiting:
                self._release_junction(node)
            else:
                available += self._relay(node, reached)
        self.pending = []

    def _stopped(self) -> bool:
        stop = self.execution.stop
        if isinstance(stop, After) and self.step >= stop.steps:
            return True
        fired = self.first_output != NOT_YET
        if isinstance(stop, Output) and fired and self.step > self.first_output + stop.extra_steps:
            return True
        if self.step >= self.execution.max_forward_steps and not self.execution.layered:
            raise RunawayError(
                f"timestep {self.clock} of sample {self.sample_id} is not quiescent after "
                f"max_forward_steps={self.execution.max_forward_steps} forward steps; raise the limit, "
                "use refractory='discard' or 'integrate', or a stop rule"
            )
        return False

    # -- turns -----------------------------------------------------------------------------------------

    def _turn_changes(self, p: int) -> bool:
        into = (self.layout.target == p).nonzero()[0].tolist()
        biased = any(bool(bias.any()) for k in into if (bias := self.wires.biases[k]) is not None)
        recurrent = any(bool(self._last_spikes(k).any()) for k in into if self.layout.delayed[k])
        return biased or recurrent or bool((self._spike_values(p) * self.able[self._neurons(p)]).any())

    def _next_turn(self) -> int | None:
        """The next turn of this phase that can change anything."""
        coming = [
            turn
            for p, turn in enumerate(self.turn[: len(self.neurons)].tolist())
            if self.hop < turn < self._end_of_phase() and self._turn_changes(p)
        ]
        return min(coming, default=None)

    def _skip_to(self, turn: int | None) -> None:
        """Let turns pass that can change nothing: an evaluation, but not a forward step."""
        for p in range(len(self.neurons)):
            if self.turn[p] >= self.hop and (turn is None or self.turn[p] < turn):
                self._take_turn(p)
        if turn is not None:
            self.hop = turn

    def _take_turn(self, p: int) -> None:
        here = self._neurons(p)
        if self.turn_step[p] == NOT_YET:
            self.turn_step[p] = self.step
            self.last_evaluation[here][self.able[here]] = self.step
            self.neuron_updates += int(self.able[here].sum())
