"""Event logs: the arrays that the chunks wrote, and what they say in the words of the contract."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async.engines.contract import NOT_YET, PendingEvents
from snn_async.engines.event_log import EventLog
from snn_async.engines.numba import codes, records

Ints = NDArray[np.integer]


_COLUMNS = ("source", "amplitude", "step", "potential", "current", "cell", "delivered_step")


def logs_of(out: records.Out, parts: list[Any], carried: records.Carried) -> list[records.Log]:
    """Return the chunks' logs: rows, deliveries and inputs count from the chunk's first."""
    left_start = np.concatenate(([0], np.cumsum(out.left))).astype(np.int64)
    return [
        records.Log(
            **{name: getattr(part.events, name) for name in (*_COLUMNS, "deliveries")},
            emitted=out.emitted,
            delivered=out.delivered,
            silent_step=out.silent_step,
            silent_potential=out.silent_potential,
            arrived=out.arrived,
            turn_step=out.turn_step,
            inputs=out.inputs,
            input_source=part.input_source,
            input_amplitude=part.input_amplitude,
            carried=carried.offsets,
            left=part.left,
            left_start=left_start,
        )
        for part in parts
    ]


def joined_log(logs: list[records.Log], bounds: list[tuple[int, int]]) -> records.Log:
    """Join the chunks: their rows become the batch's."""
    emitted, delivered = logs[0].emitted.copy(), logs[0].delivered.copy()
    deliveries, left, rows, done = [], [], 0, 0
    for log, (first, last) in zip(logs, bounds, strict=True):
        emitted[first:last] += rows
        delivered[first:last] += done
        deliveries.append(log.deliveries + np.int32(rows))
        left.append(log.left + np.int32(rows))
        rows, done = rows + len(log.source), done + len(log.deliveries)
    return logs[0]._replace(
        **{name: np.concatenate([getattr(log, name) for log in logs]) for name in _COLUMNS},
        emitted=emitted,
        delivered=delivered,
        deliveries=np.concatenate(deliveries),
        left=np.concatenate(left),
    )


def joined_left(out: records.Out, parts: list[Any], timestep: int) -> PendingEvents:
    """Return what is pending at the end; the run began at `timestep` of its stream."""
    source, step, own, amplitude, potential = (
        np.concatenate([getattr(part.events, name)[part.left] for part in parts])
        for name in ("source", "step", "timestep", "amplitude", "potential")
    )
    return PendingEvents(
        sample=torch.from_numpy(np.repeat(np.arange(len(out.left)), out.left)),
        source=_integers(source),
        amplitude=torch.from_numpy(amplitude),
        potential=torch.from_numpy(potential.astype(np.float64)),
        timestep=_integers(own + np.int32(timestep)),
        step=_integers(step),
    )


def _integers(array: Ints) -> Tensor:
    # copied by numpy, on one thread: torch's threads would go on spinning beside the kernels
    return torch.from_numpy(array.astype(np.int64))


class NumbaLog(EventLog):
    """The event log of one timestep; what only its readers need is made when it is asked for.

    Attributes:
        chunks: what the kernels read, and the samples of each chunk.
        rows: the same of all chunks.
    """

    net: records.Net
    layered: bool
    chunks: list[tuple[records.Log, tuple[int, int]]]
    rows: records.Log

    def __init__(
        self,
        net: records.Net,
        rules: records.Rules,
        logs: list[records.Log],
        bounds: list[tuple[int, int]],
    ) -> None:
        rows = joined_log(logs, bounds)
        self.__dict__.update(
            chunks=list(zip(logs, bounds, strict=True)),
            net=net,
            layered=rules.scheduler == codes.LAYERED,
            rows=rows,
            offsets=torch.from_numpy(np.append(rows.emitted[:, 0], len(rows.source))),
            carried=torch.from_numpy(rows.emitted[:, 1] - rows.emitted[:, 0]),
            amplitude=torch.from_numpy(rows.amplitude),
            potential=torch.from_numpy(rows.potential),
            current=torch.from_numpy(rows.current),
            left=_integers(rows.left),
            silent_potential=torch.from_numpy(rows.silent_potential[0]),
            source=_integers(rows.source),
            step=_integers(rows.step),
            cell=_integers(rows.cell),
            silent_step=_integers(rows.silent_step[0]),
            turn_step=_integers(_turn_steps(net, rows)),
        )

    @cached_property
    def event(self) -> Tensor:
        return torch.from_numpy(self._deliveries[0])

    @cached_property
    def projection(self) -> Tensor:
        return torch.from_numpy(self._deliveries[1])

    @cached_property
    def step_of_delivery(self) -> Tensor:
        return torch.from_numpy(self._deliveries[2])

    @cached_property
    def _deliveries(self) -> tuple[Ints, Ints, Ints]:
        """Every delivered event, through every projection that leaves its source."""
        net, rows = self.net, self.rows
        leaving = np.flatnonzero(~net.delayed_edge)
        leaving = leaving[np.argsort(net.source[leaving], kind="stable")]
        start = np.searchsorted(net.source[leaving], np.arange(-1, net.nodes + 1))
        node = net.node_of[rows.source[rows.deliveries]]
        count = (start[1:] - start[:-1])[node]
        at = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - start[node], count)
        event, projection = np.repeat(rows.deliveries.astype(np.int64), count), leaving[at]
        sample = np.repeat(np.arange(len(rows.emitted)), rows.delivered[:, -1] - rows.delivered[:, 0])
        sample = np.repeat(sample, count)
        step = rows.delivered_step[event].astype(np.int64)
        if self.layered:
            step = rows.turn_step[0, sample, net.target[projection]].astype(np.int64)
        order = np.lexsort((step, sample))
        within = rows.source[event] - net.first_source[projection]
        order = order[((step >= 0) & (within >= 0) & (within < net.fan_in[projection]))[order]]
        return event[order], projection[order], step[order]


def _turn_steps(net: records.Net, rows: records.Log) -> Ints:
    """From the kernels' `turn_step` to the contract's."""
    waits, instant = net.node_kind >= codes.AND, (net.node_kind == codes.SUM) | (net.node_kind == codes.MAX)
    step = np.where(instant, NOT_YET, rows.turn_step[0])
    return np.where(waits & (step > 0), step - 1, step)
