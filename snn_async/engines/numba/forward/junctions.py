"""What junctions pass on (docs/design.md, section 7), compiled; mirrors `engines.reference.junctions`."""

from snn_async.engines.numba.codes import (
    AND,
    CELL_CHANNELS,
    CELL_COUNT,
    INVERSE,
    MAX,
    NEXT_STEP,
    SUM,
    WINDOWS,
)
from snn_async.engines.numba.forward.events import emit
from snn_async.engines.numba.forward.vectors import fill
from snn_async.engines.numba.jit import Kernel, compiled


@compiled
def first_members(holder, offsets, positions, channels):
    """Let every unit be held by the first cell of its window."""
    for unit in range(len(holder)):
        window = unit // channels
        holder[unit] = positions[offsets[window]] * channels + unit - window * channels


@compiled
def passed_sums(cells, dirty, first, high, block, found):
    """Write the units of the next dirty block to `found`, (begin, end) and the block after."""
    while first < high and dirty[first] == 0:
        first += 1
    found[0], found[1], found[2] = first * block, (first + 1) * block, first + 1
    if first < high:
        dirty[first] = 0
        return True
    return False


@compiled
def windows_reached(dirty, low, high, block, channels, offsets, windows, dirty_unit, found):
    """Mark the units whose windows have a reached cell; write their bounds to `found`."""
    begin, end = len(dirty_unit), 0
    for q in range(low, high):
        if dirty[q] == 0:
            continue
        for cell in range(q * block, (q + 1) * block):
            position = cell // channels
            for entry in range(offsets[position], offsets[position + 1]):
                unit = windows[entry] * channels + cell - position * channels
                dirty_unit[unit] = 1
                begin, end = min(begin, unit), max(end, unit + 1)
    found[0], found[1] = begin, end


@compiled
def next_maximum(
    cells, dirty, block, channels, offsets, positions, dirty_unit, holder, maximum, first, end, change
):
    """Find the next unit that passes something on, with `change[0]`; -1 if there is none."""
    for unit in range(first, end):
        if dirty_unit[unit] == 0:
            continue
        dirty_unit[unit] = 0
        window = unit // channels
        channel, before = unit - window * channels, holder[unit]
        largest, now = cells[before], before
        for entry in range(offsets[window], offsets[window + 1]):
            cell = positions[entry] * channels + channel
            if cells[cell] > largest:
                largest, now = cells[cell], cell
        if now != before or dirty[before // block] != 0:
            holder[unit] = now
            change[0] = largest - maximum[unit]
            maximum[unit] = largest
            return unit
    return -1


def begin_junctions(net, work):
    """Empty all cells, at the start of a timestep."""
    fill(work.current[net.neurons :], 0)
    fill(work.maximum, 0)
    for n in range(net.populations, net.nodes):
        if net.node_kind[n] == MAX:
            unit = net.first_unit[n] - net.inputs - net.neurons
            columns = net.junction[n]
            first_members(
                work.holder[unit : unit + net.size[n]],
                net.window_offsets[columns[WINDOWS] :],
                net.window_positions,
                columns[CELL_CHANNELS],
            )


def pass_on(net, work, events, n):
    """Emit what a sum or max passes on of what reached it in this forward step."""
    low, high = work.bounds[n, 0], work.bounds[n, 1]
    if low >= high:
        return
    work.bounds[n, 0], work.bounds[n, 1] = len(work.dirty), 0
    columns, block, step = net.junction[n], net.block[n], work.now[NEXT_STEP]
    receiver, source = net.first_receiver[n], net.first_unit[n]
    cells = work.current[receiver : receiver + columns[CELL_COUNT]]
    dirty = work.dirty[net.block_start[n] : net.block_start[n + 1]]
    if net.node_kind[n] == SUM:
        while passed_sums(cells, dirty, low, high, block, work.found):
            for unit in range(work.found[0], work.found[1]):
                amount = cells[unit]
                cells[unit] = 0
                emit(work, events, source + unit, amount, amount, 0, step, -1, False)
            low = work.found[2]
        return
    channels, unit = columns[CELL_CHANNELS], net.first_unit[n] - net.inputs - net.neurons
    last = unit + net.size[n]
    dirty_unit, holder, maximum = work.dirty_unit[unit:last], work.holder[unit:last], work.maximum[unit:last]
    windows_reached(
        dirty,
        low,
        high,
        block,
        channels,
        net.inverse_offsets[columns[INVERSE] :],
        net.inverse_windows,
        dirty_unit,
        work.found,
    )
    at, end = work.found[0], work.found[1]
    while True:
        passing = next_maximum(
            cells,
            dirty,
            block,
            channels,
            net.window_offsets[columns[WINDOWS] :],
            net.window_positions,
            dirty_unit,
            holder,
            maximum,
            at,
            end,
            work.change,
        )
        if passing < 0:
            break
        amount = work.change[0]
        emit(work, events, source + passing, amount, amount, 0, step, holder[passing], False)
        at = passing + 1
    fill(dirty[low:high], 0)


def release(net, work, events, n):
    """Make the values of an "and" or "iand" pending that are not 0."""
    work.turn_step[n] = work.now[NEXT_STEP]
    step = max(work.now[NEXT_STEP] - 1, 0)
    a, size = net.first_receiver[n], net.size[n]
    for unit in range(size):
        left, right = work.current[a + unit], work.current[a + size + unit]
        value = left * right if net.node_kind[n] == AND else left * (1 - right)
        if value != 0:
            emit(work, events, net.first_unit[n] + unit, value, value, 0, step, -1, True)


BEGIN_JUNCTIONS, PASS_ON, RELEASE = Kernel(begin_junctions), Kernel(pass_on), Kernel(release)
