"""The rules of docs/design.md, section 3, one sample at a time, written to be read: a timestep from start to end."""

import numpy as np
from numpy.typing import NDArray

from snn_async.engines.reference.steps import NOT_YET, ForwardSteps
from snn_async.errors import RunawayError
from snn_async.stopping import After, Output

Floats = NDArray[np.floating]
NEVER = 1 << 30


class SampleRun(ForwardSteps):
    """One sample's run; `timestep` advances it by one input frame."""

    def timestep(self, t: int, frame: Floats) -> None:
        """Run timestep `t` (counted within this run) on one input frame (S,)."""
        self.t, self.clock = t, self.start.timestep + t
        self.step = 0
        self.hop = 0
        self.first_output = NOT_YET
        self.synaptic_operations = self.neuron_updates = 0
        self.deliveries.append([])
        self.emissions.append([])
        self._begin()
        if self.execution.layered:
            self._run_layered(frame)
        else:
            self._run_events(frame)
        self._end()

    # -- the timestep's start and end ------------------------------------------------------------------

    def _begin(self) -> None:
        """Leak and delayed reset, in the framework's own order; nobody is refractory."""
        n = self.layout.neurons
        self.able = np.ones(n, dtype=bool)
        self.ignoring = np.zeros(n, dtype=bool)
        self.residual = np.zeros_like(self.potential)  # lowers the potential for this timestep only
        self.last_evaluation = np.full(n, NOT_YET)
        self.last_spike = np.full(n, NOT_YET)
        self.turn_step = np.full(len(self.turn), NOT_YET)
        self.spikes_before = self.spikes
        self.junctions.begin()
        threshold = self.constants.threshold
        for p, neuron in enumerate(self.neurons):
            here = slice(*self.layout.start[p : p + 2])
            v, fired = self.potential[here], self.spikes[here]
            if neuron.delayed_reset and neuron.reset == "value":
                v = np.where(fired > 0, v.dtype.type(neuron.reset_value), v)
            base = self.constants.leak[here] * v + self.constants.offset[here]
            if neuron.delayed_reset and neuron.reset == "subtract":
                base = base - fired.astype(v.dtype) * threshold[here]
            if neuron.swallow_input:
                base = np.where(fired > 0, v.dtype.type(neuron.reset_value), base)
                self.ignoring[here] = fired > 0
            if neuron.retest_residual and neuron.spiking:
                self.residual[here] = np.where(self._above(p, v), threshold[here], 0)
            self.potential[here] = base - self.residual[here]
        self.spikes = np.zeros(n, dtype=np.int64)

    def _end(self) -> None:
        silent = self.able & (self.last_evaluation > self.last_spike)
        self.silent_step = np.where(silent, self.last_evaluation, NOT_YET)
        self.silent_potential = np.where(silent, self.potential, 0)
        self.potential = self.potential + self.residual
        if self.execution.leftover == "drop":
            self.pending = []

    # -- the two ways through a timestep ---------------------------------------------------------------

    def _run_events(self, frame: Floats) -> None:
        inputs = np.flatnonzero(frame)
        self.unreleased = sorted({int(self.turn[j]) for j in self.junctions.waiting})
        if self.execution.queues_input:
            for i in inputs:
                self._emit(int(i), float(frame[i]), float(frame[i]))
            self._evaluate(self._nobody())
        else:
            self._evaluate(self._spread([(int(i), float(frame[i])) for i in inputs]))
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
            group = self._pick()
            for event in group:
                self._mark_delivered(event)
            self._evaluate(self._spread([(event.source, event.amplitude) for event in group]))

    def _release(self, level: int) -> None:
        """Let the junctions of a level pass on what they held back; their units become pending."""
        self._skip_to(level)
        for j in self.junctions.waiting:
            if self.turn[j] == level:
                self.turn_step[j] = self.step - 1
                for source, value in self.junctions.values(j):
                    self._emit(source, value, value, self.step - 1)

    def _end_of_phase(self) -> int:
        return self.unreleased[0] if self.unreleased else NEVER

    def _run_layered(self, frame: Floats) -> None:
        """Each node once, in topological order, when everything upstream has been delivered."""
        inputs = [(int(i), float(frame[i])) for i in np.flatnonzero(frame)]
        available = self.pending  # whatever was emitted so far and may still reach something
        self.turn = np.full(len(self.layout.turn), NOT_YET)
        self.turn[: len(self.neurons)] = np.arange(len(self.neurons))
        for node in self.layout.order.tolist():
            into = [k for k in self._into(node) if not self.layout.delayed[k]]
            arriving = [event for event in available if any(self._row(k, event.source) >= 0 for k in into)]
            from_input = inputs if any(self.layout.source[k] < 0 for k in into) else []
            events = from_input + [(event.source, event.amplitude) for event in arriving]
            if node < len(self.neurons) and self.step > 0:
                if not events and not self._turn_changes(node):
                    self._take_turn(node)
                    continue
                if self._stopped():
                    break
            for event in arriving:
                if event.delivered[0] == NOT_YET:
                    self._mark_delivered(event)
            reached = self._nobody()
            self._deliver(events, reached, into)
            if node < len(self.neurons):
                self.hop = node
                self._evaluate(reached)
            elif node in self.junctions.waiting:
                self.turn_step[node] = self.step - 1
                for source, value in self.junctions.values(node):
                    self._emit(source, value, value, self.step - 1)
            else:
                for source, amount, cell in self.junctions.pass_on(node, reached):
                    available.append(self._relay(source, amount, cell))
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
        here = slice(*self.layout.start[p : p + 2])
        above = self._above(p, self.potential[here]) & self.able[here]
        recurrent = any(self._spikes_before(k).any() for k in self._into(p) if self.layout.delayed[k])
        return bool(self.has_bias[p] or recurrent or (above.any() and self.neurons[p].spiking))

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
        for p in np.flatnonzero(self.turn[: len(self.neurons)] >= self.hop):
            if turn is None or self.turn[p] < turn:
                self._take_turn(int(p))
        if turn is not None:
            self.hop = turn

    def _take_turn(self, p: int) -> None:
        here = slice(*self.layout.start[p : p + 2])
        if self.turn_step[p] == NOT_YET:
            self.turn_step[p] = self.step
            self.last_evaluation[here][self.able[here]] = self.step
            self.neuron_updates += int(self.able[here].sum())
