"""Pending events of a whole batch, as a dense table, and which of them the scheduler picks."""

import torch
from torch import Tensor
from torch.nn import functional

from snn_async import random_keys
from snn_async.engines.contract import NOT_YET, Execution, PendingEvents, Start
from snn_async.engines.torch import keys
from snn_async.engines.torch.device import MOST_STEPS, places, rank, to_host
from snn_async.schedulers import Fifo, Momentum, Pending, Random, Scheduler, check_priorities


def of_sources(places: Tensor) -> Tensor:
    """Return the sums (B, sources) over the places (B, sources, depth) of each source."""
    return places[..., 0] if places.shape[2] == 1 else places.sum(2)


class Table:
    """The pending events of the sources first, ..., end - 1, (B, end - first, depth).

    A source may have several; they fill its places from the lowest on, in order of age.

    Attributes:
        number: place among the sample's emissions, `NOT_YET` where there is no event.
        amplitude, potential: as in `PendingEvents`.
        moment: timestep * MOST_STEPS + step of emission.
        depth: places of each source.
    """

    def __init__(self, samples: int, first: int, end: int, like: Tensor) -> None:
        shape = (samples, end - first, 1)
        self.first, self.end, self.depth = first, end, 1
        self.number = torch.full(shape, NOT_YET, device=like.device)
        self.amplitude, self.moment = like.new_zeros(shape), torch.zeros_like(self.number)
        self.potential = torch.zeros_like(self.amplitude, dtype=torch.float64)

    @property
    def alive(self) -> Tensor:
        """Which places hold an event."""
        return self.number >= 0

    def begin(self, carried: PendingEvents, amplitude: Tensor, number: Tensor) -> None:
        """Take what was pending when the timestep began, `number` (E,) being its places in the log."""
        source = carried.source - self.first
        place = rank(carried.sample * (self.end - self.first) + source)
        ((deepest,),) = to_host(place.max())
        self.deepen(deepest + 2)  # one more for what comes
        at, moment = (carried.sample, source, place), carried.timestep * MOST_STEPS + carried.step
        self.number[at], self.moment[at] = number, moment
        self.amplitude[at], self.potential[at] = amplitude, carried.potential

    def deepen(self, depth: int) -> None:
        """Give every source at least `depth` places."""
        more = (0, max(0, depth - self.depth))
        self.depth += more[1]
        self.number = functional.pad(self.number, more, value=NOT_YET)
        self.amplitude, self.potential, self.moment = (
            functional.pad(field, more) for field in (self.amplitude, self.potential, self.moment)
        )

    def put(
        self, first: int, mask: Tensor, number: Tensor, amplitude: Tensor, potential: Tensor, moment: Tensor
    ) -> None:
        """Add the events at `mask` (B, n) of the sources first, first + 1, ..."""
        here = slice(first - self.first, first - self.first + mask.shape[1])
        at = mask[..., None]
        if self.depth > 1:
            place = self.alive[:, here].sum(2, keepdim=True)
            at = at & (torch.arange(self.depth, device=mask.device) == place)
        for field, new in (
            (self.number, number),
            (self.amplitude, amplitude),
            (self.potential, potential.double()),
            (self.moment, moment),
        ):
            torch.where(at, new[..., None], field[:, here], out=field[:, here])

    def remove(self, picked: Tensor) -> None:
        """Remove events (B, sources, depth); fields are made anew, so that older views of them stay as they are."""
        self.number = torch.where(picked, NOT_YET, self.number)
        if self.depth > 1:
            order = (self.number < 0).byte().sort(dim=2, stable=True).indices
            self.number, self.amplitude, self.potential, self.moment = (
                field.gather(2, order) for field in (self.number, self.amplitude, self.potential, self.moment)
            )

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
        Which places (B, sources, depth) the samples `stepping` (B,) deliver in their forward `step` (B,).
    """
    alive, size = table.alive & stepping[:, None, None], execution.forward_group_size
    if size is None or size >= table.number[0].numel():
        return alive
    # places are in order of source, then age, which is how ties are broken
    flat, priority = alive.flatten(1), _priorities(table, execution, start, alive, step).flatten(1)
    priority = torch.where(flat, priority, torch.inf)
    last = priority.topk(size, largest=False, sorted=False).values.amax(1, keepdim=True)
    ahead, tied = flat & (priority < last), flat & (priority == last)
    room = size - ahead.sum(1, keepdim=True)
    return (ahead | (tied & (tied.cumsum(1) <= room))).view_as(alive)


def _priorities(table: Table, execution: Execution, start: Start, alive: Tensor, step: Tensor) -> Tensor:
    """Return float64 priorities of the events `alive`, (B, sources, depth)."""
    scheduler = execution.scheduler
    if type(scheduler) is Fifo:
        return (table.moment - start.timestep * MOST_STEPS).double()
    if type(scheduler) is Momentum and not scheduler.noise:
        return -keys.momentum_key(table.potential)
    sources = torch.arange(table.first, table.end, device=step.device)
    sample, at = start.sample_ids[:, None], step[:, None]
    uniform = keys.uniform(start.seed, sample, start.timestep, random_keys.ORDER, at, sources)
    uniform = uniform[..., None].expand_as(alive)
    if type(scheduler) is Random:
        return uniform
    if type(scheduler) is Momentum:
        return -(keys.momentum_key(table.potential) + scheduler.noise * uniform)
    return _ask(scheduler, execution.forward_group_size or 0, table, alive, uniform)


def _ask(scheduler: Scheduler, size: int, table: Table, alive: Tensor, uniform: Tensor) -> Tensor:
    """Let a Python scheduler see, on the host, one sample with more than `size` events after another."""
    priority = torch.zeros(alive.shape, dtype=torch.float64)
    fields = [field.cpu() for field in (table.number, table.potential, uniform, table.moment)]
    for b, at in enumerate(alive.cpu()):
        source, place = at.nonzero().unbind(1)
        if len(source) > size:
            order = fields[0][b, source, place].argsort()
            source, place = source[order], place[order]
            potential, numbers, moment = (field[b, source, place].numpy() for field in fields[1:])
            index, timestep, emitted = (
                (source + table.first).numpy(),
                moment // MOST_STEPS,
                moment % MOST_STEPS,
            )
            found = check_priorities(scheduler, Pending(index, potential, numbers, timestep, emitted))
            priority[b, source, place] = torch.from_numpy(found)
    return priority.to(alive.device)
