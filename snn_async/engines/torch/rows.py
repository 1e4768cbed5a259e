"""An event log by node and projection, and what each neuron decided."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from snn_async.engines.contract import NEVER, Slopes
from snn_async.engines.event_log import EventLog
from snn_async.engines.torch.device import MOST_STEPS, Distinct, numbers, rank, to_host
from snn_async.engines.torch.structure import Structure


@dataclass(frozen=True)
class Decisions:
    """The decisive evaluations of a population, each neuron's in order; M is the most of any."""

    step: Tensor  # (M, B, n) forward steps, NEVER where a neuron has no more
    fired: Tensor  # (M, B, n) whether it spiked
    value: Tensor  # (M, B, n) of the spike
    slope: Tensor  # (M, B, n) its derivative by the potential; 0 without slopes
    spikes: Tensor  # (E,) at which place of (M, B, n), flat, each row of the population was decided


@dataclass(frozen=True)
class Stream:
    """What arrives at a node, or what it sends, in R pairs of sample and forward step, sorted and each once."""

    sample: Tensor  # (R,)
    step: Tensor  # (R,)
    amounts: Tensor  # (R, n) differentiable
    most: int  # pairs of any sample


class LogIndex:
    """Where to find things in an event log.

    Attributes:
        everyone: (B,) all samples, the `sample` of a stream with one pair of each.
        sample, node, unit: (E,) of each row, the emitter.
        carried: (E,) whether a row was pending when the timestep began.
        position: (E,) of each row if all were sorted by node, carried ones first; equal ones stay in order.
        place: (E,) the same among those of its node, or among the carried ones.
    """

    def __init__(self, structure: Structure, log: EventLog, slopes: Slopes | None) -> None:
        self.structure, self.log, self.slopes = structure, log, slopes
        layout, (samples, populations) = structure.layout, (len(log.carried), structure.layout.populations)
        every = torch.arange(len(log.source), device=log.source.device)
        self.everyone = torch.arange(samples, device=every.device)
        self.sample = self.everyone.repeat_interleave(log.offsets.diff(), output_size=len(every))
        own = log.offsets[:-1] + log.carried
        self.carried = every < own.index_select(0, self.sample)
        self.node = structure.node_of.index_select(0, log.source)
        self.unit = log.source - structure.first_source.index_select(0, self.node + 1)

        group = torch.where(self.carried, 0, self.node + 2)
        ordered, self._rows = group.sort(stable=True)
        row_bounds = torch.searchsorted(ordered, torch.arange(len(structure.turn) + 3, device=every.device))
        self.position = torch.empty_like(every).scatter_(0, self._rows, every)
        self.place = self.position - row_bounds.index_select(0, group)

        is_spike = ~self.carried & (self.node >= 0) & (self.node < populations)
        emitter = self.sample * layout.neurons + log.source - layout.inputs
        again = structure.repeats
        self._nth = rank(torch.where(is_spike, emitter, -1)) if again else torch.zeros_like(emitter)
        counts = torch.zeros(samples * layout.neurons, dtype=torch.int64, device=every.device)
        counts.index_add_(0, torch.where(is_spike, emitter, 0), is_spike.long())
        self._counts = counts.view(samples, layout.neurons)
        most = (self._counts + (log.silent_step >= 0)).amax(0)
        most = torch.stack([most[structure.neurons_of(p)].amax() for p in range(populations)])

        # deliveries by projection; those of what a "sum" or "max" passes on follow from what reached it
        sample = self.sample.index_select(0, log.event)
        relayed = structure.relays.index_select(0, self.node.index_select(0, log.event) + 1)
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

    def delivered(self, k: int, amplitudes: Callable[[Tensor], Tensor]) -> list[Stream]:
        """Return what projection k delivers (R, fan_in), but for what a "sum" or "max" passes on; at most one stream.

        Args:
            amplitudes: returns those of rows of the log.
        """
        begin, end = self._entry_bounds[k : k + 2]
        if begin == end:
            return []
        entries, pairs = self._deliveries[begin:end], slice(*self._pair_bounds[k : k + 2])
        row, key = self.log.event.index_select(0, entries), self._pairs[pairs]
        size = int(self.structure.layout.fan_in[k])
        unit = self.log.source.index_select(0, row) - int(self.structure.layout.first_source[k])
        place = (self._pair.index_select(0, entries) - pairs.start) * size + unit
        amplitude = amplitudes(row)
        amounts = amplitude.new_zeros(len(key) * size).index_add(0, place, amplitude).view(len(key), size)
        samples, most = len(self.log.carried), self._most_pairs[k]
        whole = most == 1 and len(key) == samples
        sample = self.everyone if whole else key // MOST_STEPS % samples
        return [Stream(sample, key & (MOST_STEPS - 1), amounts, most)]

    def decisions(self, p: int) -> Decisions:
        """Return what population p decided."""
        rows, here = self.rows(p), self.structure.neurons_of(p)
        samples, size = len(self.log.carried), here.stop - here.start
        nth, sample, unit = (one.index_select(0, rows) for one in (self._nth, self.sample, self.unit))
        at = (nth * samples + sample) * size + unit
        silent_step, counts = self.log.silent_step[:, here], self._counts[:, here]
        nth = torch.arange(self._most[p], device=rows.device)[:, None, None]
        silent = (counts == nth) & (silent_step >= 0)
        value = self.log.silent_potential.new_zeros(silent.shape)
        slope = torch.zeros_like(value)
        if self.slopes is not None:
            slope = numbers(silent, slope) * self.slopes.silent[:, here]
            slope.view(-1).scatter_(0, at, self.slopes.events.index_select(0, rows))
        step, fired = NEVER + (silent_step - NEVER) * numbers(silent, silent_step), torch.zeros_like(silent)
        step.view(-1).scatter_(0, at, self.log.step.index_select(0, rows))
        fired.view(-1).scatter_(0, at, True)
        value.view(-1).scatter_(0, at, self.log.amplitude.index_select(0, rows))
        return Decisions(
            step=step,
            fired=fired,
            value=value,
            slope=slope,
            spikes=at,
        )

    def holders(self, j: int, sample: Tensor, step: Tensor) -> Tensor:
        """Return which cells hold the maxima of a "max", (R, U), in forward steps (R,) of samples (R,)."""
        rows, first = self.rows(j), self.structure.windows[j].first
        emitted = (self.sample[rows] * len(first) + self.unit[rows]) * MOST_STEPS + self.log.step[rows]
        key, order = functional.pad(emitted, (1, 0), value=-1).sort()
        cell = functional.pad(self.log.cell[rows], (1, 0))[order]
        window = sample[:, None] * len(first) + torch.arange(len(first), device=first.device)
        latest = torch.searchsorted(key, window * MOST_STEPS + step[:, None], right=True) - 1
        return torch.where(key[latest] // MOST_STEPS == window, cell[latest], first)
