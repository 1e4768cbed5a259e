"""One forward step, compiled: delivery, evaluation, turns; mirrors `engines.reference.steps`.

Currents that a refractory neuron must ignore are added all the same and undone from `held`.
"""

import numpy as np

from snn_async import random_keys
from snn_async.engines.numba.codes import (
    AFTER,
    AMPLITUDE,
    AND,
    DISCARD,
    EVENTS,
    FIRST_OUTPUT,
    HOP,
    INTEGRATE,
    NEXT_STEP,
    NOT_YET,
    OFF,
    OPERATIONS,
    OUTPUT,
    PENDING,
    SOURCE,
    SUBTRACT,
    UPDATES,
    VALUE,
    B,
    T,
)
from snn_async.engines.numba.events import emit, mark_delivered
from snn_async.engines.numba.jit import inlined
from snn_async.engines.numba.junctions import begin_junctions, pass_on, release
from snn_async.engines.numba.keys import step_state, uniform
from snn_async.engines.numba.linear import charge
from snn_async.engines.numba.scheduling import pick
from snn_async.engines.numba.synapses import add_projection, mark_all
from snn_async.engines.numba.vectors import (
    active_sources,
    add,
    any_above,
    any_set,
    copy,
    evaluate_all,
    firing,
    next_blocks,
    scale_range,
)


@inlined
def row_of(values, b):
    """Number of a sample's row in values that all samples may share."""
    return min(b, len(values) - 1)


@inlined
def begin(net, tensors, work, v, fired, last_spikes):
    """What the timestep starts with; nobody is refractory."""
    b = work.now[B]
    gain = tensors.gain[row_of(tensors.gain, b)]
    threshold = tensors.threshold[row_of(tensors.threshold, b)]
    copy(work.compare, tensors.compare[row_of(tensors.compare, b)])
    work.ignoring[:] = False
    work.count[:] = 0
    work.last_spike[:] = NOT_YET
    work.last_evaluation[:] = NOT_YET
    work.turn_step[:] = NOT_YET
    work.recurrent[:] = False
    for k in range(len(net.target)):
        if net.delayed_edge[k]:
            first = net.first_source[k] - net.inputs
            work.recurrent[net.target[k]] |= any_set(last_spikes[first : first + net.fan_in[k]])
    begin_junctions(net, work)
    work.current[: net.neurons] = 0
    for p in range(net.populations):
        a, z = net.start[p], net.start[p + 1]
        work.able[net.block_start[p] : net.block_start[p + 1]] = net.block[p]
        charge(
            work.base[a:z],
            work.gain[a:z],
            work.residual[a:z],
            v[a:z],
            fired[a:z],
            tensors.leak[a:z],
            tensors.offset[a:z],
            gain[a:z],
            threshold[a:z],
            net.delayed[p],
            v.dtype.type(net.reset_value[p]),
            net.retest[p],
            net.inclusive[p],
        )


