"""The numba engine's gradient: the masked sum of docs/design.md, section 5, differentiated by hand.

Within a timestep, nodes go in reverse topological order: a node's adjoints need only its targets'. The adjoint of a
current that lands on neuron i in forward step d is that of i's first decisive evaluation not before d, or, after the
last one, that of the carried potential (refractory "integrate"). The adjoint of what a junction's unit passed on makes
those of what reached its cells (`numba_holds`). Behind a barrier every delivery counts as forward step 0.
"""

from snn_async.engines.numba.adjoints import (
    accumulate,
    active_neurons,
    delayed_subtract_adjoint,
    emission_timestep,
    leak_adjoint,
    list_events,
    masked,
    retest_adjoint,
    rewind,
    scaled,
    silent_evaluations,
    sort_deliveries,
    sort_emissions,
    zero_inputs,
)
from snn_async.engines.numba.holds import (
    find_previous,
    follow_maximum,
    follow_sum,
    joined_adjoints,
    start_maximum,
    would_be_maximum,
)
from snn_async.engines.numba.junctions import first_members
from snn_async.engines.numba.records import (
    AND,
    CELL_CHANNELS,
    CELL_COUNT,
    INTEGRATE,
    LAYERED,
    MAX,
    SUBTRACT,
    SUM,
    VALUE,
    WINDOWS,
    inlined,
)
from snn_async.engines.numba.synapses import (
    add_outer,
    add_projection,
    dense_adjoints,
    event_adjoint,
    first_adjoint,
)
from snn_async.engines.numba.vectors import active_sources, copy, scale_range, set_where_fired

ALWAYS = 1 << 30  # a forward step after all others


@inlined
def spike_evaluation(net, grads, threshold, p, i, u, slope, adjoint, current):
    """Adjoint of the potential before a decisive evaluation that spiked from the one after it."""
    through = current
    if not net.delayed[p]:
        if net.reset[p] == SUBTRACT:
            grads.threshold[i] -= current
            if not net.detach[p]:
                adjoint -= threshold * current
        elif net.reset[p] == VALUE:
            through = current * 0
            if not net.detach[p]:
                adjoint += (u.dtype.type(net.reset_value[p]) - u[0]) * current
    grads.threshold[i] -= slope * adjoint
    return through + slope * adjoint


@inlined
def decisive_evaluations(net, tensors, log, grads, adj, first_row, t, b, p, fired):
    """Fill the slots of population p; return how many extra evaluations there are."""
    a, z = net.start[p], net.start[p + 1]
    through = not net.delayed[p] and not net.detach[p]
    one = tensors.x.dtype.type(1)
    silent_evaluations(
        one if through and net.reset[p] == SUBTRACT else one * 0,
        one if through and net.reset[p] == VALUE else one * 0,
        tensors.x.dtype.type(net.reset_value[p]),
        tensors.threshold[a:z],
        log.silent_potential[t, b, a:z],
        log.silent_slope[t, b, a:z],
        log.silent_step[t, b, a:z],
        adj.silent[a:z],
        adj.counts[a:z],
        adj.current[a:z],
        adj.last[a:z],
        adj.last_step[a:z],
        grads.threshold[a:z],
    )
    adj.after[a:z] = 0
    extras = 0
    for place in range(adj.emission_start[p + 2] - 1, adj.emission_start[p + 1] - 1, -1):
        row = adj.emissions[place]
        i = log.source[row] - net.inputs
        adjoint = adj.rows[row - first_row] + adj.counts[i]
        kept = adj.current[i]
        adj.current[i] = spike_evaluation(
            net,
            grads,
            tensors.threshold[i],
            p,
            i,
            log.potential[row : row + 1],
            log.slope[row],
            adjoint,
            kept,
        )
        if adj.last_step[i] < 0:
            adj.last_step[i] = log.step[row]
            adj.last[i] = adj.current[i]
            if net.refractory[p] == INTEGRATE:
                adj.after[i] = kept
        else:
            swallowed = net.swallow[p] and fired[i] > 0
            adj.extra_neuron[extras] = i - a
            adj.extra_step[extras] = log.step[row]
            adj.extra[extras] = 0 if swallowed else adj.current[i]
            extras += 1
    if net.swallow[p]:
        set_where_fired(adj.last[a:z], fired[a:z], one * 0)
        set_where_fired(adj.after[a:z], fired[a:z], one * 0)
        set_where_fired(adj.current[a:z], fired[a:z], one * 0)
    return extras


