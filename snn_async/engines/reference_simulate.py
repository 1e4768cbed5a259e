"""The rules of docs/design.md, section 3, one sample at a time, written to be read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snn_async import keys
from snn_async.engines.contract import Execution, Start
from snn_async.engines.layout import Layout
from snn_async.errors import RunawayError
from snn_async.graph import Graph
from snn_async.schedulers import Pending, check_priorities
from snn_async.stopping import After, Output

Floats = NDArray[np.floating]
NOT_YET = -1


@dataclass(eq=False)
class Event:
    """A spike or a queued input on its way; `delivered` is (timestep, forward step)."""

    source: int
    amplitude: float
    potential: float
    timestep: int
    step: int
    delivered: tuple[int, int] = (NOT_YET, NOT_YET)


@dataclass(frozen=True)
class Constants:
    """The values of a run as arrays; projections' weights as (fan_in, fan_out) matrices."""

    weights: Sequence[Floats]
    biases: Sequence[Floats]
    leak: Floats
    offset: Floats
    threshold: Floats
    source_scale: Sequence[Floats | None]  # (T, B, fan_in) each
    target_scale: Sequence[Floats | None]


class SampleRun:
    """One sample's state while its events run; `timestep` advances it by one input frame."""

    def __init__(
        self,
        graph: Graph,
        layout: Layout,
        execution: Execution,
        constants: Constants,
        start: Start,
        sample: int,
        potentials: Floats,
        pending: list[Event],
    ) -> None:
        self.layout, self.execution, self.constants, self.start = layout, execution, constants, start
        self.neurons = [population.neuron for population in graph.populations]
        self.sample = sample
        self.sample_id = int(start.sample_ids[sample])
        self.potential = potentials.copy()
        self.spikes = start.spikes[sample].astype(np.int64)
        self.pending = pending
        self.deliveries: list[list[Event]] = []
        self.emissions: list[list[Event]] = []
        has_bias = np.zeros(len(layout.turn), dtype=bool)
        for k, target in enumerate(layout.target):
            has_bias[target] |= bool(constants.biases[k].any())
        self.has_bias = has_bias
        self.turn = layout.turn + (1 if execution.queues_input else 0)

    def timestep(self, t: int, frame: Floats) -> None:
        """Run timestep `t` (counted within this run) on one input frame (S,)."""
        self.t, self.clock = t, self.start.timestep + t
        self.step = 0  # the next forward step's number; finally how many there were
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
        self.able = np.ones(n, dtype=bool)  # able to spike, i.e. not refractory
        self.ignoring = np.zeros(n, dtype=bool)  # currents have no effect
        self.residual = np.zeros_like(self.potential)  # lowers the potential for this timestep only
        self.last_evaluation = np.full(n, NOT_YET)
        self.last_spike = np.full(n, NOT_YET)
        self.turn_step = np.full(len(self.turn), NOT_YET)
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
        if self.execution.queues_input:
            for i in inputs:
                self._emit(int(i), float(frame[i]), float(frame[i]))
            self._evaluate(set())
        else:
            self._evaluate(self._deliver([(int(i), float(frame[i])) for i in inputs]))
        while self.pending or self._next_turn() is not None:
            if self._stopped():
                return
            turn = None if self.pending else self._next_turn()
            self.hop += 1
            if turn is not None:
                self._skip_to(turn)
            group = self._pick()
            for event in group:
                event.delivered = (self.t, self.step)
                self.deliveries[-1].append(event)
            self._evaluate(self._deliver([(event.source, event.amplitude) for event in group]))
        self._skip_to(None)

    def _run_layered(self, frame: Floats) -> None:
        """Each population once, in topological order, when everything upstream has been delivered."""
        inputs = [(int(i), float(frame[i])) for i in np.flatnonzero(frame)]
        self.turn = np.arange(len(self.turn))
        for p in range(len(self.turn)):
            self.hop = p
            into = self._into(p)
            arriving = [event for event in self.pending if any(self._row(k, event.source) >= 0 for k in into)]
            from_input = inputs if any(self.layout.source[k] < 0 for k in into) else []
            events = from_input + [(event.source, event.amplitude) for event in arriving]
            if p > 0 and not events and not self._turn_changes(p):
                self._take_turn(p)
                continue
            if p > 0 and self._stopped():
                break
            for event in arriving:
                if event.delivered[0] == NOT_YET:
                    event.delivered = (self.t, self.step)
                    self.deliveries[-1].append(event)
            self._evaluate(self._deliver(events, into))
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
        return bool(self.has_bias[p] or (above.any() and self.neurons[p].spiking))

    def _next_turn(self) -> int | None:
        """The next turn that can change anything."""
        coming = [int(turn) for p, turn in enumerate(self.turn) if turn > self.hop and self._turn_changes(p)]
        return min(coming, default=None)

    def _skip_to(self, turn: int | None) -> None:
        """Let turns pass that can change nothing: an evaluation, but not a forward step."""
        for p in np.flatnonzero(self.turn >= self.hop):
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

    # -- forward steps ---------------------------------------------------------------------------------

    def _pick(self) -> list[Event]:
        """Take at most F pending events, by the scheduler's priority, then neuron index, then age."""
        size = self.execution.forward_group_size
        if size is None or len(self.pending) <= size:
            picked, self.pending = self.pending, []
            return picked
        sources = np.array([event.source for event in self.pending], dtype=np.int64)
        pending = Pending(
            index=sources,
            potential=np.array([event.potential for event in self.pending], dtype=np.float64),
            uniform=self._uniform(keys.ORDER, sources),
            timestep=np.array([self.start.timestep + event.timestep for event in self.pending]),
            step=np.array([event.step for event in self.pending]),
        )
        priorities = check_priorities(self.execution.scheduler, pending)
        order = np.lexsort((np.arange(len(sources)), sources, priorities))[:size]
        chosen = set(order.tolist())
        picked = [self.pending[i] for i in sorted(chosen)]
        self.pending = [event for i, event in enumerate(self.pending) if i not in chosen]
        return picked

    def _deliver(self, events: list[tuple[int, float]], only: Sequence[int] | None = None) -> set[int]:
        """Add the currents of `events` (source, amplitude) and return the populations that got any."""
        reached = set()
        for k in range(len(self.layout.target)) if only is None else only:
            current = np.zeros_like(self.constants.biases[k])
            got_any = False
            for source, amplitude in events:
                row = self._row(k, source)
                factor = self._factor(k, row, amplitude) if row >= 0 else 0.0
                if factor == 0:
                    continue
                got_any = True
                current += current.dtype.type(factor) * self.constants.weights[k][row]
                self.synaptic_operations += int(self.layout.fan_out[k])
            if got_any:
                reached.add(int(self.layout.target[k]))
                self._add(k, current)
        return reached

    def _into(self, p: int) -> list[int]:
        """The projections into a population."""
        return [int(k) for k in np.flatnonzero(self.layout.target == p)]

    def _factor(self, k: int, row: int, amplitude: float) -> float:
        scale = self.constants.source_scale[k]
        return amplitude if scale is None else amplitude * float(scale[self.t, self.sample, row])

    def _row(self, k: int, source: int) -> int:
        """Row of a source in projection k, or -1."""
        row = source - int(self.layout.first_source[k])
        return row if 0 <= row < self.layout.fan_in[k] else -1

    def _add(self, k: int, current: Floats) -> None:
        p = self.layout.target[k]
        here = slice(*self.layout.start[p : p + 2])
        scale = self.constants.target_scale[k]
        if scale is not None:
            current = current * scale[self.t, self.sample]
        self.potential[here] += np.where(self.ignoring[here], 0, current)

    def _evaluate(self, reached: set[int]) -> None:
        """Finish a forward step: biases of the populations whose turn it is, then one evaluation each."""
        for p in np.flatnonzero(self.turn == self.hop).tolist():
            self.turn_step[p] = self.step
            reached.add(p)
            for k in self._into(p):
                self._add(k, self.constants.biases[k])
        for p in sorted(reached):
            self._evaluate_population(p)
        self.step += 1

    def _evaluate_population(self, p: int) -> None:
        here = slice(*self.layout.start[p : p + 2])
        able = self.able[here]
        integrating = self.execution.refractory[p] == "integrate"
        self.neuron_updates += len(able) if integrating else int(able.sum())
        self.last_evaluation[here][able] = self.step
        if not self.neurons[p].spiking:
            return
        fires = able & self._above(p, self.potential[here])
        for neuron in np.flatnonzero(fires) + self.layout.start[p]:
            self._spike(p, int(neuron))

    def _spike(self, p: int, neuron: int) -> None:
        model, potential = self.neurons[p], float(self.potential[neuron])
        source = self.layout.inputs + neuron
        self._emit(source, 1.0, potential)
        self.spikes[neuron] += 1
        self.last_spike[neuron] = self.step
        if p == self.layout.output and self.first_output == NOT_YET:
            self.first_output = self.step
        if not model.delayed_reset and model.reset == "subtract":
            # a residual that was already subtracted for the comparison is given back at the end instead
            self.potential[neuron] -= self.constants.threshold[neuron]
        elif not model.delayed_reset and model.reset == "value":
            self.potential[neuron] = model.reset_value
        if self.execution.refractory[p] != "off" and not self._stays_able(p, source):
            self.able[neuron] = False
            self.ignoring[neuron] |= self.execution.refractory[p] == "discard"

    def _emit(self, source: int, amplitude: float, potential: float) -> None:
        event = Event(source, amplitude, potential, self.t, self.step)
        self.emissions[-1].append(event)
        if any(self._row(k, source) >= 0 for k in range(len(self.layout.target))):
            self.pending.append(event)

    def _stays_able(self, p: int, source: int) -> bool:
        rate = self.execution.refractory_dropout[p]
        return rate > 0 and bool(self._uniform(keys.REFRACTORY_DROPOUT, np.array([source]))[0] < rate)

    def _uniform(self, purpose: int, sources: NDArray[np.int64]) -> NDArray[np.float64]:
        return keys.uniform(self.start.seed, self.sample_id, self.clock, purpose, self.step, sources)

    def _above(self, p: int, potential: Floats) -> NDArray[np.bool_]:
        threshold = self.constants.threshold[slice(*self.layout.start[p : p + 2])]
        return potential >= threshold if self.neurons[p].inclusive else potential > threshold
