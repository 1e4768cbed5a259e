"""What one chunk of samples needs while it runs and while it is replayed."""

from typing import Any

import numpy as np

from snn_async.engines.numba import codes, records

MOST_ROWS = 1 << 22  # that a chunk makes room for at first
_INTS = ("source", "step", "timestep", "delivered_step", "cell", "deliveries", "pending", "chosen", "sources")
_FLOATS = ("amplitude", "potential", "current", "amplitudes")


def work_of(net: records.Net, tensors: records.Tensors, room: int) -> records.Work:
    """Return scratch for groups of up to `room` events."""
    n, dtype, units = net.neurons, tensors.x.dtype, len(net.node_of) - net.inputs - net.neurons
    blocks, words = net.block_start[net.populations], np.zeros(max(n, net.inputs) // 8 + 1, dtype=np.int64)
    return records.Work(
        current=np.zeros(n + net.cells, dtype=dtype),
        base=np.zeros(n, dtype=dtype),
        gain=np.zeros(n, dtype=dtype),
        compare=np.zeros(n, dtype=dtype),
        held=np.zeros(n, dtype=dtype),
        ignoring=np.zeros(n, dtype=bool),
        residual=np.zeros(n, dtype=dtype),
        count=np.zeros(n, dtype=np.int32),
        last_spike=np.zeros(n, dtype=np.int32),
        last_evaluation=np.zeros(blocks, dtype=np.int32),
        able=np.zeros(blocks, dtype=np.int32),
        turn=np.zeros(net.nodes, dtype=np.int64),
        turn_step=np.zeros(net.nodes, dtype=np.int64),
        recurrent=np.zeros(net.nodes, dtype=bool),
        dirty=np.zeros(net.block_start[-1], dtype=np.uint8),
        bounds=np.zeros((net.nodes, 2), dtype=np.int64),
        dirty_unit=np.zeros(units, dtype=np.uint8),
        holder=np.zeros(units, dtype=np.int32),
        maximum=np.zeros(units, dtype=dtype),
        change=np.zeros(1, dtype=dtype),
        flags=words.view(np.uint8),
        words=words,
        found=np.zeros(n + 3, dtype=np.int64),
        bins=np.zeros(net.nodes + 3, dtype=np.int64),
        leads=np.zeros(net.nodes + 1, dtype=np.uint8),
        own=np.zeros(room, dtype=np.int32),
        factors=np.zeros(room, dtype=dtype),
        summed=np.zeros(net.most_cells, dtype=dtype),
        **_room_for_runs(net, dtype),
        now=np.zeros(codes.SCALARS, dtype=np.int64),
    )


def rooms_of(
    net: records.Net, rules: records.Rules, dtype: np.dtype, frames: int, keep_log: bool
) -> tuple[records.Events, records.Rooms]:
    """Return room for the events of `frames` timesteps, all samples' together.

    Room that is never used is never resident; running a sample again takes longer than asking for much.
    """
    units = len(net.node_of) - net.inputs
    room = (units + net.inputs) * 2 + min(frames * units, MOST_ROWS)
    ints = {name: np.empty(room, dtype=np.int32) for name in _INTS}
    floats = {name: np.empty(room, dtype=dtype) for name in _FLOATS}
    events = records.Events(**ints, **floats, key=np.empty(room, dtype=np.float64))
    inputs = net.inputs + 1 + (min(frames * net.inputs, MOST_ROWS) if keep_log else 0)
    rooms = records.Rooms(
        input_source=np.empty(inputs, dtype=np.int32),
        input_amplitude=np.empty(inputs, dtype=dtype),
        left=np.empty(room if rules.carry else 0, dtype=np.int32),
        ranges=np.zeros((net.nodes, 2), dtype=np.int64),
    )
    return events, rooms


def enlarged(
    work: records.Work, events: records.Events, rooms: records.Rooms
) -> tuple[records.Work, records.Events, records.Rooms]:
    return (
        work._replace(own=_doubled(work.own), factors=_doubled(work.factors)),
        records.Events(*(_doubled(array) for array in events)),
        rooms._replace(
            input_source=_doubled(rooms.input_source),
            input_amplitude=_doubled(rooms.input_amplitude),
            left=_doubled(rooms.left),
        ),
    )


def _doubled(array: np.ndarray) -> np.ndarray:
    bigger = np.empty((2 * len(array), *array.shape[1:]), dtype=array.dtype)
    bigger[: len(array)] = array
    return bigger


def _room_for_runs(net: records.Net, dtype: np.dtype) -> dict[str, Any]:
    """Scratch for the runs of one event."""
    return {
        "runs": np.zeros((net.most_runs, 4), dtype=np.int64),
        "coefficients": np.zeros(net.most_runs, dtype=dtype),
    }


def adjoints_of(
    net: records.Net, log: records.Log, dtype: np.dtype, first: int, last: int
) -> records.Adjoints:
    """Scratch of one chunk, with room for the events of its busiest sample."""
    emitted = log.emitted[first:last, -1] - log.emitted[first:last, 0]
    delivered = log.delivered[first:last, -1] - log.delivered[first:last, 0]
    n, room = net.neurons, int(max(emitted.max(), delivered.max()))
    units, cells, fan_in = len(net.node_of) - net.inputs - n, net.most_cells, net.most_sources
    first_room = room if net.first_counts.any() else 0

    def floats(size: int) -> np.ndarray:
        return np.zeros(size, dtype=dtype)

    def ints(size: int) -> np.ndarray:
        return np.zeros(size, dtype=np.int64)

    return records.Adjoints(
        potential=floats(n),
        kept=floats(n),
        arrived=floats(n),
        gain=floats(n),
        threshold=floats(n),
        own_gain=floats(n),
        counts=floats(n),
        recurrent=floats(n),
        silent=floats(n + units),
        last=floats(n),
        last_step=np.zeros(n, dtype=np.int32),
        after=floats(n),
        slot=floats(cells),
        slot_step=np.zeros(cells, dtype=np.int32),
        slot_after=floats(cells),
        first=floats(cells),
        first_step=np.zeros(cells, dtype=np.int32),
        would_be=floats(cells),
        start=floats(cells),
        early=floats(units),
        extra_neuron=ints(room),
        extra_step=ints(room),
        extra=floats(room),
        rows=floats(room),
        first_rows=floats(first_room),
        previous=np.zeros(first_room, dtype=np.int32),
        holder=np.zeros(units, dtype=np.int32),
        cells=floats(cells),
        start_cells=floats(cells),
        at=ints(2),
        emissions=ints(room),
        emission_start=ints(net.nodes + 3),
        deliveries=ints(room),
        delivery_start=ints(net.nodes + 3),
        sources=np.zeros(max(room, fan_in) + 1, dtype=np.int32),
        amplitudes=floats(max(room, fan_in) + 1),
        active=np.zeros(fan_in, dtype=np.uint8),
        **_room_for_runs(net, dtype),
        merged=np.zeros((net.most_runs, 2), dtype=np.int64),
        patch=floats(net.most_patch),
        chosen=ints(fan_in),
        totals=floats(4),
        slope=floats(n),
        one=np.ones(1, dtype=dtype),
        unused=floats(1),
    )
