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


def joined_log(
    out: records.Out, parts: list[Any], bounds: list[tuple[int, int]], carried: records.Carried
) -> records.Log:
    """Join the chunks: their rows become the batch's."""
    steps = len(out.spikes)
    rows = delivered = inputs = 0
    deliveries, left = [], []
    for part, (first, last) in zip(parts, bounds, strict=True):
        out.emitted[first:last] += rows
        out.delivered[first:last] += delivered
        out.inputs[first * steps : last * steps] += inputs
        deliveries.append(part.deliveries + rows)
        left.append(part.left + rows)
        rows, delivered, inputs = (
            rows + len(part.ints),
            delivered + len(part.deliveries),
            inputs + len(part.input_source),
        )
    out.inputs[-1] = inputs

    def ints(column: int) -> Ints:
        return np.concatenate([part.ints[:, column] for part in parts])

    def floats(column: int) -> NDArray[np.floating]:
        return np.concatenate([part.floats[:, column] for part in parts])

    return records.Log(
        emitted=out.emitted,
        source=ints(codes.SOURCE),
        amplitude=floats(codes.AMPLITUDE),
        step=ints(codes.STEP),
        potential=floats(codes.POTENTIAL),
        current=floats(codes.CURRENT),
        cell=ints(codes.CELL),
        delivered_step=ints(codes.DELIVERED_STEP),
        deliveries=np.concatenate(deliveries),
        delivered=out.delivered,
        silent_step=out.silent_step,
        silent_potential=out.silent_potential,
        arrived=out.arrived,
        turn_step=out.turn_step,
        inputs=out.inputs,
        input_source=np.concatenate([part.input_source for part in parts]),
        input_amplitude=np.concatenate([part.input_amplitude for part in parts]),
        carried=carried.offsets,
        left=np.concatenate(left),
        left_start=np.concatenate(([0], np.cumsum(out.left))).astype(np.int64),
    )


def joined_left(out: records.Out, parts: list[Any], timestep: int) -> PendingEvents:
    """Return what is pending at the end; the run began at `timestep` of its stream."""
    ints = np.concatenate([part.ints[part.left] for part in parts])
    floats = np.concatenate([part.floats[part.left] for part in parts])
    return PendingEvents(
        sample=torch.from_numpy(np.repeat(np.arange(len(out.left)), out.left)),
        source=_integers(ints[:, codes.SOURCE]),
        amplitude=torch.from_numpy(floats[:, codes.AMPLITUDE].copy()),
        potential=torch.from_numpy(floats[:, codes.POTENTIAL].astype(np.float64)),
        timestep=_integers(ints[:, codes.TIMESTEP] + timestep),
        step=_integers(ints[:, codes.STEP]),
    )


def _integers(array: Ints) -> Tensor:
    # copied by numpy, on one thread: torch's threads would go on spinning beside the kernels
    return torch.from_numpy(array.astype(np.int64))


class NumbaLog(EventLog):
    """The event log of one timestep; what only its readers need is made when it is asked for.

    Attributes:
        rows: what the kernels read.
    """

    net: records.Net
    layered: bool
    rows: records.Log

    def __init__(self, net: records.Net, rules: records.Rules, rows: records.Log) -> None:
        self.__dict__.update(
            net=net,
            layered=rules.scheduler == codes.LAYERED,
            rows=rows,
            offsets=torch.from_numpy(np.append(rows.emitted[:, 0], len(rows.source))),
            carried=torch.from_numpy(rows.emitted[:, 1] - rows.emitted[:, 0]),
            amplitude=torch.from_numpy(rows.amplitude),
            potential=torch.from_numpy(rows.potential),
            current=torch.from_numpy(rows.current),
            left=torch.from_numpy(rows.left),
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
        event, projection = np.repeat(rows.deliveries, count), leaving[at]
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
