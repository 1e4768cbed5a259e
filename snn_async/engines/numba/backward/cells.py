"""Adjoints of what reaches a junction's cells in one timestep."""

from snn_async.engines.numba.backward.adjoints import list_events, scaled
from snn_async.engines.numba.backward.holds import (
    find_previous,
    follow_maximum,
    follow_sum,
    joined_adjoints,
    start_maximum,
    would_be_maximum,
)
from snn_async.engines.numba.codes import (
    AND,
    CELL_CHANNELS,
    CELL_COUNT,
    LAYERED,
    MAX,
    NEVER,
    SUM,
    WINDOWS,
    B,
    T,
)
from snn_async.engines.numba.forward.junctions import first_members
from snn_async.engines.numba.forward.vectors import copy, fill
from snn_async.engines.numba.jit import Kernel, call, inlined


@inlined
def step_of(rules, log, t, b, n, step):
    """The forward step in which node n gets what was delivered in `step`: behind a barrier its own."""
    return log.turn_step[t, b, n] if rules.scheduler == LAYERED else step


def prepare_junction(net, rules, tensors, log, adj, work, kernels, first_row, n, needs_x):
    """Fill `cells` and `start_cells`: adjoints of cells for what is silent, and for zero inputs of step 0."""
    columns, size, t, b = net.junction[n], net.size[n], work.now[T], work.now[B]
    rows = adj.emissions[adj.emission_start[n + 1] : adj.emission_start[n + 2]]
    first_unit, unit = net.first_unit[n], net.first_unit[n] - net.inputs - net.neurons
    silent = adj.silent[net.neurons + unit : net.neurons + unit + size]
    cells, start = adj.cells[: columns[CELL_COUNT]], adj.start_cells[: columns[CELL_COUNT]]
    if net.node_kind[n] == SUM:
        copy(cells, silent)
        copy(start, adj.early[unit : unit + size])
    elif net.node_kind[n] == MAX:
        holder, windows = adj.holder[:size], net.window_offsets[columns[WINDOWS] :]
        first_members(holder, windows, net.window_positions, columns[CELL_CHANNELS])
        find_previous(rows, log.source, log.cell, first_unit, first_row, holder, adj.previous)
        first_members(holder, windows, net.window_positions, columns[CELL_CHANNELS])
        would_be_maximum(rows, log.cell, adj.previous, first_row, adj.first_rows, holder, silent, cells)
        if needs_x and net.near_input[n]:
            start_maximum(
                rows,
                step_of(rules, log, t, b, n, 0),
                log.step,
                log.source,
                log.cell,
                adj.previous,
                first_unit,
                first_row,
                adj.rows,
                holder,
                adj.early[unit : unit + size],
                start,
            )
    else:
        fill(cells, 0)
        if log.turn_step[t, b, n] >= 0:
            totals(net, rules, tensors, log, adj, work, kernels, t, b, n, cells)
            for row in rows:
                silent[log.source[row] - first_unit] = adj.rows[row - first_row]
            joined_adjoints(net.node_kind[n] == AND, silent, cells)
        copy(start, cells)


@inlined
def totals(net, rules, tensors, log, adj, work, kernels, t, b, n, cells):
    """Add up what reached the cells of a waiting junction."""
    for k in range(len(net.target)):
        if net.target[k] != n:
            continue
        q, first = net.source[k], net.first_target[k] - net.first_receiver[n]
        rows = adj.deliveries[adj.delivery_start[q + 1] : adj.delivery_start[q + 2]]
        list_events(rows, log.source, log.amplitude, adj.sources, adj.amplitudes)
        count = len(rows)
        if q < 0 and not rules.queued:
            c, e = log.inputs[b, t], log.inputs[b, t + 1]
            count = e - c
            copy(adj.sources[:count], log.input_source[c:e])
            copy(adj.amplitudes[:count], log.input_amplitude[c:e])
        into = cells[first : first + net.fan_out[k]]
        call(kernels.add[k], (net, tensors, work, k, into, adj.sources[:count], adj.amplitudes[:count]))


@inlined
def open_cells(net, adj, n, first, size, scale):
    """The same for cells of a junction: nothing has been passed on after the last step."""
    fill(adj.slot_step[:size], NEVER)
    fill(adj.first_step[:size], NEVER)
    scaled(adj.would_be[:size], adj.cells[first : first + size], scale)
    scaled(adj.start[:size], adj.start_cells[first : first + size], scale)
    if net.node_kind[n] >= AND:
        copy(adj.slot[:size], adj.would_be[:size])
        copy(adj.first[:size], adj.would_be[:size])
    else:
        fill(adj.slot[:size], 0)
        fill(adj.first[:size], 0)
    adj.at[0] = adj.at[1] = adj.emission_start[n + 2] - adj.emission_start[n + 1] - 1


@inlined
def follow(net, log, adj, first_row, n, step, scale):
    """Go back to forward step `step` at the cells of a junction."""
    rows = adj.emissions[adj.emission_start[n + 1] : adj.emission_start[n + 2]]
    if net.node_kind[n] == SUM:
        first_rows = adj.first_rows if net.first_counts[n] else adj.first_rows[:0]
        follow_sum(
            rows,
            adj.at,
            step,
            log.step,
            log.source,
            net.first_unit[n],
            first_row,
            adj.rows,
            first_rows,
            scale,
            adj.slot,
            adj.first,
        )
    elif net.node_kind[n] == MAX:
        follow_maximum(
            rows,
            adj.at,
            step,
            log.step,
            log.cell,
            adj.previous,
            first_row,
            adj.rows,
            adj.first_rows,
            scale,
            adj.slot,
            adj.first,
        )


PREPARE_JUNCTION = Kernel(prepare_junction)
