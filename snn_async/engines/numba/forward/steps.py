"""One forward step, compiled: delivery, evaluation, turns; mirrors `engines.reference.steps`.

Currents that a refractory neuron must ignore are added all the same and undone from `held`.
"""

import numpy as np

from snn_async import random_keys
from snn_async.engines.numba.codes import (
    AND,
    DISCARD,
    EVENTS,
    FIRST_OUTPUT,
    HOP,
    INTEGRATE,
    NEXT_STEP,
    NOT_YET,
    OFF,
    SUBTRACT,
    UPDATES,
    VALUE,
    B,
    T,
)
from snn_async.engines.numba.forward.events import emit
from snn_async.engines.numba.forward.keys import step_state, uniform
from snn_async.engines.numba.forward.linear import charge, row_of
from snn_async.engines.numba.forward.listing import list_passed
from snn_async.engines.numba.forward.synapses import mark_all
from snn_async.engines.numba.forward.vectors import (
    add,
    any_set,
    copy,
    fill,
    firing,
    next_blocks,
    nonzero,
    scale_range,
)
from snn_async.engines.numba.jit import Kernel, call, inlined


@inlined
def before(first, rows, work):
    """A row of a sample's values: those of the last timestep, or the first ones."""
    t, b = work.now[T], work.now[B]
    return first[b] if t == 0 else rows[t - 1, b]


@inlined
def begin(net, tensors, out, work, kernels):
    """What the timestep starts with; nobody is refractory."""
    b = work.now[B]
    v, fired = before(tensors.potentials, out.potentials, work), before(tensors.fired, out.spikes, work)
    last_spikes = before(tensors.last_spikes, out.spikes, work)
    gain = tensors.gain[row_of(tensors.gain, b)]
    threshold = tensors.threshold[row_of(tensors.threshold, b)]
    copy(work.compare, tensors.compare[row_of(tensors.compare, b)])
    fill(work.ignoring, False)
    fill(work.count, 0)
    fill(work.last_spike, NOT_YET)
    fill(work.last_evaluation, NOT_YET)
    fill(work.turn_step, NOT_YET)
    fill(work.recurrent, False)
    for k in range(len(net.target)):
        if net.delayed_edge[k]:
            first = net.first_source[k] - net.inputs
            work.recurrent[net.target[k]] |= any_set(last_spikes[first : first + net.fan_in[k]])
    if net.nodes > net.populations:
        call(kernels.begin_junctions, (net, work))
    fill(work.current[: net.neurons], 0)
    for p in range(net.populations):
        a, z = net.start[p], net.start[p + 1]
        fill(work.able[net.block_start[p] : net.block_start[p + 1]], net.block[p])
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
def deliver(net, tensors, work, kernels, k, sources, amplitudes):
    """Deliver events through projection k."""
    if len(sources) > 0:
        first = net.first_target[k]
        current = work.current[first : first + net.fan_out[k]]
        call(kernels.add[k], (net, tensors, work, k, current, sources, amplitudes))


@inlined
def take_up(net, tensors, out, work, events, kernels, p):
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
            first, last_spikes = net.first_source[k], before(tensors.last_spikes, out.spikes, work)
            values = last_spikes[first - net.inputs : first - net.inputs + net.fan_in[k]]
            count = nonzero(values, first, work.flags, work.words, events.sources, events.amplitudes)
            deliver(net, tensors, work, kernels, k, events.sources[:count], events.amplitudes[:count])


def evaluate(net, rules, tensors, out, work, events, kernels):
    """Finish a forward step: what comes at turns, then one evaluation of every neuron that was reached."""
    step = work.now[NEXT_STEP]
    for p in range(net.populations):
        if work.turn[p] == work.now[HOP]:
            work.turn_step[p] = step
            take_up(net, tensors, out, work, events, kernels, p)
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
            many = firing(
                work.current[a:z],
                work.base[a:z],
                work.gain[a:z],
                work.compare[a:z],
                work.flags,
                work.words,
                work.found,
            )
            for found in range(many):
                spike(net, rules, tensors, work, events, p, a + work.found[found])
    work.now[NEXT_STEP] = step + 1


@inlined
def forward_step(net, rules, tensors, out, work, events, kernels, only):
    """Deliver what is listed, let junctions pass on at once what reaches them, evaluate the neurons reached.

    Behind a barrier `only` one node is concerned (else -1), and other nodes take over what a junction passes on.
    """
    n = net.populations - 1 if only < 0 else only
    while True:
        for k in range(len(net.target)):
            if not net.delayed_edge[k] and (only < 0 or net.target[k] == only):
                a, z = work.bins[net.source[k] + 1], work.bins[net.source[k] + 2]
                deliver(net, tensors, work, kernels, k, events.sources[a:z], events.amplitudes[a:z])
        if only < 0:
            n += 1
            while n < net.nodes and (net.node_kind[n] >= AND or work.bounds[n, 0] >= work.bounds[n, 1]):
                n += 1
        if n == net.nodes or n < net.populations or net.node_kind[n] >= AND:
            break
        first = work.now[EVENTS]
        if only >= 0:
            work.turn_step[n] = work.now[NEXT_STEP]
        call(kernels.pass_on, (net, work, events, n))
        list_passed(work, events, n, first)
        if only >= 0:
            break
    if only >= net.populations:
        if net.node_kind[n] >= AND:
            call(kernels.release, (net, work, events, n))
        return
    call(kernels.evaluate, (net, rules, tensors, out, work, events, kernels))


EVALUATE = Kernel(evaluate)
