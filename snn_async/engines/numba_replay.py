"""The numba engine's gradient: the masked sum of DESIGN section 5, differentiated by hand.

Within a timestep, populations go in reverse topological order: a population's adjoints need only its
targets'. The adjoint of a current that lands on neuron i in forward step d is that of i's first decisive
evaluation not before d, or, after the last one, that of the carried potential (refractory "integrate").
"""

from typing import Any, NamedTuple

from numba import njit

from snn_async.engines.numba_simulate import (
    INTEGRATE,
    SUBTRACT,
    VALUE,
    compiled,
    copy,
    inlined,
    scale_range,
    set_where_fired,
)

summing = njit(
    cache=True, nogil=True, error_model="numpy", _nrt=False, fastmath={"reassoc", "contract", "nsz"}
)


class Log(NamedTuple):
    """`EventLog` and the surrogate derivatives, as arrays."""

    emitted: Any
    source: Any
    amplitude: Any
    step: Any
    potential: Any
    delivered_step: Any
    deliveries: Any
    delivered: Any
    silent_step: Any
    silent_potential: Any
    turn_step: Any
    inputs: Any
    input_source: Any
    input_amplitude: Any
    slope: Any
    silent_slope: Any


class Run(NamedTuple):
    """What the run produced and the adjoints of it; an adjoint that is zero has length 0."""

    spikes: Any
    potentials: Any
    grad_spikes: Any
    grad_potentials: Any


class Grads(NamedTuple):
    """One chunk's sums, except for `potentials` (B, N) and `x` (T, B, S), where each sample has its own place."""

    weights: Any
    biases: Any
    leak: Any
    offset: Any
    threshold: Any
    potentials: Any
    x: Any


class Adjoints(NamedTuple):
    """One timestep's adjoints per neuron.

    `last` belongs to currents up to the last decisive evaluation (at `last_step`, -1 if there is none), `after`
    to later ones; `extra_*` list a population's earlier decisive evaluations, latest first.
    """

    current: Any  # of the potential, at the moment the backward pass has reached
    kept: Any  # of the potential kept for the next timestep
    silent: Any  # of the silent spike variables
    last: Any
    last_step: Any
    after: Any
    slot: Any
    slot_step: Any
    slot_after: Any
    extra_neuron: Any
    extra_step: Any
    extra: Any
    rows: Any  # of the sample's events
    head: Any
    following: Any


@summing
def silent_sources(weights, slot, steps, slopes, scale, adjoints):
    """Adjoints of silent sources; those whose surrogate is flat do not matter."""
    for j in range(len(weights)):
        if steps[j] < 0 or slopes[j] == 0:
            continue
        row = weights[j]
        total = slot.dtype.type(0)
        for i in range(len(slot)):
            total += row[i] * slot[i]
        adjoints[j] += total * scale[j] if len(scale) > 0 else total


@summing
def input_sources(weights, slot, x, only_zeros, scale, adjoints):
    for j in range(len(weights)):
        if only_zeros and x[j] != 0:
            continue
        row = weights[j]
        total = slot.dtype.type(0)
        for i in range(len(slot)):
            total += row[i] * slot[i]
        adjoints[j] += total * scale[j] if len(scale) > 0 else total


@compiled
def add_outer(grads, slot, sources, amplitudes, scale):
    for e in range(len(sources)):
        row = grads[sources[e]]
        factor = amplitudes[e]
        if len(scale) > 0:
            factor *= scale[sources[e]]
        for i in range(len(slot)):
            row[i] += factor * slot[i]


@summing
def masked_row(weights, grads, slot, slot_step, after, step, factor):
    """Add a delivered event's part of the weight gradient; return the adjoint of its amplitude."""
    total = slot.dtype.type(0)
    for i in range(len(slot)):
        adjoint = slot[i] if step <= slot_step[i] else after[i]
        grads[i] += factor * adjoint
        total += weights[i] * adjoint
    return total


@compiled
def add_masked(grads, slot, slot_step, after, step, scale):
    for i in range(len(grads)):
        adjoint = slot[i] if step <= slot_step[i] else after[i]
        grads[i] += adjoint * scale[i] if len(scale) > 0 else adjoint


@compiled
def silent_evaluations(
    subtract, value, reset_value, threshold, u, slope, step, silent, spikes, current, last, last_step, grads
):
    """Silent decisive evaluations of a population, the last ones of the timestep.

    `subtract` and `value` are 1 where the gradient passes through that reset (the spike variable is 0).
    """
    for i in range(len(current)):
        adjoint = silent[i] + (spikes[i] if len(spikes) > 0 else 0)
        adjoint -= subtract * threshold[i] * current[i]
        adjoint += value * (reset_value - u[i]) * current[i]
        through = slope[i] * adjoint if step[i] >= 0 else 0
        grads[i] -= through
        current[i] += through
        last[i] = current[i] if step[i] >= 0 else 0
        last_step[i] = step[i]


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


@compiled
def times(values, scale):
    for i in range(len(scale)):
        values[i] *= scale[i]


@inlined
def open_slots(adj, a, z, scale):
    """Copy a population's slots as a projection sees them, standing after the last evaluation."""
    copy(adj.slot[: z - a], adj.last[a:z])
    copy(adj.slot_step[: z - a], adj.last_step[a:z])
    copy(adj.slot_after[: z - a], adj.after[a:z])
    times(adj.slot, scale)
    times(adj.slot_after, scale)


@compiled
def rewind(slot, slot_step, extra_neuron, extra_step, extra, scale, at, count, step):
    """Go back to forward step `step`: earlier evaluations take over their neurons' slots."""
    while at < count and extra_step[at] >= step:
        i = extra_neuron[at]
        slot_step[i] = extra_step[at]
        slot[i] = extra[at] * scale[i] if len(scale) > 0 else extra[at]
        at += 1
    return at


@compiled
def emission_timestep(emitted, row):
    t = 0
    while emitted[t + 2] <= row:
        t += 1
    return t


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


@compiled
def leak_step(current, v, leak, leak_grads, offset_grads):
    for i in range(len(current)):
        offset_grads[i] += current[i]
        leak_grads[i] += current[i] * v[i]
        current[i] *= leak[i]


@compiled
def delayed_subtract(current, fired, threshold_grads):
    for i in range(len(current)):
        threshold_grads[i] -= fired[i] * current[i]


@compiled
def retest(current, kept, v, compare, threshold_grads):
    for i in range(len(current)):
        if v[i] > compare[i]:
            threshold_grads[i] += kept[i] - current[i]


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
        delayed_subtract(current, fired, grads.threshold[a:z])
    if net.retest[p]:
        retest(current, adj.kept[a:z], before, tensors.compare[a:z], grads.threshold[a:z])
    leak_step(current, before, tensors.leak[a:z], grads.leak[a:z], grads.offset[a:z])
    if value_delayed:
        set_where_fired(current, fired, zero)


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


@compiled
def accumulate(total, values):
    for i in range(len(total)):
        total[i] += values[i]


@compiled
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
