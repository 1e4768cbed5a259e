"""The numba engine's event loop: the rules of docs/design.md, section 3, compiled, one chunk of samples per call."""

from snn_async.engines.numba.codes import (
    DELIVERIES,
    DONE,
    EVENTS,
    FIRST_INPUT,
    FIRST_OUTPUT,
    HOP,
    INPUTS,
    LAYERED,
    LEFT,
    NEXT_STEP,
    NO_ROOM,
    NOT_FINITE,
    OLDEST,
    OPERATIONS,
    ORDERED,
    PENDING,
    RUNAWAY,
    STATUS,
    UPDATES,
    B,
    T,
)
from snn_async.engines.numba.forward.events import emit
from snn_async.engines.numba.forward.listing import arrives, list_group, list_inputs, list_upstream
from snn_async.engines.numba.forward.steps import begin, forward_step
from snn_async.engines.numba.forward.turns import (
    end_of_phase,
    next_turn,
    release_level,
    skip_to,
    stopped,
    take_turn,
    turn_changes,
)
from snn_async.engines.numba.forward.vectors import (
    all_finite,
    copy,
    fill,
    keep,
    log_silent,
    nonzero,
    restore,
    settle,
    total,
)
from snn_async.engines.numba.jit import Kernel, call, inlined


@inlined
def _end(net, work, rules, out, keep_log):
    t, b = work.now[T], work.now[B]
    current, u = work.current[: net.neurons], work.base
    restore(current, work.held, work.ignoring)
    settle(u, work.gain, current)
    if len(out.arrived) > 0:
        copy(out.arrived[t, b], current)
    copy(out.turn_step[t, b], work.turn_step)
    for p in range(net.populations):
        a, z = net.start[p], net.start[p + 1]
        out.population_spikes[t, b, p] = total(work.count[a:z])
        if keep_log:
            able = work.compare[a:z] if net.spiking[p] else u[a:z]
            log_silent(
                u[a:z],
                able,
                work.last_spike[a:z],
                work.last_evaluation[net.block_start[p] : net.block_start[p + 1]],
                net.block[p],
                out.silent_step[t, b, a:z],
                out.silent_potential[t, b, a:z],
            )
    keep(out.potentials[t, b], out.spikes[t, b], u, work.residual, work.count)
    out.forward_steps[t, b] = work.now[NEXT_STEP]
    out.first_output[t, b] = work.now[FIRST_OUTPUT]
    out.operations[t, b] = work.now[OPERATIONS]
    out.updates[t, b] = work.now[UPDATES]
    if not rules.carry:
        work.now[PENDING] = work.now[OLDEST] = work.now[ORDERED] = 0


@inlined
def _start_sample(rules, carried, out, work, events):
    now = work.now
    b = now[B]
    out.emitted[b, 0] = now[EVENTS]
    now[PENDING] = now[OLDEST] = now[ORDERED] = 0
    for row in range(carried.offsets[b], carried.offsets[b + 1]):
        at = now[EVENTS]
        amplitude, potential = carried.amplitude[row], carried.potential[row]
        emit(work, events, carried.source[row], amplitude, potential, 0, carried.step[row], -1, True)
        events.timestep[at] = carried.timestep[row] - rules.timestep


@inlined
def _finish_sample(out, work, events, rooms, steps):
    now = work.now
    b, first = now[B], now[LEFT]
    out.emitted[b, steps + 1] = now[EVENTS]
    out.delivered[b, steps] = now[DELIVERIES]
    out.inputs[b, steps] = now[INPUTS]
    out.left[b] = now[PENDING]
    now[LEFT] += now[PENDING]
    copy(rooms.left[first : now[LEFT]], events.pending[now[OLDEST] : now[OLDEST] + now[PENDING]])


@inlined
def _own_inputs(work, rooms):
    first, last = work.now[FIRST_INPUT], work.now[INPUTS]
    return rooms.input_source[first:last], rooms.input_amplitude[first:last]


def in_steps(net, rules, tensors, out, work, events, rooms, kernels, last_row):
    """The forward steps of a timestep, until nothing is pending."""
    now, level, turn = work.now, 0, -1
    inputs, values = _own_inputs(work, rooms)
    if rules.queued:
        for i in range(len(inputs)):
            emit(work, events, inputs[i], values[i], values[i], 0, 0, -1, True)
    list_inputs(work, events, inputs[:0] if rules.queued else inputs, values)
    while True:
        forward_step(net, rules, tensors, out, work, events, kernels, -1)
        while True:  # until something is to be delivered
            limit = end_of_phase(net, rules, level)
            turn = next_turn(net, tensors, work, limit) if now[PENDING] == 0 else -1
            over = now[PENDING] == 0 and turn < 0
            if over and level == net.levels:
                skip_to(net, work, -1)
                return
            if stopped(rules, work):
                return
            if now[NEXT_STEP] >= rules.max_forward_steps:
                now[STATUS] = RUNAWAY
                return
            if now[EVENTS] > last_row:
                now[STATUS] = NO_ROOM
                return
            if not over:
                break
            release_level(net, work, events, kernels, limit)
            level += 1
        now[HOP] = min(now[HOP] + 1, limit - 1)
        if turn >= 0:
            skip_to(net, work, turn)
        list_group(net, rules, tensors, work, events, kernels)


