"""One forward step of one sample, written to be read: pick, deliver, let junctions pass on, evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async import random_keys
from snn_async.engines.contract import NOT_YET, Execution, Start, Values
from snn_async.engines.reference.junctions import Junctions
from snn_async.engines.reference.tables import connections, matrices
from snn_async.graph import Graph
from snn_async.graph.layout import Layout
from snn_async.schedulers import Pending, check_priorities


@dataclass(eq=False)
class Event:
    """An event on its way; `row` is its place among the sample's emissions, -1 for inputs delivered in step 0.

    The other members are those of `EventLog`; `timestep` counts from the start of the stream.
    """

    source: int
    amplitude: float
    potential: float
    timestep: int
    step: int
    current: float = 0.0
    cell: int = -1
    row: int = -1


@dataclass(frozen=True)
class Wires:
    """What one timestep's events of all samples run through, per projection.

    Attributes:
        weights: (fan_in, fan_out), 0 where there is no synapse.
        connected: (fan_in, fan_out), whether there is a synapse.
        weighted: whether a synapse costs a synaptic operation.
        biases: (fan_out,), None into a junction other than "wait".
    """

    weights: Sequence[Tensor]
    connected: Sequence[Tensor]
    weighted: Sequence[bool]
    biases: Sequence[Tensor | None]

    @classmethod
    def of(cls, graph: Graph, layout: Layout, values: Values) -> "Wires":
        return cls(
            weights=matrices(graph, values),
            connected=connections(graph),
            weighted=[projection.synapses.weighted for projection in graph.projections],
            biases=[
                values.biases[start : start + out] if start >= 0 else None
                for start, out in zip(layout.bias_start.tolist(), layout.fan_out.tolist(), strict=True)
            ],
        )


class ForwardSteps:
    """One sample's state while a timestep's events run, and what a forward step does with it.

    Attributes:
        base, current: (N,) a neuron's potential is base + gain * current; its spikes move the base.
        able: (N,) able to spike, i.e. not refractory.
        ignoring: (N,) currents have no effect.
        last_evaluation, last_spike: (N,) forward steps.
        turn_step: (P + J,) see `EventLog`.
        spikes: (N,) sum of the spikes' values.
        spike_counts: (P,).
        emissions: the log's rows; the first `carried` were pending at the start.
        deliveries: (row, projection, forward step).
        step: the next forward step's number; at the end, how many there were.
    """

    def __init__(
        self,
        graph: Graph,
        layout: Layout,
        execution: Execution,
        wires: Wires,
        values: Values,
        start: Start,
        sample: int,
    ) -> None:
        self.layout, self.execution, self.wires = layout, execution, wires
        self.neurons = [population.neuron for population in graph.populations]
        self.seed, self.sample_id, self.clock = start.seed, int(start.sample_ids[sample]), start.timestep
        self.base = values.base[sample].clone()
        self.gain, self.threshold = values.gain[sample], values.threshold[sample]
        self.last_spikes = values.last_spikes[sample]
        self.source_scale = [None if s is None else s[sample] for s in values.source_scale]
        self.target_scale = [None if s is None else s[sample] for s in values.target_scale]
        self.current, self.spikes = torch.zeros_like(self.base), torch.zeros_like(self.base)
        self.able = torch.ones(layout.neurons, dtype=torch.bool)
        self.ignoring = ~self.able
        self.last_evaluation = torch.full((layout.neurons,), NOT_YET)
        self.last_spike = self.last_evaluation.clone()
        self.turn = torch.as_tensor(layout.turn) + int(execution.queues_input)
        self.turn_step = torch.full_like(self.turn, NOT_YET)
        self.junctions = Junctions(graph, layout, values)
        self.step = self.hop = 0
        self.first_output = NOT_YET
        self.spike_counts = torch.zeros(layout.populations, dtype=torch.int64)
        self.synaptic_operations = self.neuron_updates = 0
        self.emissions = _carried(start, values, sample)
        self.carried = len(self.emissions)
        self.pending = list(self.emissions)
        self.deliveries: list[tuple[int, int, int]] = []

    # -- picking and delivering ------------------------------------------------------------------------

    def _pick(self) -> list[Event]:
        """Take at most F pending events, by the scheduler's priority, then neuron index, then age."""
        size = self.execution.forward_group_size
        if size is None or len(self.pending) <= size:
            picked, self.pending = self.pending, []
            return picked
        sources = np.array([event.source for event in self.pending])
        pending = Pending(
            index=sources,
            potential=np.array([event.potential for event in self.pending]),
            uniform=self._uniform(random_keys.ORDER, sources),
            timestep=np.array([event.timestep for event in self.pending]),
            step=np.array([event.step for event in self.pending]),
        )
        priorities = check_priorities(self.execution.scheduler, pending)
        order = np.lexsort((np.arange(len(sources)), sources, priorities))[:size]
        chosen = set(order.tolist())
        picked = [self.pending[i] for i in sorted(chosen)]
        self.pending = [event for i, event in enumerate(self.pending) if i not in chosen]
        return picked

    def _spread(self, events: list[Event]) -> Tensor:
        """Deliver events and what junctions pass on at once; return the receivers reached."""
        reached = self._nobody()
        self._deliver(events, reached)
        for j in self.junctions.instant:
            self._deliver(self._relay(j, reached), reached)
        return reached

    def _deliver(self, events: list[Event], reached: Tensor, only: Sequence[int] | None = None) -> None:
        """Add the currents of `events` (through the projections `only`) and mark the receivers they reach."""
        for k in range(len(self.layout.target)) if only is None else only:
            for event in events:
                row = self._row(k, event.source)
                if row >= 0:
                    self._deliver_through(k, row, event.amplitude, reached)
                    if event.row >= 0:
                        self.deliveries.append((event.row, k, self.step))

    def _deliver_through(self, k: int, row: int, amplitude: float, reached: Tensor) -> None:
        scale = self.source_scale[k]
        factor = 1.0 if scale is None else float(scale[row])
        if factor == 0:
            return
        connected = self.wires.connected[k][row]
        self._add(k, self.wires.weights[k][row] * (factor * amplitude))
        reached[self._targets(k)] |= connected
        if self.wires.weighted[k]:
            self.synaptic_operations += int(connected.sum())

    def _add(self, k: int, current: Tensor) -> None:
        targets, scale = self._targets(k), self.target_scale[k]
        if scale is not None:
            current = current * scale
        if targets.start < self.layout.neurons:
            self.current[targets] += torch.where(self.ignoring[targets], 0, current)
        else:
            self.junctions.add(targets, current)

    def _relay(self, node: int, reached: Tensor) -> list[Event]:
        """Log and return what the units of a sum or max pass on."""
        passed = [
            Event(source, amount, amount, self.clock, self.step, cell=cell)
            for source, amount, cell in self.junctions.pass_on(node, reached)
        ]
        for event in passed:
            self._log(event)
        return passed

    # -- evaluating ------------------------------------------------------------------------------------

    def _evaluate(self, reached: Tensor) -> None:
        """Finish a forward step: what comes at turns, then one evaluation of every neuron that was reached."""
        for p in range(len(self.neurons)):
            if self.turn[p] == self.hop:
                self._arrive_at_turn(p, reached)
        for p in range(len(self.neurons)):
            if reached[self._neurons(p)].any():
                self._evaluate_population(p, reached[self._neurons(p)])
        self.step += 1

    def _arrive_at_turn(self, p: int, reached: Tensor) -> None:
        """Bias and last timestep's spikes; everybody is evaluated."""
        self.turn_step[p] = self.step
        reached[self._neurons(p)] = True
        self._add_unsent(p, reached)

    def _add_unsent(self, node: int, reached: Tensor) -> None:
        """What a node gets without events of this timestep: bias, last spikes, potentials that are settled."""
        for k in np.flatnonzero(self.layout.target == node).tolist():
            bias = self.wires.biases[k]
            if bias is not None:
                self._add(k, bias)
            if self.layout.delayed[k] or self.layout.settled[k]:
                amounts = (
                    self._last_spikes(k) if self.layout.delayed[k] else self.potential_of(self._sources(k))
                )
                for row in amounts.nonzero().flatten().tolist():
                    self._deliver_through(k, row, float(amounts[row]), reached)

    def _evaluate_population(self, p: int, reached: Tensor) -> None:
        here = self._neurons(p)
        able = self.able[here] & reached
        integrating = self.execution.refractory[p] == "integrate"
        self.neuron_updates += int(reached.sum() if integrating else able.sum())
        self.last_evaluation[here][able] = self.step
        value = torch.where(able, self._spike_values(p), 0)
        for i in value.nonzero().flatten().tolist():
            self._spike(p, here.start + i, float(value[i]))

    def _spike_values(self, p: int) -> Tensor:
        """What the spike of every neuron of a population would be worth now, 0 if it does not spike."""
        neuron, here = self.neurons[p], self._neurons(p)
        potential, threshold = self.potential_of(here), self.threshold[here]
        if not neuron.spiking:
            return torch.zeros_like(potential)
        if not neuron.binary:
            return neuron.value(potential, threshold)
        above = potential >= threshold if neuron.inclusive else potential > threshold
        return above.to(potential)

    def _spike(self, p: int, n: int, value: float) -> None:
        model, source = self.neurons[p], self.layout.inputs + n
        potential, current = float(self.potential_of(n)), float(self.current[n])
        self._emit(Event(source, value, potential, self.clock, self.step, current))
        self.spikes[n] += value
        self.spike_counts[p] += 1
        self.last_spike[n] = self.step
        if p == self.layout.output and self.first_output == NOT_YET:
            self.first_output = self.step
        if model.reset == "subtract":
            self.base[n] -= value * self.threshold[n]
        elif model.reset == "value":
            self.base[n] = model.reset_value - self.gain[n] * self.current[n]
        if self.execution.refractory[p] != "off" and not self._stays_able(p, source):
            self.able[n] = False
            self.ignoring[n] = self.execution.refractory[p] == "discard"

    def _stays_able(self, p: int, source: int) -> bool:
        rate = self.execution.refractory_dropout[p]
        return rate > 0 and bool(self._uniform(random_keys.REFRACTORY_DROPOUT, np.array([source]))[0] < rate)

    def _emit(self, event: Event) -> None:
        """Make a spike, a queued input or a released unit pending, if it leads anywhere."""
        self._log(event)
        if any(self._row(k, event.source) >= 0 for k in range(len(self.layout.target))):
            self.pending.append(event)

    def _log(self, event: Event) -> None:
        event.row = len(self.emissions)
        self.emissions.append(event)

    # -- where things are ------------------------------------------------------------------------------

    def potential_of(self, neurons: slice | int) -> Tensor:
        """The potential as it is now."""
        return self.base[neurons] + self.gain[neurons] * self.current[neurons]

    def _neurons(self, p: int) -> slice:
        """The neurons of a population."""
        return slice(int(self.layout.start[p]), int(self.layout.start[p + 1]))

    def _targets(self, k: int) -> slice:
        """The receivers of a projection."""
        first = int(self.layout.first_target[k])
        return slice(first, first + int(self.layout.fan_out[k]))

    def _nobody(self) -> Tensor:
        return torch.zeros(self.layout.neurons + self.layout.cells, dtype=torch.bool)

    def _into(self, node: int) -> list[int]:
        """The projections that bring this timestep's events to a node."""
        return np.flatnonzero((self.layout.target == node) & ~self.layout.delayed).tolist()

    def _row(self, k: int, source: int) -> int:
        """Row of a source in projection k, -1 if it delivers none of this timestep's events of that source."""
        row = source - int(self.layout.first_source[k])
        return row if 0 <= row < self.layout.fan_in[k] and not self.layout.delayed[k] else -1

    def _last_spikes(self, k: int) -> Tensor:
        """Last timestep's spikes of the sources of a delayed projection."""
        return self.last_spikes[self._sources(k)]

    def _sources(self, k: int) -> slice:
        """The neurons that are the sources of a projection."""
        first = int(self.layout.first_source[k]) - self.layout.inputs
        return slice(first, first + int(self.layout.fan_in[k]))

    def _uniform(self, purpose: int, sources: NDArray[np.int64]) -> NDArray[np.float64]:
        return random_keys.uniform(self.seed, self.sample_id, self.clock, purpose, self.step, sources)


def _carried(start: Start, values: Values, sample: int) -> list[Event]:
    """The events of a sample that were pending when the timestep began."""
    p = start.pending
    places = (p.sample == sample).nonzero().flatten().tolist()
    return [
        Event(
            source=int(p.source[i]),
            amplitude=float(values.pending[i]),
            potential=float(p.potential[i]),
            timestep=int(p.timestep[i]),
            step=int(p.step[i]),
            row=row,
        )
        for row, i in enumerate(places)
    ]
