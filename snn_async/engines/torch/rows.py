"""The rows of an event log by timestep and node, and what each neuron decided."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async.engines.event_log import EventLog
from snn_async.graph.layout import Layout

NEVER = 1 << 30
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Decisions:
    """The decisive evaluations of a population in one timestep, each neuron's in order; M is the most of any.

    Attributes:
        step: (M, B, n) forward steps, NEVER where a neuron has no more.
        fired: (M, B, n) whether it spiked.
        slope: (M, B, n) derivative of the surrogate; None if not known.
        rows: (E,) of the spikes in the log; `spikes` (3, E) says at which (m, b, i) each was decided.
    """

    step: Tensor
    fired: Tensor
    slope: Tensor | None
    rows: Ints
    spikes: Tensor


class LogIndex:
    """Where to find things in an event log; all attributes are (E,), one per row.

    Attributes:
        sample, timestep: of emission; -1 for what was pending before the run.
        node, unit: the emitter.
        step: forward step of delivery, 0 behind a barrier, where everything arrives together.
        place: position among the rows that the same node emitted in the same timestep.
    """

    def __init__(self, layout: Layout, log: EventLog, layered: bool) -> None:
        samples, steps = len(log.emitted), log.emitted.shape[1] - 2
        sizes = np.diff(log.emitted, axis=1)
        self.layout, self.log = layout, log
        self.sample = np.repeat(np.arange(samples), sizes.sum(1))
        self.timestep = np.repeat(np.tile(np.arange(-1, steps), samples), sizes.reshape(-1))
        firsts = np.concatenate(([0], layout.first_unit))
        self.node = np.searchsorted(firsts, log.source, side="right") - 2
        self.unit: Ints = log.source.astype(np.int64) - firsts[self.node + 1]
        self.step = np.zeros_like(self.sample) if layered else log.delivered_step.astype(np.int64)
        self._nodes = len(layout.turn) + 1
        emission = (self.timestep + 1) * self._nodes + self.node + 1
        self._emitted, self._first_emitted = _sorted(emission, (steps + 1) * self._nodes)
        self.place = np.empty_like(self._emitted)
        self.place[self._emitted] = np.arange(len(self.place)) - self._first_emitted[emission[self._emitted]]
        delivery = (log.delivered_timestep.astype(np.int64) + 1) * self._nodes + self.node + 1
        self._delivered, self._first_delivered = _sorted(delivery, (steps + 1) * self._nodes)

    def emitted(self, t: int, node: int) -> Ints:
        """Return the rows that a node emitted in timestep t."""
        key = (t + 1) * self._nodes + node + 1
        return self._emitted[self._first_emitted[key] : self._first_emitted[key + 1]]

    def delivered(self, t: int, node: int) -> Ints:
        """Return the rows of a node that were delivered in timestep t."""
        key = (t + 1) * self._nodes + node + 1
        return self._delivered[self._first_delivered[key] : self._first_delivered[key + 1]]

    def decisions(
        self, t: int, p: int, slopes: tuple[np.ndarray, np.ndarray] | None, device: torch.device
    ) -> Decisions:
        """Return what population p decided in timestep t.

        Args:
            slopes: derivatives at every row (E,) and at the silent evaluations (T, B, N), or None.
        """
        rows, here = self.emitted(t, p), slice(*self.layout.start[p : p + 2])
        sample, unit = self.sample[rows], self.unit[rows]
        silent_step = self.log.silent_step[t, :, here]
        # rows of one neuron are in order of emission: its k-th row is its k-th spike
        nth = _rank(sample * silent_step.shape[1] + unit)
        counts = np.zeros(silent_step.shape, dtype=np.int64)
        np.add.at(counts, (sample, unit), 1)
        b, i = np.nonzero(silent_step >= 0)
        most = int((counts + (silent_step >= 0)).max(initial=0))
        shape = (most, *silent_step.shape)
        step, fired = np.full(shape, NEVER, dtype=np.int64), np.zeros(shape, dtype=bool)
        step[nth, sample, unit], fired[nth, sample, unit] = self.log.step[rows], True
        step[counts[b, i], b, i] = silent_step[b, i]
        slope = None
        if slopes is not None:
            at_event, at_silent = slopes
            array = np.zeros(shape, dtype=at_event.dtype)
            array[nth, sample, unit] = at_event[rows]
            array[counts[b, i], b, i] = at_silent[t, b, here.start + i]
            slope = torch.from_numpy(array).to(device)
        return Decisions(
            step=torch.from_numpy(step).to(device),
            fired=torch.from_numpy(fired).to(device),
            slope=slope,
            rows=rows,
            spikes=torch.from_numpy(np.stack((nth, sample, unit))).to(device),
        )


def _sorted(key: Ints, count: int) -> tuple[Ints, Ints]:
    """Return the order by key, equal ones as they were, and where each of `count` keys begins, (count + 1,)."""
    order = np.argsort(key, kind="stable")
    return order, np.searchsorted(key[order], np.arange(count + 1))


def _rank(key: Ints) -> Ints:
    """Return how many earlier entries have the same key."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    first = np.searchsorted(ordered, ordered)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - first
    return rank
