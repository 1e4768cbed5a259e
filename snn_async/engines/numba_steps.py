"""One forward step, compiled: leak, delivery, evaluation, turns; mirrors `reference_simulate`.

Currents that a refractory or swallowing neuron must ignore are added all the same and undone from `held`.
"""

import numpy as np

from snn_async import keys
from snn_async.engines.numba_keys import step_state, uniform
from snn_async.engines.numba_records import (
    AFTER,
    AMPLITUDE,
    DELIVERED_STEP,
    DELIVERED_TIMESTEP,
    DELIVERIES,
    DISCARD,
    EVENTS,
    FIRST_OUTPUT,
    HOP,
    INTEGRATE,
    NEXT_STEP,
    OFF,
    OPERATIONS,
    OUTPUT,
    PENDING,
    POTENTIAL,
    SOURCE,
    STEP,
    SUBTRACT,
    TIMESTEP,
    UPDATES,
    VALUE,
    B,
    T,
    inlined,
)
from snn_async.engines.numba_scheduling import pick
from snn_async.engines.numba_vectors import (
    add,
    add_events,
    copy,
    delayed_subtract,
    firing,
    leak_step,
    restore,
    retest,
    scale_range,
    set_where_fired,
    swallow,
)


@inlined
def begin(net, tensors, work, v, fired):
    """Leak and delayed reset, in the framework's own order; nobody is refractory."""
    copy(work.compare, tensors.compare)
    work.ignoring[:] = False
    work.residual[:] = 0
    work.count[:] = 0
    work.last_spike[:] = -1
    work.last_evaluation[:] = -1
    work.turn_step[:] = -1
    for p in range(len(net.turn)):
        a, z = net.start[p], net.start[p + 1]
        work.able[p] = z - a
        value = v.dtype.type(net.reset_value[p])
        if net.retest[p]:
            leak_step(work.u[a:z], v[a:z], tensors.leak[a:z], tensors.offset[a:z])
            retest(work.u[a:z], work.residual[a:z], v[a:z], tensors.compare[a:z], tensors.threshold[a:z])
            continue
        if net.delayed[p] and net.reset[p] == VALUE:
            set_where_fired(v[a:z], fired[a:z], value)
        leak_step(work.u[a:z], v[a:z], tensors.leak[a:z], tensors.offset[a:z])
        if net.delayed[p] and net.reset[p] == SUBTRACT:
            delayed_subtract(work.u[a:z], fired[a:z], tensors.threshold[a:z])
        if net.swallow[p]:
            set_where_fired(work.u[a:z], fired[a:z], value)
            swallow(work.held[a:z], work.ignoring[a:z], fired[a:z], value)


@inlined
def emit(net, work, events, source, amplitude, potential, waits):
    row = work.now[EVENTS]
    events.ints[row, SOURCE] = source
    events.ints[row, STEP] = work.now[NEXT_STEP]
    events.ints[row, TIMESTEP] = work.now[T]
    events.ints[row, DELIVERED_TIMESTEP] = -1
    events.ints[row, DELIVERED_STEP] = -1
    events.floats[row, AMPLITUDE] = amplitude
    events.floats[row, POTENTIAL] = potential
    work.now[EVENTS] = row + 1
    if waits:
        events.pending[work.now[PENDING]] = row
        work.now[PENDING] += 1


@inlined
def spike(net, rules, tensors, work, events, p, i):
    emit(net, work, events, net.inputs + i, 1.0, work.u[i], net.has_out[p])
    step = work.now[NEXT_STEP]
    work.count[i] += 1
    work.last_spike[i] = step
    if p == net.output and work.now[FIRST_OUTPUT] < 0:
        work.now[FIRST_OUTPUT] = step
    if not net.delayed[p]:
        if net.reset[p] == SUBTRACT:
            work.u[i] -= tensors.threshold[i]
        elif net.reset[p] == VALUE:
            work.u[i] = net.reset_value[p]
    if net.refractory[p] == OFF:
        return
    rate = net.refractory_dropout[p]
    if rate > 0 and uniform(step_state(rules, tensors, work, keys.REFRACTORY_DROPOUT), net.inputs + i) < rate:
        return
    work.compare[i] = np.inf
    work.able[p] -= 1
    if net.refractory[p] == DISCARD and not work.ignoring[i]:
        work.ignoring[i] = True
        work.held[i] = work.u[i]


@inlined
def deliver(net, tensors, work, k, sources, amplitudes, count):
    """Add the currents of events through projection k."""
    p, rows, size = net.target[k], net.fan_in[k], net.fan_out[k]
    first, t, b, samples = net.weight_start[k], work.now[T], work.now[B], tensors.x.shape[1]
    c, d = scale_range(tensors.source_scale_start[k], rows, samples, t, b)
    e, f = scale_range(tensors.target_scale_start[k], size, samples, t, b)
    delivered = add_events(
        work.u[net.start[p] : net.start[p + 1]],
        tensors.weights[first : first + rows * size].reshape(rows, size),
        sources,
        amplitudes,
        count,
        net.first_source[k],
        tensors.scales[c:d],
        tensors.scales[e:f],
    )
    if delivered > 0:
        work.reached[p] = True
        work.now[OPERATIONS] += delivered * size


