"""An event log by node and projection, and what each neuron decided."""

from dataclasses import dataclass

import torch
from torch import Tensor

from snn_async.engines.contract import NEVER, Slopes
from snn_async.engines.event_log import EventLog
from snn_async.engines.torch.device import Distinct, rank, to_host
from snn_async.engines.torch.structure import Structure

MOST_STEPS = 1 << 32  # more than a timestep can have


@dataclass(frozen=True)
class Decisions:
    """The decisive evaluations of a population, each neuron's in order; M is the most of any.

    Attributes:
        step: (M, B, n) forward steps, NEVER where a neuron has no more.
        fired: (M, B, n) whether it spiked.
        value, slope: (M, B, n) of the spike, and its derivative by the potential; slope 0 where it is not known.
        spikes: (3, E) at which (m, b, i) each row of the population was decided.
    """

    step: Tensor
    fired: Tensor
    value: Tensor
    slope: Tensor
    spikes: tuple[Tensor, ...]


@dataclass(frozen=True)
class Deliveries:
    """What a projection brings, in R pairs of sample and forward step, sorted and each once.

    Attributes:
        sample, step: (R,).
        most: pairs of any sample.
        row, pair, unit: (D,) of each delivery, the row in the log, its pair and the source's unit.
    """

    sample: Tensor
    step: Tensor
    most: int
    row: Tensor
    pair: Tensor
    unit: Tensor


class LogIndex:
    """Where to find things in an event log.

    Attributes:
        sample, node, unit: (E,) of each row, the emitter.
        carried: (E,) whether a row was pending when the timestep began.
        position: (E,) of each row if all were sorted by node, carried ones first; equal ones stay in order.
        place: (E,) the same among those of its node, or among the carried ones.
    """

    def __init__(self, structure: Structure, log: EventLog, slopes: Slopes | None) -> None:
        self.structure, self.log, self.slopes = structure, log, slopes
        layout, (samples, populations) = structure.layout, (len(log.carried), structure.layout.populations)
        every = torch.arange(len(log.source), device=log.source.device)
        self.sample = torch.searchsorted(log.offsets, every, right=True) - 1
        self.carried = every - log.offsets[self.sample] < log.carried[self.sample]
        self.node = structure.node_of[log.source]
        self.unit = log.source - structure.first_source[self.node + 1]

        group = torch.where(self.carried, 0, self.node + 2)
        ordered, self._rows = group.sort(stable=True)
        row_bounds = torch.searchsorted(ordered, torch.arange(len(structure.turn) + 3, device=every.device))
        self.position = torch.empty_like(every).scatter_(0, self._rows, every)
        self.place = self.position - row_bounds[group]

        is_spike = ~self.carried & (self.node >= 0) & (self.node < populations)
        emitter = self.sample * layout.neurons + log.source - layout.inputs
        self._nth = rank(torch.where(is_spike, emitter, -1))
        counts = torch.zeros(samples * layout.neurons, dtype=torch.int64, device=every.device)
        counts.index_add_(0, torch.where(is_spike, emitter, 0), is_spike.long())
        self._counts = counts.view(samples, layout.neurons)
        most = (self._counts + (log.silent_step >= 0)).amax(0)
        most = torch.stack([most[structure.neurons_of(p)].amax() for p in range(populations)])

        # deliveries by projection; those of what a "sum" or "max" passes on follow from what reached it
        sample = self.sample[log.event]
        relayed = structure.relays[self.node[log.event] + 1]
        projection = torch.where(relayed, len(structure.connections), log.projection)
        pairs = Distinct((projection * samples + sample) * MOST_STEPS + log.step_of_delivery)
        self._pair = pairs.index
        bounds = torch.arange(len(structure.connections) * samples + 1, device=every.device)
        below = pairs.below(bounds * MOST_STEPS)
        per_sample = below.diff().view(-1, samples)
        ordered, self._deliveries = projection.sort(stable=True)
        entry_bounds = torch.searchsorted(ordered, bounds[: len(per_sample) + 1])

        self._row_bounds, self._most, self._pair_bounds, self._most_pairs, self._entry_bounds, (size,) = (
            to_host(row_bounds, most, below[::samples], per_sample.amax(1), entry_bounds, pairs.size)
        )
        self._pairs = pairs.values(size)

    def rows(self, node: int) -> Tensor:
        """Return the rows that a node emitted, those of one neuron in order of emission."""
        return self._rows[self._row_bounds[node + 2] : self._row_bounds[node + 3]]

    def deliveries(self, k: int) -> Deliveries | None:
        """Return what projection k delivers, None if nothing, or if a "sum" or "max" passes it on."""
        begin, end = self._entry_bounds[k : k + 2]
        if begin == end:
            return None
        entries, pairs = self._deliveries[begin:end], slice(*self._pair_bounds[k : k + 2])
        row, key = self.log.event[entries], self._pairs[pairs]
        return Deliveries(
            sample=key // MOST_STEPS % len(self.log.carried),
            step=key % MOST_STEPS,
            most=self._most_pairs[k],
            row=row,
            pair=self._pair[entries] - pairs.start,
            unit=self.unit[row],
        )

    def decisions(self, p: int) -> Decisions:
        """Return what population p decided."""
        rows, here = self.rows(p), self.structure.neurons_of(p)
        at = (self._nth[rows], self.sample[rows], self.unit[rows])
        silent_step, counts = self.log.silent_step[:, here], self._counts[:, here]
        nth = torch.arange(self._most[p], device=rows.device)[:, None, None]
        silent = (counts == nth) & (silent_step >= 0)
        value = self.log.silent_potential.new_zeros(silent.shape)
        slope = torch.zeros_like(value)
        if self.slopes is not None:
            slope = torch.where(silent, self.slopes.silent[:, here], slope)
            slope.index_put_(at, self.slopes.events[rows])
        return Decisions(
            step=torch.where(silent, silent_step, NEVER).index_put_(at, self.log.step[rows]),
            fired=torch.zeros_like(silent).index_put_(at, torch.ones_like(rows, dtype=torch.bool)),
            value=value.index_put_(at, self.log.amplitude[rows]),
            slope=slope,
            spikes=at,
        )


class Holders:
    """Which cell holds the maximum of each window of a "max", as the log's rows of its units tell it.

    Args:
        first: (U,) who holds each window before anything arrives.
        sample, step, unit, cell: (E,) of the rows.
    """

    def __init__(self, first: Tensor, sample: Tensor, step: Tensor, unit: Tensor, cell: Tensor) -> None:
        key = (sample * len(first) + unit) * MOST_STEPS + step
        self._key, order = torch.nn.functional.pad(key, (1, 0), value=-1).sort()
        self._cell = torch.nn.functional.pad(cell, (1, 0))[order]
        self._first, self._units = first, torch.arange(len(first), device=first.device)

    def at(self, sample: Tensor, step: Tensor) -> Tensor:
        """Return the holders (R, U) as seen in forward steps (R,) of samples (R,)."""
        window = sample[:, None] * len(self._first) + self._units
        latest = torch.searchsorted(self._key, window * MOST_STEPS + step[:, None], right=True) - 1
        return torch.where(self._key[latest] // MOST_STEPS == window, self._cell[latest], self._first)
