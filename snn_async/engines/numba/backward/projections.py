"""One projection in one timestep, on the way back: gradients of its weights and biases, adjoints of its sources.

`back_dense` is for what is fully connected, from inputs or a population into a population; `back_other` for the rest.
"""

from snn_async.engines.numba.backward.adjoints import (
    accumulate,
    active_neurons,
    masked,
    rewind,
    scaled,
    zero_inputs,
)
from snn_async.engines.numba.backward.cells import follow, open_cells, step_of
from snn_async.engines.numba.backward.credit import (
    add_outer,
    all_rows,
    all_runs,
    event_adjoint,
    first_adjoint,
    masked_row,
    outer_row,
)
from snn_async.engines.numba.codes import B, T
from snn_async.engines.numba.forward.synapses import own_events
from snn_async.engines.numba.forward.vectors import copy, fill, nonzero, scale_range
from snn_async.engines.numba.jit import Kernel, inlined


@inlined
def _open_slots(adj, a, z, scale):
    """Copy a population's slots as a projection sees them, standing after the last evaluation."""
    scaled(adj.slot[: z - a], adj.last[a:z], scale)
    copy(adj.slot_step[: z - a], adj.last_step[a:z])
    scaled(adj.slot_after[: z - a], adj.after[a:z], scale)


@inlined
def _first_slots(adj, size, scale, extras):
    """Go on to the adjoints that first decisive evaluations have."""
    copy(adj.first[:size], adj.slot[:size])
    copy(adj.first_step[:size], adj.slot_step[:size])
    rewind(
        adj.first[:size],
        adj.first_step[:size],
        adj.extra_neuron,
        adj.extra_step,
        adj.extra,
        scale,
        0,
        extras,
        0,
    )


@inlined
def _adjoints_at_turn(net, tensors, log, grads, adj, t, b, n, k, extras, scale):
    """Fill `would_be` with what arrives at a population's turn, take up the gradient of biases."""
    turn, size = log.turn_step[t, b, n], net.fan_out[k]
    slot, slot_step, adjoints = adj.slot[:size], adj.slot_step[:size], adj.would_be[:size]
    _open_slots(adj, net.start[n], net.start[n + 1], scale)
    rewind(slot, slot_step, adj.extra_neuron, adj.extra_step, adj.extra, scale, 0, extras, turn)
    masked(adjoints, slot, slot_step, adj.slot_after[:size], turn)
    accumulate(grads.biases[net.bias_start[k] : net.bias_start[k] + size], adjoints)


def back_dense(net, rules, tensors, log, run, grads, adj, work, first_row, n, k, extras):
    t, b = work.now[T], work.now[B]
    q, rows, size, samples = net.source[k], net.fan_in[k], net.fan_out[k], tensors.x.shape[1]
    w, a, z = net.weight_start[k], net.start[n], net.start[n + 1]
    weights, weight_grads = tensors.weights[w : w + rows * size], grads.weights[w : w + rows * size]
    c, d = scale_range(tensors.source_scale_start[k], rows, samples, t, b)
    e, f = scale_range(tensors.target_scale_start[k], size, samples, t, b)
    source_scale, target_scale, needs_x = tensors.scales[c:d], tensors.scales[e:f], len(grads.x) > 0
    if (run.needs_biases or net.delayed_edge[k]) and log.turn_step[t, b, n] >= 0:
        _adjoints_at_turn(net, tensors, log, grads, adj, t, b, n, k, extras, target_scale)
        if net.delayed_edge[k]:
            adjoints, first = adj.would_be[:size], net.first_source[k] - net.inputs
            last_spikes = run.spikes[t - 1, b] if t > 0 else tensors.last_spikes[b]
            count = nonzero(
                last_spikes[first : first + rows], 0, work.flags, work.words, adj.sources, adj.amplitudes
            )
            count = own_events(
                adj.sources[:count], adj.amplitudes, 0, rows, source_scale, work.own, work.factors
            )
            for i in range(count):
                j = work.own[i]
                outer_row(weight_grads[j * size : (j + 1) * size], adjoints, work.factors[i])
            fill(adj.active[:rows], 1)
            recurrent = adj.recurrent[first : first + rows]
            all_rows(weights, adjoints, adj.active[:rows], source_scale, recurrent, adj.chosen, adj.totals)
    if net.delayed_edge[k]:
        return
    slot, slot_step, after = adj.last[a:z], adj.last_step[a:z], adj.after[a:z]
    first = slot
    if extras > 0 or len(target_scale) > 0:
        _open_slots(adj, a, z, target_scale)
        _first_slots(adj, size, target_scale, extras)
        slot, slot_step, after = adj.slot[:size], adj.slot_step[:size], adj.slot_after[:size]
        first = adj.first[:size]
    extra = 0
    for place in range(adj.delivery_start[q + 2] - 1, adj.delivery_start[q + 1] - 1, -1):
        row = adj.deliveries[place]
        j = log.source[row] - net.first_source[k]
        if j < 0 or j >= rows:  # of another input
            continue
        step = step_of(rules, log, t, b, n, log.delivered_step[row])
        if extra < extras:
            extra = rewind(
                slot,
                slot_step,
                adj.extra_neuron,
                adj.extra_step,
                adj.extra,
                target_scale,
                extra,
                extras,
                step,
            )
        scale = source_scale[j] if len(source_scale) > 0 else adj.one[0]
        if scale == 0:
            continue
        x, y = j * size, (j + 1) * size
        adj.rows[row - first_row] += scale * masked_row(
            weights[x:y], weight_grads[x:y], slot, slot_step, after, step, scale * log.amplitude[row]
        )
    active, adjoints = adj.active[:rows], adj.silent[:0]
    if q < 0 and not rules.queued:
        c, d = log.inputs[b, t], log.inputs[b, t + 1]
        count = own_events(
            log.input_source[c:d],
            log.input_amplitude[c:d],
            net.first_source[k],
            rows,
            source_scale,
            work.own,
            work.factors,
        )
        for i in range(count):
            x = work.own[i] * size
            outer_row(weight_grads[x : x + size], first, work.factors[i])
        if not needs_x:
            return
        fill(active, 1)
    elif q < 0:
        if not needs_x:
            return
        zero_inputs(active, tensors.x[t, b, net.first_source[k] : net.first_source[k] + rows])
    else:
        c = net.first_source[k] - net.inputs
        active_neurons(active, log.silent_step[t, b, c : c + rows], adj.slope[c : c + rows])
    c = net.first_source[k] if q < 0 else net.first_source[k] - net.inputs
    adjoints = grads.x[t, b, c : c + rows] if q < 0 else adj.silent[c : c + rows]
    all_rows(weights, first, active, source_scale, adjoints, adj.chosen, adj.totals)