@inlined
def evaluate(net, rules, tensors, work, events):
    """Finish a forward step: biases of the populations whose turn it is, then one evaluation each."""
    step = work.now[NEXT_STEP]
    for p in range(len(net.turn)):
        if work.turn[p] == work.now[HOP]:
            work.turn_step[p] = step
            work.reached[p] = True
            if tensors.has_bias[p]:
                u = work.u[net.start[p] : net.start[p + 1]]
                for k in range(len(net.target)):
                    if net.target[k] == p:
                        bias = tensors.biases[net.bias_start[k] : net.bias_start[k] + len(u)]
                        start, samples = tensors.target_scale_start[k], tensors.x.shape[1]
                        c, d = scale_range(start, len(u), samples, work.now[T], work.now[B])
                        add(u, bias, tensors.scales[c:d])
    for p in range(len(net.turn)):
        if not work.reached[p]:
            continue
        work.reached[p] = False
        a, z = net.start[p], net.start[p + 1]
        work.last_evaluation[p] = step
        work.now[UPDATES] += z - a if net.refractory[p] == INTEGRATE else work.able[p]
        if net.swallow[p]:
            restore(work.u[a:z], work.held[a:z], work.ignoring[a:z])
        for found in range(firing(work.u[a:z], work.compare[a:z], work.found)):
            spike(net, rules, tensors, work, events, p, a + work.found[found])
    work.now[NEXT_STEP] = step + 1


@inlined
def turn_changes(net, tensors, work, p):
    a, z = net.start[p], net.start[p + 1]
    return tensors.has_bias[p] or firing(work.u[a:z], work.compare[a:z], work.found) > 0


@inlined
def next_turn(net, tensors, work):
    """The next turn that can change anything, -1 if there is none."""
    best = -1
    for p in range(len(net.turn)):
        turn = work.turn[p]
        if turn > work.now[HOP] and (best < 0 or turn < best) and turn_changes(net, tensors, work, p):
            best = turn
    return best


@inlined
def take_turn(net, work, p):
    if work.turn_step[p] < 0:
        work.turn_step[p] = work.now[NEXT_STEP]
        work.last_evaluation[p] = work.now[NEXT_STEP]
        work.now[UPDATES] += work.able[p]


@inlined
def skip_to(net, work, turn):
    """Let turns pass that can change nothing; turn -1 lets all pass."""
    for p in range(len(net.turn)):
        if work.turn[p] >= work.now[HOP] and (turn < 0 or work.turn[p] < turn):
            take_turn(net, work, p)
    if turn >= 0:
        work.now[HOP] = turn


@inlined
def stopped(rules, work):
    step = work.now[NEXT_STEP]
    if rules.stop == AFTER and step >= rules.stop_steps:
        return True
    if rules.stop != OUTPUT or work.now[FIRST_OUTPUT] < 0:
        return False
    return step > work.now[FIRST_OUTPUT] + rules.stop_steps


@inlined
def mark_delivered(work, events, place, row):
    """Put an event at `place` of the group under way; the log names its first delivery."""
    events.sources[place] = events.ints[row, SOURCE]
    events.amplitudes[place] = events.floats[row, AMPLITUDE]
    if events.ints[row, DELIVERED_TIMESTEP] < 0:
        events.ints[row, DELIVERED_TIMESTEP] = work.now[T]
        events.ints[row, DELIVERED_STEP] = work.now[NEXT_STEP]
        events.deliveries[work.now[DELIVERIES]] = row
        work.now[DELIVERIES] += 1


@inlined
def deliver_group(net, rules, tensors, work, events):
    size = pick(net, rules, tensors, work, events)
    for g in range(size):
        mark_delivered(work, events, g, events.pending[events.heap[g]])
    for k in range(len(net.target)):
        deliver(net, tensors, work, k, events.sources, events.amplitudes, size)
    waiting, kept, g = work.now[PENDING], 0, 0
    if size < waiting:
        for a in range(waiting):
            if g < size and events.heap[g] == a:
                g += 1
            else:
                events.pending[kept] = events.pending[a]
                kept += 1
    work.now[PENDING] = kept


@inlined
def layered_population(net, rules, tensors, work, events, inputs, values, count, ranges, p):
    """Deliver everything upstream of p and evaluate it, if anything can change; False if stopped first."""
    arriving = False
    for k in range(len(net.target)):
        if net.target[k] == p:
            q = net.source[k]
            arriving |= count > 0 if q < 0 else ranges[q, 1] > ranges[q, 0]
            for a in range(work.now[PENDING]):  # carried over
                row = events.ints[events.pending[a], SOURCE] - net.first_source[k]
                arriving |= 0 <= row < net.fan_in[k]
    if p > 0 and not arriving and not turn_changes(net, tensors, work, p):
        take_turn(net, work, p)
        return True
    if p > 0 and stopped(rules, work):
        return False
    for k in range(len(net.target)):
        q = net.source[k]
        if net.target[k] != p:
            continue
        if q < 0:
            deliver(net, tensors, work, k, inputs, values, count)
        size = 0
        for a in range(work.now[PENDING]):
            source = events.ints[events.pending[a], SOURCE] - net.first_source[k]
            if 0 <= source < net.fan_in[k]:
                mark_delivered(work, events, size, events.pending[a])
                size += 1
        if q >= 0:
            for row in range(ranges[q, 0], ranges[q, 1]):
                mark_delivered(work, events, size, row)
                size += 1
        deliver(net, tensors, work, k, events.sources, events.amplitudes, size)
    ranges[p, 0] = work.now[EVENTS]
    evaluate(net, rules, tensors, work, events)
    ranges[p, 1] = work.now[EVENTS]
    return True
