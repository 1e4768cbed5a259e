"""One projection in one timestep, on the way back: gradients of its weights and biases, adjoints of its sources."""

from snn_async.engines.numba.backward.adjoints import (
    accumulate,
    active_neurons,
    masked,
    rewind,
    scaled,
    zero_inputs,
)
from snn_async.engines.numba.backward.cells import follow, open_cells, step_of
from snn_async.engines.numba.backward.credit import add_outer, dense_adjoints, event_adjoint, first_adjoint
from snn_async.engines.numba.forward.vectors import active_sources, copy, scale_range
from snn_async.engines.numba.jit import inlined


@inlined
def open_slots(adj, a, z, scale):
    """Copy a population's slots as a projection sees them, standing after the last evaluation."""
    scaled(adj.slot[: z - a], adj.last[a:z], scale)
    copy(adj.slot_step[: z - a], adj.last_step[a:z])
    scaled(adj.slot_after[: z - a], adj.after[a:z], scale)


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
def outer(net, adj, k, grads, slot, sources, amplitudes, first_source, scale):
    add_outer(
        net.geometry[k],
        net.table_offsets,
        net.table_positions,
        net.table_values,
        grads,
        slot,
        sources,
        amplitudes,
        first_source,
        net.fan_in[k],
        scale,
        adj.runs,
        adj.coefficients,
    )


@inlined
def at_turn(net, tensors, log, grads, adj, t, b, p, k, extras, weights, weight_grads, scales, last_spikes):
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
        count = active_sources(last_spikes[first : first + rows], adj.sources, adj.amplitudes, 0)
        outer(
            net, adj, k, weight_grads, adjoints, adj.sources[:count], adj.amplitudes[:count], 0, source_scale
        )
        adj.active[:rows] = 1
        all_sources(net, adj, k, weights, adjoints, rows, source_scale, adj.recurrent[first : first + rows])


@inlined
def projection(net, rules, tensors, log, run, grads, adj, first_row, t, b, n, k, extras, last_spikes):
    """Through projection k into node n: gradients of its weights and biases, adjoints of its sources."""
    q, rows, size = net.source[k], net.fan_in[k], net.fan_out[k]
    w, x = net.weight_start[k], net.weight_start[k] + net.weight_count[k]
    weights = tensors.weights[w:x] if w < x else tensors.one
    weight_grads = grads.weights[w:x] if w < x else adj.unused
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
        at_turn(net, tensors, log, grads, adj, t, b, n, k, extras, weights, weight_grads, scales, last_spikes)
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
        j = log.source[row] - net.first_source[k]
        if j < 0 or j >= rows:  # of another input
            continue
        step = step_of(rules, log, t, b, n, log.delivered_step[row])
        if not into_population:
            follow(net, log, adj, first_row, n, step, target_scale)
        elif extra < extras:
            extra = rewind(slot, slot_step, neurons, steps, rewound, target_scale, extra, extras, step)
        scale = source_scale[j] if len(source_scale) > 0 else tensors.x.dtype.type(1)
        if scale == 0:
            continue
        adj.rows[row - first_row] += scale * event_adjoint(
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
            follow(net, log, adj, first_row, n, step_of(rules, log, t, b, n, 0), target_scale)
            copy(first, slot)
        inputs, values = log.input_source[c:e], log.input_amplitude[c:e]
        outer(net, adj, k, weight_grads, first, inputs, values, net.first_source[k], source_scale)
    elif q >= 0 or needs_x:  # what was silent
        c = net.first_source[k] - net.inputs if q >= 0 else net.first_source[k]
        adjoints = adj.silent[c : c + rows] if q >= 0 else grads.x[t, b, c : c + rows]
        if q < 0:
            zero_inputs(adj.active[:rows], tensors.x[t, b, c : c + rows])
        elif q < net.populations:
            z = c + rows
            active_neurons(adj.active[:rows], log.silent_step[t, b, c:z], run.silent_slope[t, b, c:z])
        else:
            adj.active[:rows] = 1
        all_sources(net, adj, k, weights, adj.would_be[:size], rows, source_scale, adjoints)
    if needs_x and not rules.queued and (q < 0 or net.near_input[q]):
        c = net.first_source[k] - net.inputs - net.neurons if q >= 0 else net.first_source[k]
        adjoints = adj.early[c : c + rows] if q >= 0 else grads.x[t, b, c : c + rows]
        adj.active[:rows] = 1
        all_sources(net, adj, k, weights, adj.start[:size], rows, source_scale, adjoints)