@inlined
def prepare_junction(net, rules, tensors, log, adj, first_row, t, b, n, needs_x):
    """Fill `cells` and `start_cells`: adjoints of cells for what is silent, and for zero inputs of step 0."""
    columns, size = net.junction[n], net.size[n]
    rows = adj.emissions[adj.emission_start[n + 1] : adj.emission_start[n + 2]]
    first_unit, unit = net.first_unit[n], net.first_unit[n] - net.inputs - net.neurons
    silent = adj.silent[net.neurons + unit : net.neurons + unit + size]
    cells, start = adj.cells[: columns[CELL_COUNT]], adj.start_cells[: columns[CELL_COUNT]]
    barrier = rules.scheduler == LAYERED
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
                barrier,
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
        cells[:] = 0
        if log.turn_step[t, b, n] >= 0:
            totals(net, rules, tensors, log, adj, t, b, n, cells)
            for row in rows:
                silent[log.source[row] - first_unit] = adj.rows[row - first_row]
            joined_adjoints(net.node_kind[n] == AND, silent, cells)
        copy(start, cells)


@inlined
def totals(net, rules, tensors, log, adj, t, b, n, cells):
    """Add up what reached the cells of a waiting junction."""
    for k in range(len(net.target)):
        if net.target[k] != n:
            continue
        q, first = net.source[k], net.first_target[k] - net.first_receiver[n]
        rows = adj.deliveries[adj.delivery_start[q + 1] : adj.delivery_start[q + 2]]
        list_events(rows, log.source, log.amplitude, adj.sources, adj.amplitudes)
        count = len(rows)
        if q < 0 and not rules.queued:
            at = b * tensors.x.shape[0] + t
            c, e = log.inputs[at], log.inputs[at + 1]
            count = e - c
            copy(adj.sources[:count], log.input_source[c:e])
            copy(adj.amplitudes[:count], log.input_amplitude[c:e])
        add_projection(
            net,
            tensors,
            k,
            cells[first : first + net.fan_out[k]],
            adj.sources[:count],
            adj.amplitudes[:count],
            t,
            b,
            adj.runs,
            adj.coefficients,
            adj.active[:0],
            adj.at,
        )


@inlined
def open_slots(adj, a, z, scale):
    """Copy a population's slots as a projection sees them, standing after the last evaluation."""
    scaled(adj.slot[: z - a], adj.last[a:z], scale)
    copy(adj.slot_step[: z - a], adj.last_step[a:z])
    scaled(adj.slot_after[: z - a], adj.after[a:z], scale)


@inlined
def open_cells(net, adj, n, first, size, scale):
    """The same for cells of a junction: nothing has been passed on after the last step."""
    adj.slot_step[:size] = ALWAYS
    adj.first_step[:size] = ALWAYS
    scaled(adj.would_be[:size], adj.cells[first : first + size], scale)
    scaled(adj.start[:size], adj.start_cells[first : first + size], scale)
    if net.node_kind[n] >= AND:
        copy(adj.slot[:size], adj.would_be[:size])
        copy(adj.first[:size], adj.would_be[:size])
    else:
        adj.slot[:size] = 0
        adj.first[:size] = 0
    adj.at[0] = adj.at[1] = adj.emission_start[n + 2] - adj.emission_start[n + 1] - 1


