"""The events of a timestep as a dense table: what is pending, what was decided and delivered, and what is picked.

It is the event log as well: `snn_async.engines.torch.log` makes the lists of `EventLog` of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snn_async import random_keys
from snn_async.engines.contract import NEVER, NOT_YET, Execution, PendingEvents, Start
from snn_async.engines.torch import keys
from snn_async.engines.torch.device import MOST_STEPS, any_of, places, rank, to_host
from snn_async.schedulers import Fifo, Momentum, Pending, Random, Scheduler, check_priorities

Places = tuple[Tensor, Tensor, Tensor]  # plane, sample and column of events


@dataclass
class Plane:
    """One event, or one decisive evaluation without a spike, of each of n sources in B samples; each (B, n).

    Attributes:
        alive: whether it is pending.
        amplitude: 0 where there is no event.
        potential: at its decisive evaluation; the amplitude where no neuron decided.
        step: int32, forward step of that, `NOT_YET` where there is none.
        timestep: that in which it was emitted.
        delivered: int32, forward step of delivery, `NEVER` where it was not.
        current: at the decisive evaluation, of neurons alone; None where it is the last one.
    """

    alive: Tensor
    amplitude: Tensor
    potential: Tensor
    step: Tensor
    timestep: Tensor | int
    delivered: Tensor
    current: Tensor | None = None

    @classmethod
    def empty(cls, samples: int, sources: int, timestep: int, neurons: int, like: Tensor) -> "Plane":
        """Return one without events.

        Args:
            neurons: whose currents are kept.
        """
        zeros = like.new_zeros((samples, sources))
        return cls(
            alive=torch.zeros_like(zeros, dtype=torch.bool),
            amplitude=zeros,
            potential=torch.zeros_like(zeros),
            step=torch.full_like(zeros, NOT_YET, dtype=torch.int32),
            timestep=timestep,
            delivered=torch.full_like(zeros, NEVER, dtype=torch.int32),
            current=like.new_zeros((samples, neurons)) if neurons else None,
        )


class Table:
    """The events of the sources first, ..., end - 1.

    Attributes:
        carried: planes of what was pending when the timestep began, older ones first; `row` (E,) their places in it.
        planes: those of this timestep; a neuron's m-th decisive evaluation is in the m-th.
        columns: those of the sources that may have pending events.
    """

    def __init__(
        self, first: int, end: int, like: Tensor, start: Start, amplitude: Tensor, neurons: int
    ) -> None:
        self.first, self.end, self.timestep, self.neurons, self.like = (
            first,
            end,
            start.timestep,
            neurons,
            like,
        )
        self.columns = slice(0, 0)
        self.carried: list[Plane] = []
        self.planes = [self._plane()]
        given = start.pending
        column = given.source - first
        self.row = (given.sample, column, rank(given.sample * (end - first) + column))
        if len(given.sample):
            ((deepest,),) = to_host(self.row[2].max())
            self.columns = slice(0, end - first)
            for m in range(deepest + 1):
                self.carried.append(self._carried(given, amplitude, self.row[2] == m))

    def _plane(self) -> Plane:
        return Plane.empty(len(self.like), self.end - self.first, self.timestep, self.neurons, self.like)

    def _carried(self, given: PendingEvents, amplitude: Tensor, here: Tensor) -> Plane:
        plane, (sample, source, _) = self._plane(), self.row
        # the others go one sample further, where nobody looks
        at = (torch.where(here, sample, len(self.like)), source)

        def put(field: Tensor, values: Tensor) -> Tensor:
            padded = torch.cat((field, field[:1]))
            padded[at] = values.to(field.dtype)
            return padded[:-1]

        return replace(
            plane,
            alive=put(plane.alive, torch.ones_like(here)),
            amplitude=put(plane.amplitude, amplitude),
            potential=put(plane.potential, given.potential),
            step=put(plane.step, given.step),
            timestep=put(plane.step.long(), given.timestep),
        )

    def deepen(self, depth: int) -> None:
        """Make room for `depth` decisive evaluations of each neuron."""
        while len(self.planes) < depth:
            self.planes.append(self._plane())

    def here(self, sources: slice) -> slice:
        """Return the columns of a range of sources, empty if they are not in the table."""
        first, stop = (min(max(s, self.first), self.end) - self.first for s in (sources.start, sources.stop))
        return slice(first, stop)

    def widen(self, here: slice) -> None:
        """Let columns have pending events."""
        if self.columns.start == self.columns.stop:
            self.columns = here
        self.columns = slice(min(here.start, self.columns.start), max(here.stop, self.columns.stop))

    def emit(self, sources: slice, mask: Tensor, amplitude: Tensor, step: Tensor) -> None:
        """Make events of inputs or waiting units pending, at `mask` and with `amplitude` (B, n), in `step` (B, 1)."""
        here, plane = self.here(sources), self.planes[0]
        self.widen(here)
        amplitude = torch.where(mask, amplitude, 0.0)
        plane.alive[:, here] |= mask
        plane.amplitude[:, here] += amplitude
        plane.potential[:, here] += amplitude
        plane.step[:, here] = torch.where(mask, step.int(), plane.step[:, here])

    def every(self) -> Iterator[Plane]:
        """Return all planes, older ones first."""
        yield from self.carried
        yield from self.planes

    def pending(self) -> Tensor:
        """Return whether each sample has pending events, (B,)."""
        found = [any_of(plane.alive[:, self.columns], 1) for plane in self.every()]
        return torch.stack(found).any(0)

    def deliver(self, picked: list[Tensor], step: Tensor | None, everything: bool) -> None:
        """Take what is picked, (B, columns) of every plane, as delivered.

        Args:
            step: (B, 1) of the delivery, None if nobody will ask for it.
            everything: whether no other event will ever be picked.
        """
        here = self.columns
        for plane, mask in zip(self.every(), picked, strict=True):
            plane.alive[:, here] ^= mask
            if step is not None:
                torch.where(mask, step.int(), plane.delivered[:, here], out=plane.delivered[:, here])
        if everything:
            self.columns = slice(here.start, here.start)

    def moments(self) -> Tensor:
        """Return timestep * MOST_STEPS + step of emission of the columns' events, (B, columns, planes)."""
        here, found = self.columns, []
        for plane in self.every():
            timestep = plane.timestep[:, here] if isinstance(plane.timestep, Tensor) else plane.timestep
            found.append(timestep * MOST_STEPS + plane.step[:, here].long())
        return torch.stack(found, 2)

    def left(self) -> tuple[Places, PendingEvents]:
        """Return all pending events, by sample, oldest first: where they are, and themselves."""
        planes = list(self.every())
        alive = torch.stack([plane.alive for plane in planes], 2)
        ((size,),) = to_host(alive.sum())
        sample, place = places(alive.flatten(1), size)
        column, m = place // len(planes), place % len(planes)

        def of(name: str) -> Tensor:
            fields = [getattr(plane, name) for plane in planes]
            fields = [
                f if isinstance(f, Tensor) else torch.full_like(planes[0].step, f).long() for f in fields
            ]
            found: Tensor = torch.stack(fields)[m, sample, column]
            return found

        order = (of("timestep") * MOST_STEPS + of("step")).argsort(stable=True)
        order = order[sample[order].argsort(stable=True)]
        sample, column, m = sample[order], column[order], m[order]
        return (m, sample, column), PendingEvents(
            sample=sample,
            source=column + self.first,
            amplitude=of("amplitude"),
            potential=of("potential").double(),
            timestep=of("timestep").long(),
            step=of("step").long(),
        )


