"""One forward step of one sample, written to be read: pick, deliver, let junctions pass on, evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snn_async import random_keys
from snn_async.engines.contract import Execution, Start
from snn_async.engines.reference.junctions import Junctions
from snn_async.graph import Graph
from snn_async.graph.layout import Layout
from snn_async.schedulers import Pending, check_priorities

Floats = NDArray[np.floating]
Reached = NDArray[np.bool_]  # (receivers,)
NOT_YET = -1


@dataclass(eq=False)
class Event:
    """An event on its way; `delivered` is (timestep, forward step), `cell` the holder of a "max" junction's unit."""

    source: int
    amplitude: float
    potential: float
    timestep: int
    step: int
    cell: int = -1
    delivered: tuple[int, int] = (NOT_YET, NOT_YET)


@dataclass(frozen=True)
class Constants:
    """The values of a run as arrays.

    Attributes:
        weights: per projection (fan_in, fan_out), 0 where there is no synapse.
        connected: per projection (fan_in, fan_out), whether there is a synapse.
        weighted: per projection, whether a synapse costs a synaptic operation.
        biases: per projection (fan_out,), None into a junction.
        source_scale, target_scale: per projection (T, B, fan_in) or (T, B, fan_out), or None.
    """

    weights: Sequence[Floats]
    connected: Sequence[NDArray[np.bool_]]
    weighted: Sequence[bool]
    biases: Sequence[Floats | None]
    leak: Floats
    offset: Floats
    threshold: Floats
    source_scale: Sequence[Floats | None]
    target_scale: Sequence[Floats | None]