@inlined
def follow(net, rules, log, adj, first_row, n, step, scale):
    """Go back to forward step `step` at the cells of a junction."""
    rows = adj.emissions[adj.emission_start[n + 1] : adj.emission_start[n + 2]]
    barrier = rules.scheduler == LAYERED
    if net.node_kind[n] == SUM:
        first_rows = adj.first_rows if net.first_counts[n] else adj.first_rows[:0]
        follow_sum(
            rows,
            adj.at,
            step,
            barrier,
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
            barrier,
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


@inlined
def all_sources(net, adj, k, weights, slot, rows, scale, adjoints):
    """Add the adjoints of all active sources of projection k."""
    dense_adjoints(
        net.geometry[k],
        net.table_offsets,
        net.table_positions,
        net.table_values,
        weights,
        slot,
        adj.active[:rows],
        scale,
        adjoints,
        adj.runs,
        adj.coefficients,
        adj.merged,
        adj.patch,
        adj.chosen,
        adj.totals,
    )


@inlined
def outer(net, adj, k, grads, slot, sources, amplitudes, scale):
    add_outer(
        net.geometry[k],
        net.table_offsets,
        net.table_positions,
        net.table_values,
        grads,
        slot,
        sources,
        amplitudes,
        scale,
        adj.runs,
        adj.coefficients,
    )


@inlined
def at_turn(net, tensors, log, grads, adj, t, b, p, k, extras, weights, weight_grads, scales, fired):
    """What arrives at a population's turn: gradients of biases, and of last timestep's spikes and their weights."""
    turn, size, rows = log.turn_step[t, b, p], net.fan_out[k], net.fan_in[k]
    if turn < 0:
        return
    source_scale, target_scale = scales
    slot, slot_step, adjoints = adj.slot[:size], adj.slot_step[:size], adj.would_be[:size]
    open_slots(adj, net.start[p], net.start[p + 1], target_scale)
    rewind(slot, slot_step, adj.extra_neuron, adj.extra_step, adj.extra, target_scale, 0, extras, turn)
    masked(adjoints, slot, slot_step, adj.slot_after[:size], turn)
    accumulate(grads.biases[net.bias_start[k] : net.bias_start[k] + size], adjoints)
    if net.delayed_edge[k]:
        first = net.first_source[k] - net.inputs
        count = active_sources(fired[first : first + rows], adj.sources, adj.amplitudes, 0)
        outer(net, adj, k, weight_grads, adjoints, adj.sources[:count], adj.amplitudes[:count], source_scale)
        if t > 0:
            adj.active[:rows] = 1
            all_sources(
                net, adj, k, weights, adjoints, rows, source_scale, adj.recurrent[first : first + rows]
            )


@inlined
def projection(net, rules, tensors, log, grads, adj, first_row, t, b, n, k, extras, fired):
    """Through projection k into node n: gradients of its weights and biases, adjoints of its sources."""
    q, rows, size, begin = net.source[k], net.fan_in[k], net.fan_out[k], net.weight_start[k]
    weights = tensors.weights[begin : begin + net.weight_count[k]]
    weight_grads = grads.weights[begin : begin + net.weight_count[k]]
    samples, into_population = tensors.x.shape[1], n < net.populations
    c, d = scale_range(tensors.source_scale_start[k], rows, samples, t, b)
    source_scale = tensors.scales[c:d]
    c, d = scale_range(tensors.target_scale_start[k], size, samples, t, b)
    target_scale = tensors.scales[c:d]
    slot, slot_step, after = adj.slot[:size], adj.slot_step[:size], adj.slot_after[:size]
    first, first_step = adj.first[:size], adj.first_step[:size]
    neurons, steps, rewound = adj.extra_neuron, adj.extra_step, adj.extra
    if into_population:
        scales = (source_scale, target_scale)
        at_turn(net, tensors, log, grads, adj, t, b, n, k, extras, weights, weight_grads, scales, fired)
        if net.delayed_edge[k]:
            return
        open_slots(adj, net.start[n], net.start[n + 1], target_scale)
        copy(first, slot)
        copy(first_step, slot_step)
        rewind(first, first_step, neurons, steps, rewound, target_scale, 0, extras, 0)
        copy(adj.would_be[:size], first)
        copy(adj.start[:size], first)
    else:
        open_cells(net, adj, n, net.first_target[k] - net.first_receiver[n], size, target_scale)
    extra = 0
    counts_first = q >= net.populations and net.first_counts[q]
    for place in range(adj.delivery_start[q + 2] - 1, adj.delivery_start[q + 1] - 1, -1):
        row = adj.deliveries[place]
        step = 0 if rules.scheduler == LAYERED else log.delivered_step[row]
        if not into_population:
            follow(net, rules, log, adj, first_row, n, step, target_scale)
        elif extra < extras:
            extra = rewind(slot, slot_step, neurons, steps, rewound, target_scale, extra, extras, step)
        j = log.source[row] - net.first_source[k]
        scale = source_scale[j] if len(source_scale) > 0 else tensors.x.dtype.type(1)
        if scale == 0:
            continue
        adjoint = scale * event_adjoint(
            net.geometry[k],
            net.table_offsets,
            net.table_positions,
            net.table_values,
            weights,
            weight_grads,
            j,
            slot,
            slot_step,
            after,
            step,
            scale * log.amplitude[row],
            adj.runs,
            adj.coefficients,
        )
        if q >= 0:
            adj.rows[row - first_row] += adjoint
        elif len(grads.x) > 0 and row >= log.emitted[b, 1]:
            grads.x[emission_timestep(log.emitted[b], row), b, j] += adjoint
        if counts_first:
            adj.first_rows[row - first_row] += scale * first_adjoint(
                net.geometry[k],
                net.table_offsets,
                net.table_positions,
                net.table_values,
                weights,
                j,
                first,
                first_step,
                step,
                adj.runs,
                adj.coefficients,
            )
    needs_x = len(grads.x) > 0
    if q < 0 and not rules.queued:
        at = b * tensors.x.shape[0] + t
        c, e = log.inputs[at], log.inputs[at + 1]
        if not into_population:
            follow(net, rules, log, adj, first_row, n, 0, target_scale)
            copy(first, slot)
        outer(net, adj, k, weight_grads, first, log.input_source[c:e], log.input_amplitude[c:e], source_scale)
    elif q >= 0 or needs_x:  # what was silent
        c = net.first_unit[q] - net.inputs if q >= 0 else 0
        adjoints = adj.silent[c : c + rows] if q >= 0 else grads.x[t, b]
        if q < 0:
            zero_inputs(adj.active[:rows], tensors.x[t, b])
        elif q < net.populations:
            z = c + rows
            active_neurons(adj.active[:rows], log.silent_step[t, b, c:z], log.silent_slope[t, b, c:z])
        else:
            adj.active[:rows] = 1
        all_sources(net, adj, k, weights, adj.would_be[:size], rows, source_scale, adjoints)
    if needs_x and not rules.queued and (q < 0 or net.near_input[q]):
        c = net.first_unit[q] - net.inputs - net.neurons if q >= 0 else 0
        adjoints = adj.early[c : c + rows] if q >= 0 else grads.x[t, b]
        adj.active[:rows] = 1
        all_sources(net, adj, k, weights, adj.start[:size], rows, source_scale, adjoints)


@inlined
def leak_and_reset(net, tensors, grads, adj, p, v, fired):
    """From the adjoint of the potential at the timestep's start to that of the one kept before."""
    a, z = net.start[p], net.start[p + 1]
    current, before, fired = adj.current[a:z], adj.slot[: z - a], fired[a:z]
    zero = tensors.x.dtype.type(0)
    copy(before, v[a:z])
    value_delayed = net.delayed[p] and net.reset[p] == VALUE
    if value_delayed:
        set_where_fired(before, fired, tensors.x.dtype.type(net.reset_value[p]))
    if net.delayed[p] and net.reset[p] == SUBTRACT:
        delayed_subtract_adjoint(current, fired, grads.threshold[a:z])
    if net.retest[p]:
        retest_adjoint(current, adj.kept[a:z], before, tensors.compare[a:z], grads.threshold[a:z])
    leak_adjoint(current, before, tensors.leak[a:z], grads.leak[a:z], grads.offset[a:z])
    if value_delayed:
        set_where_fired(current, fired, zero)


@inlined
def replay_chunk(net, rules, tensors, log, run, grads, adj, first_sample, last_sample):
    """Add the gradients of samples first_sample .. last_sample - 1 to `grads`."""
    steps, needs_x = tensors.x.shape[0], len(grads.x) > 0 and not rules.queued
    for b in range(first_sample, last_sample):
        first_row = log.emitted[b, 0]
        adj.rows[: log.emitted[b, steps + 1] - first_row] = 0
        adj.first_rows[: log.emitted[b, steps + 1] - first_row] = 0
        adj.current[:] = 0
        adj.recurrent[:] = 0
        for t in range(steps - 1, -1, -1):
            v = run.potentials[t - 1, b] if t > 0 else tensors.potentials[b]
            fired = run.spikes[t - 1, b] if t > 0 else tensors.spikes[b]
            if len(run.grad_potentials) > 0:
                accumulate(adj.current, run.grad_potentials[t, b])
            copy(adj.kept, adj.current)
            copy(adj.counts, adj.recurrent)
            if len(run.grad_spikes) > 0:
                accumulate(adj.counts, run.grad_spikes[t, b])
            adj.recurrent[:] = 0
            adj.silent[:] = 0
            adj.early[:] = 0
            first, last = log.emitted[b, 1 + t], log.emitted[b, 2 + t]
            sort_emissions(first, log.source[first:last], net.node_of, adj.emissions, adj.emission_start)
            first, last = log.delivered[b, t], log.delivered[b, t + 1]
            rows = log.deliveries[first:last]
            sort_deliveries(rows, log.source, net.node_of, adj.deliveries, adj.delivery_start)
            for place in range(net.nodes - 1, -1, -1):
                n, extras = net.order[place], 0
                if n < net.populations:
                    extras = decisive_evaluations(net, tensors, log, grads, adj, first_row, t, b, n, fired)
                else:
                    prepare_junction(net, rules, tensors, log, adj, first_row, t, b, n, needs_x)
                for k in range(len(net.target)):
                    if net.target[k] == n:
                        projection(net, rules, tensors, log, grads, adj, first_row, t, b, n, k, extras, fired)
                if n < net.populations:
                    leak_and_reset(net, tensors, grads, adj, n, v, fired)
        copy(grads.potentials[b], adj.current)
