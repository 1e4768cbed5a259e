"""Pending events of a whole batch, and which of them the scheduler picks."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from snn_async import random_keys
from snn_async.engines.contract import Execution, PendingEvents, Start
from snn_async.engines.torch import keys as torch_keys
from snn_async.schedulers import Fifo, Momentum, Pending, Random, check_priorities


@dataclass(frozen=True)
class Events:
    """Events of all samples, each (E,); those of one sample are in order of emission.

    Attributes:
        row: number in the order in which the run learned of them.
        sample: position in the batch.
        source: source index.
        amplitude, potential: float64.
        timestep, step: of emission; timesteps count from the start of the run.
    """

    row: Tensor
    sample: Tensor
    source: Tensor
    amplitude: Tensor
    potential: Tensor
    timestep: Tensor
    step: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def at(self, index: Tensor) -> "Events":
        """Return those at an index or mask."""
        return Events(*(getattr(self, field.name)[index] for field in fields(self)))

    def then(self, later: "Events") -> "Events":
        """Return these and, younger than them, others."""
        if not len(self) or not len(later):
            return self if len(self) else later
        columns = (field.name for field in fields(self))
        return Events(*(torch.cat((getattr(self, name), getattr(later, name))) for name in columns))

    def counts(self, samples: int) -> Tensor:
        """Return how many each sample has, (B,)."""
        return torch.bincount(self.sample, minlength=samples)


def events_of(pending: PendingEvents, start: int, device: torch.device) -> Events:
    """Return the events that a run from timestep `start` begins with, as rows 0, 1, ..."""
    sample = np.repeat(np.arange(len(pending.offsets) - 1), np.diff(pending.offsets))
    columns = (
        np.arange(len(sample)),
        sample,
        pending.source.astype(np.int64),
        pending.amplitude.astype(np.float64),
        pending.potential.astype(np.float64),
        pending.timestep.astype(np.int64) - start,
        pending.step.astype(np.int64),
    )
    return Events(*(torch.from_numpy(np.ascontiguousarray(column)).to(device) for column in columns))


def pending_events(left: Events, start: int, samples: int) -> PendingEvents:
    """Return what is left over at the end of a run, by sample."""
    order = torch.argsort(left.sample, stable=True)
    counts = left.counts(samples).cpu().numpy()
    left = left.at(order)
    return PendingEvents(
        offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        source=left.source.cpu().numpy().astype(np.int32),
        amplitude=left.amplitude.cpu().numpy(),
        potential=left.potential.cpu().numpy(),
        timestep=left.timestep.cpu().numpy() + start,
        step=left.step.cpu().numpy().astype(np.int32),
    )


class Picker:
    """Picks at most F pending events per sample: lowest priority first, then lower source index, then older."""

    def __init__(self, execution: Execution, start: Start, ids: Tensor) -> None:
        self.execution, self.start, self.ids = execution, start, ids

    def pick(self, pending: Events, stepping: Tensor, step: Tensor, t: int) -> Tensor:
        """Return the mask (E,) of what the samples `stepping` (B,) deliver in their forward `step` (B,)."""
        size = self.execution.forward_group_size
        taking = stepping[pending.sample]
        if size is None:
            return taking
        crowded = (pending.counts(len(stepping)) > size)[pending.sample] & taking
        rivals = crowded.nonzero()[:, 0]
        if not len(rivals):
            return taking
        events = pending.at(rivals)
        # stable sorts by source, priority, sample in turn leave what is equal in order of age
        order = torch.argsort(events.source, stable=True)
        priority = self._priorities(events, step[events.sample], t)
        order = order[torch.argsort(priority[order], stable=True)]
        order = order[torch.argsort(events.sample[order], stable=True)]
        counts = events.counts(len(stepping))
        first = (counts.cumsum(0) - counts)[events.sample[order]]
        place = torch.arange(len(order), device=order.device) - first
        taking[rivals[order[place >= size]]] = False
        return taking

    def _priorities(self, events: Events, step: Tensor, t: int) -> Tensor:
        scheduler = self.execution.scheduler
        if type(scheduler) is Fifo:
            return events.timestep * (1 << 32) + events.step
        if type(scheduler) is Momentum and not scheduler.noise:
            return -events.potential
        uniform = torch_keys.uniform(
            self.start.seed,
            self.ids[events.sample],
            self.start.timestep + t,
            random_keys.ORDER,
            step,
            events.source,
        )
        if type(scheduler) is Random:
            return uniform
        if type(scheduler) is Momentum:
            return -(events.potential + scheduler.noise * uniform)
        return self._ask(events, uniform)

    def _ask(self, events: Events, uniform: Tensor) -> Tensor:
        """Let a Python scheduler see one sample after another, as it is promised."""
        sample, priority = events.sample.cpu().numpy(), np.empty(len(events))
        columns = (
            events.source,
            events.potential,
            uniform,
            events.timestep + self.start.timestep,
            events.step,
        )
        arrays = [column.cpu().numpy() for column in columns]
        for b in np.unique(sample):
            rows = np.flatnonzero(sample == b)
            pending = Pending(*(array[rows] for array in arrays))
            priority[rows] = check_priorities(self.execution.scheduler, pending)
        return torch.from_numpy(priority).to(events.source.device)
