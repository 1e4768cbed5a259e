"""The numba engine's gradient: the masked sum of docs/design.md, section 5, differentiated by hand.

Within a timestep, populations go in reverse topological order: a population's adjoints need only its
targets'. The adjoint of a current that lands on neuron i in forward step d is that of i's first decisive
evaluation not before d, or, after the last one, that of the carried potential (refractory "integrate").
"""

from snn_async.engines.numba_adjoints import (
    accumulate,
    add_masked,
    add_outer,
    delayed_subtract_adjoint,
    emission_timestep,
    input_sources,
    leak_adjoint,
    masked_row,
    retest_adjoint,
    rewind,
    silent_evaluations,
    silent_sources,
    times,
)
from snn_async.engines.numba_records import INTEGRATE, SUBTRACT, VALUE, inlined
from snn_async.engines.numba_vectors import copy, scale_range, set_where_fired


@inlined
def bucket(net, log, adj, buckets, population_of, first_row, t, b):
    """Chain the timestep's emissions and deliveries by population, latest first.

    `buckets` holds the latest delivery per source population (the input last), then each one's predecessor.
    """
    populations = len(net.turn)
    adj.head[:] = -1
    for row in range(log.emitted[b, 1 + t], log.emitted[b, 2 + t]):
        if log.source[row] >= net.inputs:
            p = population_of[log.source[row] - net.inputs]
            adj.following[row - first_row] = adj.head[p]
            adj.head[p] = row
    buckets[: populations + 1] = -1
    first = log.delivered[b, t]
    for place in range(first, log.delivered[b, t + 1]):
        source = log.source[log.deliveries[place]]
        q = population_of[source - net.inputs] if source >= net.inputs else populations
        buckets[populations + 1 + place - first] = buckets[q]
        buckets[q] = place


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
def decisive_evaluations(net, tensors, log, run, grads, adj, first_row, t, b, p, fired):
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
        run.grad_spikes[t, b, a:z] if len(run.grad_spikes) > 0 else adj.silent[:0],
        adj.current[a:z],
        adj.last[a:z],
        adj.last_step[a:z],
        grads.threshold[a:z],
    )
    adj.after[a:z] = 0
    extras = 0
    row = adj.head[p]
    while row >= 0:
        i = log.source[row] - net.inputs
        adjoint = adj.rows[row - first_row]
        if len(run.grad_spikes) > 0:
            adjoint += run.grad_spikes[t, b, i]
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
        row = adj.following[row - first_row]
    if net.swallow[p]:
        set_where_fired(adj.last[a:z], fired[a:z], one * 0)
        set_where_fired(adj.after[a:z], fired[a:z], one * 0)
        set_where_fired(adj.current[a:z], fired[a:z], one * 0)
    return extras


@inlined
def open_slots(adj, a, z, scale):
    """Copy a population's slots as a projection sees them, standing after the last evaluation."""
    copy(adj.slot[: z - a], adj.last[a:z])
    copy(adj.slot_step[: z - a], adj.last_step[a:z])
    copy(adj.slot_after[: z - a], adj.after[a:z])
    times(adj.slot, scale)
    times(adj.slot_after, scale)


@inlined
def projection(net, rules, tensors, log, grads, adj, buckets, first_row, t, b, p, k, extras):
    """Through projection k into population p: gradients of its weights and biases, adjoints of its sources."""
    a, z, q, rows = net.start[p], net.start[p + 1], net.source[k], net.fan_in[k]
    size, begin = z - a, net.weight_start[k]
    weights = tensors.weights[begin : begin + rows * size].reshape(rows, size)
    weight_grads = grads.weights[begin : begin + rows * size].reshape(rows, size)
    samples = tensors.x.shape[1]
    c, d = scale_range(tensors.source_scale_start[k], rows, samples, t, b)
    source_scale = tensors.scales[c:d]
    c, d = scale_range(tensors.target_scale_start[k], size, samples, t, b)
    target_scale = tensors.scales[c:d]
    slot, slot_step, after = adj.slot[:size], adj.slot_step[:size], adj.slot_after[:size]
    turn = log.turn_step[t, b, p]
    if turn >= 0:
        open_slots(adj, a, z, target_scale)
        rewind(slot, slot_step, adj.extra_neuron, adj.extra_step, adj.extra, target_scale, 0, extras, turn)
        bias_grads = grads.biases[net.bias_start[k] : net.bias_start[k] + size]
        add_masked(bias_grads, slot, slot_step, after, turn, target_scale[:0])
    open_slots(adj, a, z, target_scale)
    extra = 0
    first_delivery = log.delivered[b, t]
    place = buckets[q if q >= 0 else len(net.turn)]
    while place >= 0:
        row = log.deliveries[place]
        step = log.delivered_step[row]
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
        j = log.source[row] - net.first_source[k]
        scale = source_scale[j] if len(source_scale) > 0 else tensors.x.dtype.type(1)
        if scale != 0:
            adjoint = scale * masked_row(
                weights[j], weight_grads[j], slot, slot_step, after, step, scale * log.amplitude[row]
            )
            if q >= 0:
                adj.rows[row - first_row] += adjoint
            elif len(grads.x) > 0 and row >= log.emitted[b, 1]:
                grads.x[emission_timestep(log.emitted[b], row), b, j] += adjoint
        place = buckets[len(net.turn) + 1 + place - first_delivery]
    rewind(slot, slot_step, adj.extra_neuron, adj.extra_step, adj.extra, target_scale, extra, extras, 0)
    if q >= 0:
        c, e = net.start[q], net.start[q + 1]
        steps, slopes = log.silent_step[t, b, c:e], log.silent_slope[t, b, c:e]
        silent_sources(weights, slot, steps, slopes, source_scale, adj.silent[c:e])
    else:
        at = b * tensors.x.shape[0] + t
        c, e = log.inputs[at], log.inputs[at + 1]
        add_outer(weight_grads, slot, log.input_source[c:e], log.input_amplitude[c:e], source_scale)
        if len(grads.x) > 0:
            input_sources(weights, slot, tensors.x[t, b], rules.queued, source_scale, grads.x[t, b])


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
def replay_chunk(
    net, rules, tensors, log, run, grads, adj, buckets, population_of, first_sample, last_sample
):
    """Add the gradients of samples first_sample .. last_sample - 1 to `grads`."""
    steps, populations = tensors.x.shape[0], len(net.turn)
    for b in range(first_sample, last_sample):
        first_row = log.emitted[b, 0]
        adj.rows[: log.emitted[b, steps + 1] - first_row] = 0
        adj.current[:] = 0
        for t in range(steps - 1, -1, -1):
            v = run.potentials[t - 1, b] if t > 0 else tensors.potentials[b]
            fired = run.spikes[t - 1, b] if t > 0 else tensors.spikes[b]
            if len(run.grad_potentials) > 0:
                accumulate(adj.current, run.grad_potentials[t, b])
            copy(adj.kept, adj.current)
            adj.silent[:] = 0
            bucket(net, log, adj, buckets, population_of, first_row, t, b)
            for p in range(populations - 1, -1, -1):
                extras = decisive_evaluations(net, tensors, log, run, grads, adj, first_row, t, b, p, fired)
                for k in range(len(net.target)):
                    if net.target[k] == p:
                        projection(
                            net, rules, tensors, log, grads, adj, buckets, first_row, t, b, p, k, extras
                        )
                leak_and_reset(net, tensors, grads, adj, p, v, fired)
        copy(grads.potentials[b], adj.current)