class ForwardSteps:
    """One sample's state while its events run, and what a forward step does with it."""

    t: int  # timestep within this run
    clock: int  # timestep within the stream
    step: int  # the next forward step's number
    hop: int
    first_output: int
    synaptic_operations: int
    neuron_updates: int
    able: NDArray[np.bool_]  # (N,) able to spike, i.e. not refractory
    ignoring: NDArray[np.bool_]  # (N,) currents have no effect
    last_evaluation: NDArray[np.int64]  # (N,) forward steps
    last_spike: NDArray[np.int64]
    turn_step: NDArray[np.int64]  # (P + J,)
    spikes_before: NDArray[np.int64]  # (N,) of the timestep before

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
        self.junctions = Junctions(graph, layout, potentials.dtype)
        self.sample = sample
        self.sample_id = int(start.sample_ids[sample])
        self.potential = potentials.copy()
        self.spikes = start.spikes[sample].astype(np.int64)
        self.pending = pending
        self.deliveries: list[list[Event]] = []
        self.emissions: list[list[Event]] = []
        has_bias = np.zeros(layout.populations, dtype=bool)
        for k, bias in enumerate(constants.biases):
            if bias is not None:
                has_bias[layout.target[k]] |= bool(bias.any())
        self.has_bias = has_bias
        self.turn = layout.turn + (1 if execution.queues_input else 0)

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
            uniform=self._uniform(random_keys.ORDER, sources),
            timestep=np.array([self.start.timestep + event.timestep for event in self.pending]),
            step=np.array([event.step for event in self.pending]),
        )
        priorities = check_priorities(self.execution.scheduler, pending)
        order = np.lexsort((np.arange(len(sources)), sources, priorities))[:size]
        chosen = set(order.tolist())
        picked = [self.pending[i] for i in sorted(chosen)]
        self.pending = [event for i, event in enumerate(self.pending) if i not in chosen]
        return picked

    def _spread(self, events: list[tuple[int, float]]) -> Reached:
        """Deliver events (source, amplitude) and what junctions pass on at once; return the receivers reached."""
        reached = self._nobody()
        self._deliver(events, reached)
        for j in self.junctions.instant:
            passed = self.junctions.pass_on(j, reached)
            for source, amount, cell in passed:
                self._relay(source, amount, cell)
            self._deliver([(source, amount) for source, amount, _ in passed], reached)
        return reached

    def _deliver(
        self, events: list[tuple[int, float]], reached: Reached, only: Sequence[int] | None = None
    ) -> None:
        """Add the currents of `events` (source, amplitude) and mark the receivers they reach."""
        for k in range(len(self.layout.target)) if only is None else only:
            if self.layout.delayed[k]:
                continue
            for source, amplitude in events:
                row = self._row(k, source)
                if row >= 0:
                    self._deliver_through(k, row, amplitude, reached)

    def _deliver_through(self, k: int, row: int, amplitude: float, reached: Reached) -> None:
        scale = self.constants.source_scale[k]
        factor = 1.0 if scale is None else float(scale[self.t, self.sample, row])
        if factor == 0:
            return
        connected = self.constants.connected[k][row]
        current = self.potential.dtype.type(factor * amplitude) * self.constants.weights[k][row]
        self._add(k, current)
        reached[self._targets(k)] |= connected
        if self.constants.weighted[k]:
            self.synaptic_operations += int(connected.sum())

    def _add(self, k: int, current: Floats) -> None:
        targets, scale = self._targets(k), self.constants.target_scale[k]
        if scale is not None:
            current = current * scale[self.t, self.sample]
        if targets.start < self.layout.neurons:
            self.potential[targets] += np.where(self.ignoring[targets], 0, current)
        else:
            self.junctions.add(targets, current)

    def _targets(self, k: int) -> slice:
        first = int(self.layout.first_target[k])
        return slice(first, first + int(self.layout.fan_out[k]))

    def _nobody(self) -> Reached:
        return np.zeros(self.layout.neurons + self.layout.cells, dtype=bool)

    def _into(self, node: int) -> list[int]:
        """The projections into a node."""
        return [int(k) for k in np.flatnonzero(self.layout.target == node)]

    def _row(self, k: int, source: int) -> int:
        """Row of a source in projection k, or -1."""
        row = source - int(self.layout.first_source[k])
        return row if 0 <= row < self.layout.fan_in[k] else -1

    def _spikes_before(self, k: int) -> NDArray[np.int64]:
        """Last timestep's spike counts of the sources of a recurrent projection."""
        first = int(self.layout.first_source[k]) - self.layout.inputs
        return self.spikes_before[first : first + int(self.layout.fan_in[k])]

    def _evaluate(self, reached: Reached) -> None:
        """Finish a forward step: what comes at turns, then one evaluation of every neuron that was reached."""
        for p in np.flatnonzero(self.turn[: len(self.neurons)] == self.hop).tolist():
            self.turn_step[p] = self.step
            reached[self.layout.start[p] : self.layout.start[p + 1]] = True
            for k in self._into(p):
                bias = self.constants.biases[k]
                assert bias is not None
                self._add(k, bias)
                if self.layout.delayed[k]:
                    counts = self._spikes_before(k)
                    for row in np.flatnonzero(counts).tolist():
                        self._deliver_through(k, row, float(counts[row]), reached)
        for p in range(len(self.neurons)):
            here = slice(*self.layout.start[p : p + 2])
            if reached[here].any():
                self._evaluate_population(p, reached[here])
        self.step += 1

    def _evaluate_population(self, p: int, reached: Reached) -> None:
        here = slice(*self.layout.start[p : p + 2])
        able = self.able[here] & reached
        integrating = self.execution.refractory[p] == "integrate"
        self.neuron_updates += int(reached.sum()) if integrating else int(able.sum())
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

    def _emit(self, source: int, amplitude: float, potential: float, step: int | None = None) -> None:
        """Make a spike, a queued input or a released unit pending."""
        event = Event(source, amplitude, potential, self.t, self.step if step is None else step)
        self.emissions[-1].append(event)
        goes_on = [
            k
            for k in range(len(self.layout.target))
            if self._row(k, source) >= 0 and not self.layout.delayed[k]
        ]
        if goes_on:
            self.pending.append(event)

    def _relay(self, source: int, amount: float, cell: int) -> Event:
        """Log what a junction's unit passes on at once."""
        event = Event(source, amount, amount, self.t, self.step, cell)
        self.emissions[-1].append(event)
        self._mark_delivered(event)
        return event

    def _mark_delivered(self, event: Event) -> None:
        event.delivered = (self.t, self.step)
        self.deliveries[-1].append(event)

    def _stays_able(self, p: int, source: int) -> bool:
        rate = self.execution.refractory_dropout[p]
        return rate > 0 and bool(self._uniform(random_keys.REFRACTORY_DROPOUT, np.array([source]))[0] < rate)

    def _uniform(self, purpose: int, sources: NDArray[np.int64]) -> NDArray[np.float64]:
        return random_keys.uniform(self.start.seed, self.sample_id, self.clock, purpose, self.step, sources)

    def _above(self, p: int, potential: Floats) -> NDArray[np.bool_]:
        threshold = self.constants.threshold[slice(*self.layout.start[p : p + 2])]
        return potential >= threshold if self.neurons[p].inclusive else potential > threshold