def pick(table: Table, execution: Execution, start: Start, stepping: Tensor, step: Tensor) -> list[Tensor]:
    """Pick at most F events per sample: lowest priority first, then lower source index, then older.

    Returns:
        Which of (B, columns) of every plane the samples `stepping` (B,) deliver in their forward `step` (B,).
    """
    here, size = table.columns, execution.forward_group_size
    alive = [plane.alive[:, here] & stepping[:, None] for plane in table.every()]
    if size is None or size >= len(alive) * (here.stop - here.start):
        return alive
    # places are in order of source, then age, which is how ties are broken
    stacked = torch.stack(alive, 2)
    flat, priority = stacked.flatten(1), _priorities(table, execution, start, stacked, step).flatten(1)
    priority = torch.where(flat, priority, torch.inf)
    last = priority.topk(size, largest=False, sorted=False).values.amax(1, keepdim=True)
    ahead, tied = flat & (priority < last), flat & (priority == last)
    room = size - ahead.sum(1, keepdim=True)
    picked = (ahead | (tied & (tied.cumsum(1, dtype=torch.int32) <= room))).view_as(stacked)
    return list(picked.unbind(2))


def _priorities(table: Table, execution: Execution, start: Start, alive: Tensor, step: Tensor) -> Tensor:
    """Return float64 priorities of the events `alive`, (B, columns, planes)."""
    scheduler, here = execution.scheduler, table.columns
    if type(scheduler) is Fifo:
        return (table.moments() - start.timestep * MOST_STEPS).double()
    potential = torch.stack([plane.potential[:, here] for plane in table.every()], 2).double()
    if type(scheduler) is Momentum and not scheduler.noise:
        return -keys.momentum_key(potential)
    sources = torch.arange(table.first + here.start, table.first + here.stop, device=step.device)
    sample, at = start.sample_ids[:, None], step[:, None]
    uniform = keys.uniform(start.seed, sample, start.timestep, random_keys.ORDER, at, sources)
    uniform = uniform[..., None].expand_as(alive)
    if type(scheduler) is Random:
        return uniform
    if type(scheduler) is Momentum:
        return -(keys.momentum_key(potential) + scheduler.noise * uniform)
    return _ask(
        scheduler, execution.forward_group_size or 0, table, alive, (potential, uniform, table.moments())
    )


def _ask(
    scheduler: Scheduler, size: int, table: Table, alive: Tensor, held: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Let a Python scheduler see, on the host, one sample with more than `size` events after another, oldest first.

    Args:
        held: potentials, uniform numbers and moments of the events.
    """
    priority = torch.zeros(alive.shape, dtype=torch.float64)
    fields = [field.cpu() for field in held]
    for b, at in enumerate(alive.cpu()):
        source, place = at.nonzero().unbind(1)
        if len(source) > size:
            order = fields[2][b, source, place].argsort(stable=True)
            source, place = source[order], place[order]
            potential, numbers, moment = (field[b, source, place].numpy() for field in fields)
            index = (source + table.first + table.columns.start).numpy()
            events = Pending(index, potential, numbers, moment // MOST_STEPS, moment % MOST_STEPS)
            priority[b, source, place] = torch.from_numpy(check_priorities(scheduler, events))
    return priority.to(alive.device)
