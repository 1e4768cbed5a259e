"""Pending events of a whole batch, as a dense table, and which of them the scheduler picks."""

import torch
from torch import Tensor
from torch.nn import functional

from snn_async import random_keys
from snn_async.engines.contract import Execution, PendingEvents, Start
from snn_async.engines.torch import keys
from snn_async.engines.torch.device import MOST_STEPS, places, rank, to_host
from snn_async.schedulers import Fifo, Momentum, Pending, Random, Scheduler, check_priorities


def of_sources(places: Tensor) -> Tensor:
    """Return the sums (B, sources) over the places (B, sources, depth) of each source."""
    return places[..., 0] if places.shape[2] == 1 else places.sum(2)


class Table:
    """The pending events of the sources first, ..., end - 1, (B, end - first, depth).

    A source may have several; they fill its places from the lowest on, in order of age. Only the sources held, ...,
    end_held - 1 can have any.

    Attributes:
        alive: which places hold an event; what the others have means nothing.
        number: place among the sample's emissions.
        amplitude, potential: as in `PendingEvents`.
        moment: timestep * MOST_STEPS + step of emission.
        depth: places of each source.
    """

    def __init__(self, samples: int, first: int, end: int, like: Tensor, execution: Execution) -> None:
        kind = type(execution.scheduler)
        carries, sized = execution.leftover == "carry", execution.forward_group_size is not None
        self.reads_potential = carries or (sized and kind not in (Fifo, Random))
        self.reads_moment = carries or (sized and kind not in (Momentum, Random))
        shape = (samples, end - first, 1)
        self.first, self.end, self.depth = first, end, 1
        self.held = self.end_held = first
        self.alive = torch.zeros(shape, dtype=torch.bool, device=like.device)
        self.number = torch.zeros(shape, dtype=torch.int64, device=like.device)
        self.amplitude, self.moment = like.new_zeros(shape), torch.zeros_like(self.number)
        self.potential = torch.zeros_like(self.amplitude, dtype=torch.float64)

    def begin(self, carried: PendingEvents, amplitude: Tensor, number: Tensor) -> None:
        """Take what was pending when the timestep began, `number` (E,) being its places in the log."""
        source = carried.source - self.first
        place = rank(carried.sample * (self.end - self.first) + source)
        ((deepest,),) = to_host(place.max())
        self.deepen(deepest + 2)  # one more for what comes
        at, moment = (carried.sample, source, place), carried.timestep * MOST_STEPS + carried.step
        self.held, self.end_held = self.first, self.end
        self.alive[at] = True
        self.number[at], self.moment[at] = number, moment
        self.amplitude[at], self.potential[at] = amplitude, carried.potential

    def deepen(self, depth: int) -> None:
        """Give every source at least `depth` places."""
        more = (0, max(0, depth - self.depth))
        self.depth += more[1]
        self.alive, self.number, self.amplitude, self.potential, self.moment = (
            functional.pad(field, more)
            for field in (self.alive, self.number, self.amplitude, self.potential, self.moment)
        )

    def put(
        self, first: int, mask: Tensor, number: Tensor, amplitude: Tensor, potential: Tensor, moment: Tensor
    ) -> None:
        """Add the events at `mask` (B, n) of the sources first, first + 1, ..."""
        end = first + mask.shape[1]
        none = self.held == self.end_held
        self.held = first if none else min(first, self.held)
        self.end_held = end if none else max(end, self.end_held)
        here, at = slice(first - self.first, end - self.first), mask[..., None]
        if self.depth > 1:
            place = self.alive[:, here].sum(2, keepdim=True)
            at = at & (torch.arange(self.depth, device=mask.device) == place)
        self.alive[:, here] |= at
        fields = [(self.number, number), (self.amplitude, amplitude)]
        if self.reads_potential:
            fields.append((self.potential, potential.double()))
        if self.reads_moment:
            fields.append((self.moment, moment))
        for field, new in fields:
            torch.where(at, new[..., None], field[:, here], out=field[:, here])

    def remove(self, picked: Tensor, everything: bool) -> None:
        """Remove the events (B, held sources, depth).

        Args:
            everything: whether no other event will ever be picked.
        """
        here = self.columns
        if everything:
            self.held = self.end_held = self.first
        self.alive[:, here] ^= picked
        if self.depth > 1:
            order = (~self.alive).byte().sort(dim=2, stable=True).indices
            self.alive, self.number, self.amplitude, self.potential, self.moment = (
                field.gather(2, order)
                for field in (self.alive, self.number, self.amplitude, self.potential, self.moment)
            )

    @property
    def columns(self) -> slice:
        """The columns of the sources that may have events."""
        return slice(self.held - self.first, self.end_held - self.first)

    def here(self, sources: slice) -> slice:
        """Return the columns of a range of sources, empty if they are not in the table."""
        first, stop = (min(max(s, self.first), self.end) - self.first for s in (sources.start, sources.stop))
        return slice(first, stop)

    def left(self) -> tuple[Tensor, PendingEvents]:
        """Return all events, by sample, oldest first: their numbers (E,) and themselves."""
        alive = self.alive.flatten(1)
        ((size,),) = to_host(alive.sum())
        sample, place = places(alive, size)
        number = self.number.flatten(1)[sample, place]
        order = (sample * MOST_STEPS + number).argsort()
        sample, place = sample[order], place[order]
        moment = self.moment.flatten(1)[sample, place]
        return number[order], PendingEvents(
            sample=sample,
            source=place // self.depth + self.first,
            amplitude=self.amplitude.flatten(1)[sample, place],
            potential=self.potential.flatten(1)[sample, place],
            timestep=moment // MOST_STEPS,
            step=moment % MOST_STEPS,
        )