@inlined
def _all_sources(net, adj, k, weights, slot, rows, scale, adjoints):
    """Add the adjoints of all active sources of projection k."""
    all_runs(
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
def _outer(net, adj, work, k, grads, slot, sources, amplitudes, first_source, scale):
    count = own_events(sources, amplitudes, first_source, net.fan_in[k], scale, work.own, work.factors)
    add_outer(
        net.geometry[k],
        net.table_offsets,
        net.table_positions,
        net.table_values,
        grads,
        slot,
        work.own[:count],
        work.factors[:count],
        adj.runs,
        adj.coefficients,
    )


def back_other(net, rules, tensors, log, run, grads, adj, work, first_row, n, k, extras):
    t, b = work.now[T], work.now[B]
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
        if (run.needs_biases or net.delayed_edge[k]) and log.turn_step[t, b, n] >= 0:
            _adjoints_at_turn(net, tensors, log, grads, adj, t, b, n, k, extras, target_scale)
            if net.delayed_edge[k]:
                c = net.first_source[k] - net.inputs
                adjoints, recurrent = adj.would_be[:size], adj.recurrent[c : c + rows]
                last_spikes = run.spikes[t - 1, b] if t > 0 else tensors.last_spikes[b]
                count = nonzero(
                    last_spikes[c : c + rows], 0, work.flags, work.words, adj.sources, adj.amplitudes
                )
                sources, amplitudes = adj.sources[:count], adj.amplitudes[:count]
                _outer(net, adj, work, k, weight_grads, adjoints, sources, amplitudes, 0, source_scale)
                fill(adj.active[:rows], 1)
                _all_sources(net, adj, k, weights, adjoints, rows, source_scale, recurrent)
        if net.delayed_edge[k]:
            return
        _open_slots(adj, net.start[n], net.start[n + 1], target_scale)
        _first_slots(adj, size, target_scale, extras)
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
        scale = source_scale[j] if len(source_scale) > 0 else adj.one[0]
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
        c, e = log.inputs[b, t], log.inputs[b, t + 1]
        if not into_population:
            follow(net, log, adj, first_row, n, step_of(rules, log, t, b, n, 0), target_scale)
            copy(first, slot)
        inputs, values = log.input_source[c:e], log.input_amplitude[c:e]
        _outer(net, adj, work, k, weight_grads, first, inputs, values, net.first_source[k], source_scale)
    elif q >= 0 or needs_x:  # what was silent
        c = net.first_source[k] - net.inputs if q >= 0 else net.first_source[k]
        adjoints = adj.silent[c : c + rows] if q >= 0 else grads.x[t, b, c : c + rows]
        if q < 0:
            zero_inputs(adj.active[:rows], tensors.x[t, b, c : c + rows])
        elif q < net.populations:
            z = c + rows
            active_neurons(adj.active[:rows], log.silent_step[t, b, c:z], adj.slope[c:z])
        else:
            fill(adj.active[:rows], 1)
        _all_sources(net, adj, k, weights, adj.would_be[:size], rows, source_scale, adjoints)
    if needs_x and not rules.queued and (q < 0 or net.near_input[q]):
        c = net.first_source[k] - net.inputs - net.neurons if q >= 0 else net.first_source[k]
        adjoints = adj.early[c : c + rows] if q >= 0 else grads.x[t, b, c : c + rows]
        fill(adj.active[:rows], 1)
        _all_sources(net, adj, k, weights, adj.start[:size], rows, source_scale, adjoints)


BACK_DENSE, BACK_OTHER = Kernel(back_dense), Kernel(back_other)