def behind_barrier(net, rules, tensors, out, work, events, rooms, kernels, last_row):
    """The nodes in topological order, each when everything upstream has been delivered."""
    now, carried = work.now, work.now[PENDING]
    inputs, values = _own_inputs(work, rooms)
    for n in range(net.nodes):
        rooms.ranges[n, 0] = rooms.ranges[n, 1] = 0
    for place in range(net.nodes):
        # spikes of this timestep are found by node; only what was carried in is pending
        now[PENDING] = carried
        only = net.order[place]
        if only < net.populations and now[NEXT_STEP] > 0:
            arriving = arrives(net, work, events, inputs, rooms.ranges, only)
            if not arriving and not turn_changes(net, tensors, work, only):
                take_turn(net, work, only)
                continue
            if stopped(rules, work):
                break
        if only < net.populations:
            now[HOP] = only
        list_upstream(net, work, events, inputs, values, rooms.ranges, only)
        rooms.ranges[only, 0] = now[EVENTS]
        forward_step(net, rules, tensors, out, work, events, kernels, only)
        rooms.ranges[only, 1] = now[EVENTS]
    now[PENDING] = now[OLDEST] = 0


@inlined
def _timestep(net, rules, tensors, out, work, events, rooms, kernels, keep_log):
    """Run one timestep; its status is left in `now`."""
    now, t, b = work.now, work.now[T], work.now[B]
    now[NEXT_STEP], now[HOP], now[FIRST_OUTPUT], now[OPERATIONS], now[UPDATES] = 0, 0, -1, 0, 0
    out.emitted[b, 1 + t] = now[EVENTS]
    out.delivered[b, t] = now[DELIVERIES]
    out.inputs[b, t] = now[INPUTS]
    first = now[FIRST_INPUT] = now[INPUTS]
    if first + net.inputs >= len(rooms.input_source):
        now[STATUS] = NO_ROOM
        return
    source, amplitude = rooms.input_source[first:], rooms.input_amplitude[first:]
    count = nonzero(tensors.x[t, b], 0, work.flags, work.words, source, amplitude)
    if not all_finite(rooms.input_amplitude[first : first + count]):
        now[STATUS] = NOT_FINITE
        return
    now[INPUTS] = first + count
    begin(net, tensors, out, work, kernels)
    most = net.neurons + count + len(work.holder)  # events that one forward step can emit
    last_row = len(events.source) - most
    now[STATUS] = DONE if now[EVENTS] <= last_row else NO_ROOM
    if now[STATUS] == DONE:
        call(kernels.timestep, (net, rules, tensors, out, work, events, rooms, kernels, last_row))
    if not keep_log or rules.queued:
        now[INPUTS] = first
    _end(net, work, rules, out, keep_log)


def simulate(
    net, rules, tensors, carried, out, work, events, rooms, kernels, first_sample, last_sample, keep_log
):
    """Run samples first_sample .. last_sample - 1.

    Leaves the first sample that was not run in `now`, and as STATUS why: DONE (all were), NO_ROOM in `events` or
    `rooms`, NOT_FINITE input, or RUNAWAY; and the timestep in which that was found. Offsets in `out` count rows of
    this chunk.
    """
    steps = tensors.x.shape[0]
    now, room = work.now, len(events.source)
    for n in range(net.nodes):
        work.turn[n] = n if rules.scheduler == LAYERED else net.turn[n] + (1 if rules.queued else 0)
    fill(work.dirty, 0)
    for n in range(net.nodes):
        work.bounds[n, 0], work.bounds[n, 1] = len(work.dirty), 0
    for b in range(first_sample, last_sample):
        now[B], now[T], now[NEXT_STEP], now[STATUS] = b, -1, 0, DONE
        began = (now[EVENTS], now[DELIVERIES], now[INPUTS])
        if now[EVENTS] + carried.offsets[b + 1] - carried.offsets[b] > room:
            now[STATUS] = NO_ROOM
        else:
            _start_sample(rules, carried, out, work, events)
            for t in range(steps):
                now[T] = t
                _timestep(net, rules, tensors, out, work, events, rooms, kernels, keep_log)
                if now[STATUS] != DONE:
                    break
        if now[STATUS] == DONE and now[LEFT] + now[PENDING] > len(rooms.left):
            now[STATUS] = NO_ROOM
        if now[STATUS] != DONE:
            now[EVENTS], now[DELIVERIES], now[INPUTS] = began
            return
        _finish_sample(out, work, events, rooms, steps)
    now[B] = last_sample


SIMULATE, IN_STEPS, BEHIND_BARRIER = Kernel(simulate), Kernel(in_steps), Kernel(behind_barrier)