def pick(table: Table, execution: Execution, start: Start, stepping: Tensor, step: Tensor) -> Tensor:
    """Pick at most F events per sample: lowest priority first, then lower source index, then older.

    Returns:
        Which places (B, held sources, depth) the samples `stepping` (B,) deliver in their forward `step` (B,).
    """
    alive, size = table.alive[:, table.columns] & stepping[:, None, None], execution.forward_group_size
    if size is None or size >= alive[0].numel():
        return alive
    # places are in order of source, then age, which is how ties are broken
    flat, priority = alive.flatten(1), _priorities(table, execution, start, alive, step).flatten(1)
    priority = torch.where(flat, priority, torch.inf)
    last = priority.topk(size, largest=False, sorted=False).values.amax(1, keepdim=True)
    ahead, tied = flat & (priority < last), flat & (priority == last)
    room = size - ahead.sum(1, keepdim=True)
    return (ahead | (tied & (tied.cumsum(1, dtype=torch.int32) <= room))).view_as(alive)


def _priorities(table: Table, execution: Execution, start: Start, alive: Tensor, step: Tensor) -> Tensor:
    """Return float64 priorities of the events `alive`, (B, held sources, depth)."""
    scheduler, here = execution.scheduler, table.columns
    if type(scheduler) is Fifo:
        return (table.moment[:, here] - start.timestep * MOST_STEPS).double()
    if type(scheduler) is Momentum and not scheduler.noise:
        return -keys.momentum_key(table.potential[:, here])
    sources = torch.arange(table.held, table.end_held, device=step.device)
    sample, at = start.sample_ids[:, None], step[:, None]
    uniform = keys.uniform(start.seed, sample, start.timestep, random_keys.ORDER, at, sources)
    uniform = uniform[..., None].expand_as(alive)
    if type(scheduler) is Random:
        return uniform
    if type(scheduler) is Momentum:
        return -(keys.momentum_key(table.potential[:, here]) + scheduler.noise * uniform)
    return _ask(scheduler, execution.forward_group_size or 0, table, alive, uniform)


def _ask(scheduler: Scheduler, size: int, table: Table, alive: Tensor, uniform: Tensor) -> Tensor:
    """Let a Python scheduler see, on the host, one sample with more than `size` events after another."""
    priority = torch.zeros(alive.shape, dtype=torch.float64)
    here = table.columns
    held = (table.number[:, here], table.potential[:, here], uniform, table.moment[:, here])
    fields = [field.cpu() for field in held]
    for b, at in enumerate(alive.cpu()):
        source, place = at.nonzero().unbind(1)
        if len(source) > size:
            order = fields[0][b, source, place].argsort()
            source, place = source[order], place[order]
            potential, numbers, moment = (field[b, source, place].numpy() for field in fields[1:])
            index, timestep, emitted = (
                (source + table.held).numpy(),
                moment // MOST_STEPS,
                moment % MOST_STEPS,
            )
            found = check_priorities(scheduler, Pending(index, potential, numbers, timestep, emitted))
            priority[b, source, place] = torch.from_numpy(found)
    return priority.to(alive.device)