@inlined
def spike(net, rules, tensors, work, events, p, i):
    step, current, gain = work.now[NEXT_STEP], work.current[i], work.gain[i]
    potential = work.base[i] + gain * current
    emit(work, events, net.inputs + i, 1, potential, current, step, -1, net.has_out[p])
    work.count[i] += 1
    work.last_spike[i] = step
    if p == net.output and work.now[FIRST_OUTPUT] < 0:
        work.now[FIRST_OUTPUT] = step
    if net.reset[p] == SUBTRACT:
        work.base[i] -= tensors.threshold[row_of(tensors.threshold, work.now[B]), i]
    elif net.reset[p] == VALUE:
        work.base[i] = work.base.dtype.type(net.reset_value[p]) - gain * current
    if net.refractory[p] == OFF:
        return
    rate = net.refractory_dropout[p]
    if (
        rate > 0
        and uniform(step_state(rules, tensors, work, random_keys.REFRACTORY_DROPOUT), net.inputs + i) < rate
    ):
        return
    work.compare[i] = np.inf
    work.able[net.block_start[p] + (i - net.start[p]) // net.block[p]] -= 1
    if net.refractory[p] == DISCARD:
        work.ignoring[i] = True
        work.held[i] = current


@inlined
def deliver(net, tensors, work, k, sources, amplitudes):
    """Deliver events through projection k."""
    if len(sources) == 0:
        return
    n, first = net.target[k], net.first_target[k]
    a, z = net.block_start[n], net.block_start[n + 1]
    if net.delayed_edge[k]:  # at a turn, when everybody is evaluated anyway
        z = a
    used = add_projection(
        net,
        tensors,
        k,
        work.current[first : first + net.fan_out[k]],
        sources,
        amplitudes,
        work.now[T],
        work.now[B],
        work.runs,
        work.coefficients,
        work.dirty[a:z],
        work.bounds[n],
    )
    if net.weighted[k]:
        work.now[OPERATIONS] += used


@inlined
def take_up(net, tensors, work, events, last_spikes, p):
    """What comes at the turn of population p: everybody's evaluation, biases, last timestep's spikes."""
    mark_all(work.dirty[net.block_start[p] : net.block_start[p + 1]], work.bounds[p])
    if not tensors.has_bias[p] and not work.recurrent[p]:
        return
    current, samples = work.current[net.start[p] : net.start[p + 1]], tensors.x.shape[1]
    for k in range(len(net.target)):
        if net.target[k] != p:
            continue
        if tensors.has_bias[p]:
            bias = tensors.biases[net.bias_start[k] : net.bias_start[k] + len(current)]
            c, d = scale_range(tensors.target_scale_start[k], len(current), samples, work.now[T], work.now[B])
            add(current, bias, tensors.scales[c:d])
        if net.delayed_edge[k]:
            first = net.first_source[k] - net.inputs
            values = last_spikes[first : first + net.fan_in[k]]
            count = active_sources(values, events.sources, events.amplitudes, net.first_source[k])
            deliver(net, tensors, work, k, events.sources[:count], events.amplitudes[:count])


@inlined
def evaluate(net, rules, tensors, work, events, last_spikes):
    """Finish a forward step: what comes at turns, then one evaluation of every neuron that was reached."""
    step = work.now[NEXT_STEP]
    for p in range(net.populations):
        if work.turn[p] == work.now[HOP]:
            work.turn_step[p] = step
            take_up(net, tensors, work, events, last_spikes, p)
    for p in range(net.populations):
        q, high = work.bounds[p, 0], work.bounds[p, 1]
        if q >= high:
            continue
        work.bounds[p, 0], work.bounds[p, 1] = len(work.dirty), 0
        c, d, block, start = net.block_start[p], net.block_start[p + 1], net.block[p], net.start[p]
        while q < high:
            able = next_blocks(
                work.dirty[c:d], work.able[c:d], work.last_evaluation[c:d], q, high, step, work.found
            )
            begin, q = work.found[0], work.found[1]
            a, z = start + begin * block, start + q * block
            work.now[UPDATES] += z - a if net.refractory[p] == INTEGRATE else able
            many = firing(work.current[a:z], work.base[a:z], work.gain[a:z], work.compare[a:z], work.found)
            for found in range(many):
                spike(net, rules, tensors, work, events, p, a + work.found[found])
    work.now[NEXT_STEP] = step + 1


@inlined
def turn_changes(net, tensors, work, p):
    a, z = net.start[p], net.start[p + 1]
    if tensors.has_bias[p] or work.recurrent[p]:
        return True
    return any_above(work.current[a:z], work.base[a:z], work.gain[a:z], work.compare[a:z])


@inlined
def next_turn(net, tensors, work, end_of_phase):
    """The next turn of this phase that can change anything, -1 if there is none."""
    best = -1
    for p in range(net.populations):
        turn = work.turn[p]
        coming = work.now[HOP] < turn < end_of_phase and (best < 0 or turn < best)
        if coming and turn_changes(net, tensors, work, p):
            best = turn
    return best


@inlined
def take_turn(net, work, p):
    if work.turn_step[p] < 0:
        step, a, z = work.now[NEXT_STEP], net.block_start[p], net.block_start[p + 1]
        work.turn_step[p] = step
        work.now[UPDATES] += evaluate_all(work.able[a:z], work.last_evaluation[a:z], step)


@inlined
def skip_to(net, work, turn):
    """Let turns pass that can change nothing; turn -1 lets all pass."""
    for p in range(net.populations):
        if work.turn[p] >= work.now[HOP] and (turn < 0 or work.turn[p] < turn):
            take_turn(net, work, p)
    if turn >= 0:
        work.now[HOP] = turn


@inlined
def release_level(net, work, events, turn):
    """Let the junctions of a level pass on what they held back."""
    skip_to(net, work, turn)
    for n in range(net.populations, net.nodes):
        if net.node_kind[n] >= AND and work.turn[n] == turn:
            release(net, work, events, n)


@inlined
def stopped(rules, work):
    step = work.now[NEXT_STEP]
    if rules.stop == AFTER and step >= rules.stop_steps:
        return True
    if rules.stop != OUTPUT or work.now[FIRST_OUTPUT] < 0:
        return False
    return step > work.now[FIRST_OUTPUT] + rules.stop_steps


@inlined
def list_inputs(work, events, inputs, values):
    """List a timestep's inputs for delivery."""
    count = len(inputs)
    for i in range(count):
        events.sources[i] = inputs[i]
        events.amplitudes[i] = values[i]
    work.bins[0] = 0
    work.bins[1:] = count


@inlined
def list_group(net, rules, tensors, work, events):
    """Take the group that is next out of what is pending and list it for delivery."""
    size, bins = pick(net, rules, tensors, work, events), work.bins
    bins[:] = 0
    for g in range(size):
        row = events.pending[events.chosen[g]]
        mark_delivered(work, events, row)
        bins[net.node_of[events.ints[row, SOURCE]] + 2] += 1
    for n in range(2, len(bins)):
        bins[n] += bins[n - 1]
    for g in range(size):
        row = events.pending[events.chosen[g]]
        n = net.node_of[events.ints[row, SOURCE]] + 1
        events.sources[bins[n]] = events.ints[row, SOURCE]
        events.amplitudes[bins[n]] = events.floats[row, AMPLITUDE]
        bins[n] += 1
    waiting, kept, g = work.now[PENDING], 0, 0
    if size < waiting:
        for a in range(waiting):
            if g < size and events.chosen[g] == a:
                g += 1
            else:
                events.pending[kept] = events.pending[a]
                kept += 1
    work.now[PENDING] = kept


@inlined
def arrives(net, work, events, count, ranges, n):
    """Whether anything upstream of node n is to be delivered to it."""
    for k in range(len(net.target)):
        if net.target[k] == n and not net.delayed_edge[k]:
            q = net.source[k]
            if count > 0 if q < 0 else ranges[q, 1] > ranges[q, 0]:
                return True
            for a in range(work.now[PENDING]):  # carried over
                if net.node_of[events.ints[events.pending[a], SOURCE]] == q + 1:
                    return True
    return False


@inlined
def list_upstream(net, work, events, inputs, values, ranges, n):
    """List everything upstream of node n for delivery to it: inputs, what was carried over, rows of this timestep."""
    leads, carried = work.leads, work.now[PENDING]  # of each node (the input is 0) whether it leads to n
    leads[:] = 0
    for k in range(len(net.target)):
        if net.target[k] == n and not net.delayed_edge[k]:
            leads[net.source[k] + 1] = 1
    for a in range(carried):
        if leads[net.node_of[events.ints[events.pending[a], SOURCE]]] == 1:
            mark_delivered(work, events, events.pending[a])
    for place in range(net.nodes):
        q = net.order[place]
        if leads[q + 1] == 1:
            for row in range(ranges[q, 0], ranges[q, 1]):
                mark_delivered(work, events, row)
    size = 0
    for q in range(-1, net.nodes):
        work.bins[q + 1] = size
        if leads[q + 1] == 0:
            continue
        if q < 0:
            for i in range(len(inputs)):
                events.sources[size + i] = inputs[i]
                events.amplitudes[size + i] = values[i]
            size += len(inputs)
        rows = 0 if q < 0 else ranges[q, 1] - ranges[q, 0]
        for a in range(carried + rows):
            row = events.pending[a] if a < carried else ranges[q, 0] + a - carried
            if net.node_of[events.ints[row, SOURCE]] == q + 1:
                events.sources[size] = events.ints[row, SOURCE]
                events.amplitudes[size] = events.floats[row, AMPLITUDE]
                size += 1
    work.bins[net.nodes + 1 :] = size


@inlined
def list_passed(work, events, n, first):
    """List the rows from `first` on, which junction n has just passed on, for delivery."""
    count = work.now[EVENTS] - first
    for place in range(count):
        row = first + place
        events.sources[place] = events.ints[row, SOURCE]
        events.amplitudes[place] = events.floats[row, AMPLITUDE]
        mark_delivered(work, events, row)
    work.bins[: n + 2] = 0
    work.bins[n + 2 :] = count


@inlined
def forward_step(net, rules, tensors, work, events, last_spikes, only):
    """Deliver what is listed, let junctions pass on at once what reaches them, evaluate the neurons reached.

    Behind a barrier `only` one node is concerned (else -1), and other nodes take over what a junction passes on.
    """
    n = net.populations - 1 if only < 0 else only
    while True:
        for k in range(len(net.target)):
            if not net.delayed_edge[k] and (only < 0 or net.target[k] == only):
                a, z = work.bins[net.source[k] + 1], work.bins[net.source[k] + 2]
                deliver(net, tensors, work, k, events.sources[a:z], events.amplitudes[a:z])
        if only < 0:
            n += 1
            while n < net.nodes and (net.node_kind[n] >= AND or work.bounds[n, 0] >= work.bounds[n, 1]):
                n += 1
        if n == net.nodes or n < net.populations or net.node_kind[n] >= AND:
            break
        first = work.now[EVENTS]
        if only >= 0:
            work.turn_step[n] = work.now[NEXT_STEP]
        pass_on(net, work, events, n)
        list_passed(work, events, n, first)
        if only >= 0:
            break
    if only >= net.populations:
        if net.node_kind[n] >= AND:
            release(net, work, events, n)
        return
    evaluate(net, rules, tensors, work, events, last_spikes)
