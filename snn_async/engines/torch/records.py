"""What a batched run did, gathered on its device and turned into the arrays of the contract at the end."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async.engines.contract import Counts, Simulation, Start
from snn_async.engines.event_log import EventLog
from snn_async.engines.torch.pending import Events, pending_events
from snn_async.graph.layout import Layout

Ints = NDArray[np.int64]


@dataclass
class Timestep:
    """Results of one timestep, (B, ...); see `EventLog`, `Counts` and `Simulation`."""

    spikes: Tensor
    potentials: Tensor
    silent_step: Tensor
    silent_potential: Tensor
    turn_step: Tensor
    forward_steps: Tensor
    first_output: Tensor
    synaptic_operations: Tensor
    neuron_updates: Tensor


@dataclass
class Recorder:
    """Collects emissions, deliveries and timesteps. Rows are numbered as they come, samples mixed."""

    layout: Layout
    keep_log: bool
    rows: int = 0
    emissions: list[tuple[Events, Tensor]] = field(default_factory=list)  # with the holders' cells
    deliveries: list[tuple[Tensor, Tensor, int, Tensor]] = field(default_factory=list)
    timesteps: list[Timestep] = field(default_factory=list)

    def emitted(self, events: Events, cells: Tensor | None) -> None:
        """Record emissions; per sample they come in the order of the log."""
        self.rows += len(events)
        if self.keep_log:
            self.emissions.append((events, torch.full_like(events.row, -1) if cells is None else cells))

    def delivered(self, row: Tensor, sample: Tensor, t: int, step: Tensor) -> None:
        """Record that rows (E,) were delivered in forward steps (E,) of timestep t."""
        if self.keep_log:
            self.deliveries.append((row, sample, t, step))

    def simulation(self, x: Tensor, queues_input: bool, left: Events, start: Start) -> Simulation:
        """Return everything as the contract wants it; x is the input (T, B, S)."""
        done, sizes = self.timesteps, np.diff(self.layout.start).tolist()
        spikes = torch.stack([one.spikes for one in done])
        per_population = torch.stack([part.sum(2) for part in spikes.split(sizes, 2)], 2)
        counts = Counts(
            _array(per_population, np.int64),
            *(
                _array(torch.stack([getattr(one, name) for one in done]), np.int64)
                for name in ("forward_steps", "first_output", "synaptic_operations", "neuron_updates")
            ),
        )
        return Simulation(
            spikes=spikes.to(x.dtype),
            potentials=torch.stack([one.potentials for one in done]),
            counts=counts,
            pending=pending_events(left, start.timestep, x.shape[1]),
            log=self._log(x, queues_input) if self.keep_log else None,
        )

    def _log(self, x: Tensor, queues_input: bool) -> EventLog:
        steps, samples, _ = x.shape
        sample, source, amplitude, potential, timestep, step, cell = self._emission_columns()
        order = np.argsort(sample, kind="stable")
        row = np.empty(len(order), dtype=np.int64)
        row[order] = np.arange(len(order))
        group = np.maximum(timestep, -1) + 1  # what was pending before the run is group 0
        counts = np.bincount(sample * (steps + 1) + group, minlength=samples * (steps + 1))
        ends = np.concatenate(([0], np.cumsum(counts)))
        delivered_row, delivered_sample, at, in_step = self._delivery_columns()
        delivered_timestep = np.full(len(order), -1, dtype=np.int32)
        delivered_step = delivered_timestep.copy()
        delivered_timestep[row[delivered_row]] = at
        delivered_step[row[delivered_row]] = in_step
        per_timestep = np.bincount(delivered_sample * steps + at, minlength=samples * steps)
        delivered_ends = np.concatenate(([0], np.cumsum(per_timestep)))
        dtype = x.new_empty(0).cpu().numpy().dtype
        offsets, input_source, input_amplitude = _inputs(x, queues_input)
        silent_potential = torch.stack([one.silent_potential for one in self.timesteps])
        return EventLog(
            emitted=np.stack([ends[b * (steps + 1) : (b + 1) * (steps + 1) + 1] for b in range(samples)]),
            source=source[order].astype(np.int32),
            amplitude=amplitude[order].astype(dtype),
            step=step[order].astype(np.int32),
            potential=potential[order].astype(dtype),
            cell=cell[order].astype(np.int32),
            delivered_timestep=delivered_timestep,
            delivered_step=delivered_step,
            deliveries=row[delivered_row[np.argsort(delivered_sample, kind="stable")]],
            delivered=np.stack([delivered_ends[b * steps : (b + 1) * steps + 1] for b in range(samples)]),
            silent_step=_array(torch.stack([one.silent_step for one in self.timesteps]), np.int32),
            silent_potential=silent_potential.cpu().numpy(),
            turn_step=_array(torch.stack([one.turn_step for one in self.timesteps]), np.int32),
            inputs=offsets,
            input_source=input_source,
            input_amplitude=input_amplitude,
        )

    def _emission_columns(self) -> list[np.ndarray]:
        names = ("sample", "source", "amplitude", "potential", "timestep", "step")
        chunks = [[getattr(events, name) for events, _ in self.emissions] for name in names]
        chunks.append([cells for _, cells in self.emissions])
        return [torch.cat(chunk).cpu().numpy() for chunk in chunks]

    def _delivery_columns(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Rows, samples, timesteps and forward steps of the deliveries, in order of time."""
        if not self.deliveries:
            none = np.zeros(0, dtype=np.int64)
            return none, none, none, none
        row, sample, step = (
            torch.cat([chunk[i] for chunk in self.deliveries]).cpu().numpy()  # type: ignore[misc]
            for i in (0, 1, 3)
        )
        sizes = [len(chunk[0]) for chunk in self.deliveries]
        return row, sample, np.repeat([chunk[2] for chunk in self.deliveries], sizes), step


def _inputs(x: Tensor, queues_input: bool) -> tuple[Ints, np.ndarray, np.ndarray]:
    """Offsets by sample and timestep, sources and amplitudes of what step 0 delivered."""
    frames = x.detach().transpose(0, 1).flatten(0, 1)
    if queues_input:
        frames = torch.zeros_like(frames)
    row, source = frames.nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(frames)).cpu().numpy()
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return offsets, source.cpu().numpy().astype(np.int32), frames[row, source].cpu().numpy()


def _array(tensor: Tensor, dtype: type) -> np.ndarray:
    return tensor.cpu().numpy().astype(dtype)
