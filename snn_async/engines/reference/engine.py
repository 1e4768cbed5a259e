"""The reference engine: slow, readable, any float precision, any scheduler; the oracle of every test."""

import numpy as np
import torch
from torch import Tensor

from snn_async.checks import not_finite
from snn_async.engines.contract import (
    Counts,
    Execution,
    Gradients,
    PendingEvents,
    Simulation,
    Start,
    Values,
)
from snn_async.engines.event_log import EventLog
from snn_async.engines.reference.replay import masked_sum, tables_of
from snn_async.engines.reference.simulate import SampleRun
from snn_async.engines.reference.steps import Constants, Event
from snn_async.errors import UnsupportedByEngineError
from snn_async.graph import Graph
from snn_async.graph.layout import Layout, layout_of
from snn_async.graph.synapses import Opaque

MOST_ENTRIES = 1 << 26


class ReferenceEngine:
    """Sample by sample, event by event; gradients by autograd of the masked sum."""

    name = "reference"

    def check(self, graph: Graph, execution: Execution) -> None:
        """Raise UnsupportedByEngineError for a graph too large for tables of every synapse, or without them."""
        for projection in graph.projections:
            if isinstance(projection.synapses, Opaque):
                raise UnsupportedByEngineError(
                    f"engine 'reference' cannot run {projection.name!r} ({projection.synapses.describe()}), a module "
                    "whose synapses it cannot list; use backend='torch'"
                )
        entries = sum(projection.fan_in * projection.fan_out for projection in graph.projections)
        if entries > MOST_ENTRIES:
            raise UnsupportedByEngineError(
                f"engine 'reference' lists every synapse, and this graph would take {entries} entries (at most "
                f"{MOST_ENTRIES}); use backend='numba'"
            )

    def simulate(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        if not values.x.isfinite().all():
            raise not_finite(values.x.detach().numpy())
        layout = layout_of(graph)
        constants = _constants(graph, layout, values)
        recorder = _Recorder(layout, values.x)
        for b in range(values.x.shape[1]):
            potentials, pending = values.potentials[b].detach().numpy(), _pending(start, b)
            run = SampleRun(graph, layout, execution, constants, start, b, potentials, pending)
            carried_in = list(pending)
            for t, frame in enumerate(values.x[:, b].detach().numpy()):
                run.timestep(t, frame)
                recorder.record(t, b, run, execution, frame)
            recorder.finish_sample(run, carried_in)
        return recorder.simulation(start, keep_log)

    def replay(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        simulation: Simulation,
        grad_spikes: Tensor | None,
        grad_potentials: Tensor | None,
        needs_x: bool,
    ) -> Gradients:
        assert simulation.log is not None
        names = ["weights", "biases", "leak", "offset", "threshold", "potentials", "x"]
        leaves = {name: getattr(values, name).detach().requires_grad_() for name in names}
        tracked = Values(**leaves, source_scale=values.source_scale, target_scale=values.target_scale)
        with torch.enable_grad():
            outputs = masked_sum(graph, execution, tracked, start, simulation.log)
            if not torch.equal(outputs[0].detach(), simulation.spikes):
                raise AssertionError("the replay of the event log does not reproduce its spikes")
            loss = values.x.new_zeros(()) + 0 * leaves["leak"].sum()
            for output, grad in zip(outputs, (grad_spikes, grad_potentials), strict=True):
                if grad is not None:
                    loss = loss + (output * grad).sum()
            adjoints = torch.autograd.grad(
                loss, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        weights, biases, leak, offset, threshold, potentials, x = adjoints
        return Gradients(weights, biases, leak, offset, threshold, potentials, x if needs_x else None)


def _constants(graph: Graph, layout: Layout, values: Values) -> Constants:
    weights, biases = values.weights.detach().numpy(), values.biases.detach().numpy()
    tables = tables_of(graph)
    return Constants(
        weights=[
            table.coefficient.astype(weights.dtype) * weights[w + table.weight]
            for table, w in zip(tables, layout.weight_start, strict=True)
        ],
        connected=[table.coefficient != 0 for table in tables],
        weighted=[projection.synapses.weighted for projection in graph.projections],
        biases=[
            biases[start : start + out] if start >= 0 else None
            for start, out in zip(layout.bias_start, layout.fan_out, strict=True)
        ],
        leak=values.leak.detach().numpy(),
        offset=values.offset.detach().numpy(),
        threshold=values.threshold.detach().numpy(),
        source_scale=[None if s is None else s.numpy() for s in values.source_scale],
        target_scale=[None if s is None else s.numpy() for s in values.target_scale],
    )


def _pending(start: Start, b: int) -> list[Event]:
    p = start.pending
    return [
        Event(
            source=int(p.source[i]),
            amplitude=float(p.amplitude[i]),
            potential=float(p.potential[i]),
            timestep=int(p.timestep[i]) - start.timestep,
            step=int(p.step[i]),
        )
        for i in range(p.offsets[b], p.offsets[b + 1])
    ]


class _Recorder:
    """Collects what the samples did into the arrays of the contract."""

    def __init__(self, layout: Layout, x: Tensor) -> None:
        steps, samples, _ = x.shape
        shape, populations = (steps, samples, layout.neurons), layout.populations
        self.layout, self.steps, self.samples = layout, steps, samples
        self.spikes, self.potentials = x.new_zeros(shape), x.new_zeros(shape)
        self.silent_potential = np.zeros(shape, dtype=self.spikes.numpy().dtype)
        self.silent_step = np.full(shape, -1, dtype=np.int32)
        self.turn_step = np.full((steps, samples, len(layout.turn)), -1, dtype=np.int32)
        self.population_spikes = np.zeros((steps, samples, populations), dtype=np.int64)
        self.per_timestep = np.zeros((4, steps, samples), dtype=np.int64)
        self.events: list[list[Event]] = []  # per sample and group: carried in, timestep 0, 1, ...
        self.delivered: list[list[Event]] = []
        self.left: list[list[Event]] = []
        self.inputs: list[tuple[np.ndarray, np.ndarray]] = []

    def record(self, t: int, b: int, run: SampleRun, execution: Execution, frame: np.ndarray) -> None:
        self.spikes[t, b] = torch.from_numpy(run.spikes)
        self.potentials[t, b] = torch.from_numpy(run.potential)
        self.silent_step[t, b], self.silent_potential[t, b] = run.silent_step, run.silent_potential
        self.turn_step[t, b] = run.turn_step
        self.population_spikes[t, b] = np.add.reduceat(run.spikes, self.layout.start[:-1])
        self.per_timestep[:, t, b] = run.step, run.first_output, run.synaptic_operations, run.neuron_updates
        index = np.flatnonzero(frame) if not execution.queues_input else np.zeros(0, dtype=np.int64)
        self.inputs.append((index.astype(np.int32), frame[index]))

    def finish_sample(self, run: SampleRun, carried_in: list[Event]) -> None:
        self.events += [carried_in, *run.emissions]
        self.delivered += run.deliveries
        self.left.append(run.pending)

    def simulation(self, start: Start, keep_log: bool) -> Simulation:
        forward_steps, first_output, operations, updates = self.per_timestep
        counts = Counts(self.population_spikes, forward_steps, first_output, operations, updates)
        log = self._log() if keep_log else None
        return Simulation(self.spikes, self.potentials, counts, self._left(start), log)

    def _log(self) -> EventLog:
        events = [event for group in self.events for event in group]
        row = {id(event): i for i, event in enumerate(events)}
        ends = np.cumsum([len(group) for group in self.events])
        per_sample = np.concatenate(([0], ends)).astype(np.int64)
        groups = self.steps + 1
        emitted = np.stack([per_sample[b * groups : (b + 1) * groups + 1] for b in range(self.samples)])
        ends = np.concatenate(([0], np.cumsum([len(group) for group in self.delivered])))
        delivered = np.stack([ends[b * self.steps : (b + 1) * self.steps + 1] for b in range(self.samples)])
        dtype = self.silent_potential.dtype
        return EventLog(
            emitted=emitted,
            source=np.array([event.source for event in events], dtype=np.int32),
            amplitude=np.array([event.amplitude for event in events], dtype=dtype),
            step=np.array([event.step for event in events], dtype=np.int32),
            potential=np.array([event.potential for event in events], dtype=dtype),
            cell=np.array([event.cell for event in events], dtype=np.int32),
            delivered_timestep=np.array([event.delivered[0] for event in events], dtype=np.int32),
            delivered_step=np.array([event.delivered[1] for event in events], dtype=np.int32),
            deliveries=np.array([row[id(e)] for group in self.delivered for e in group], dtype=np.int64),
            delivered=delivered.astype(np.int64),
            silent_step=self.silent_step,
            silent_potential=self.silent_potential,
            turn_step=self.turn_step,
            inputs=np.concatenate(([0], np.cumsum([len(i) for i, _ in self.inputs]))).astype(np.int64),
            input_source=np.concatenate([i for i, _ in self.inputs]),
            input_amplitude=np.concatenate([a for _, a in self.inputs]).astype(dtype),
        )

    def _left(self, start: Start) -> PendingEvents:
        events = [event for sample in self.left for event in sample]
        return PendingEvents(
            offsets=np.concatenate(([0], np.cumsum([len(sample) for sample in self.left]))).astype(np.int64),
            source=np.array([event.source for event in events], dtype=np.int32),
            amplitude=np.array([event.amplitude for event in events], dtype=np.float64),
            potential=np.array([event.potential for event in events], dtype=np.float64),
            timestep=np.array([start.timestep + event.timestep for event in events], dtype=np.int64),
            step=np.array([event.step for event in events], dtype=np.int32),
        )
