"""The numba engine's event loop: the rules of docs/design.md, section 3, compiled, one chunk of samples per call."""

from snn_async.engines.numba.codes import (
    DELIVERIES,
    DONE,
    EVENTS,
    FIRST_OUTPUT,
    HOP,
    INPUTS,
    LAYERED,
    LEFT,
    NEXT_STEP,
    NO_ROOM,
    NOT_FINITE,
    OPERATIONS,
    PENDING,
    RUNAWAY,
    TIMESTEP,
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
from snn_async.engines.numba.forward.vectors import copy, keep, log_silent, nonzero, restore, settle
from snn_async.engines.numba.jit import inlined


@inlined
def end(net, work, rules, out, keep_log):
    t, b = work.now[T], work.now[B]
    current, u = work.current[: net.neurons], work.base
    restore(current, work.held, work.ignoring)
    settle(u, work.gain, current)
    if len(out.arrived) > 0:
        copy(out.arrived[t, b], current)
    copy(out.turn_step[t, b], work.turn_step)
    for p in range(net.populations):
        a, z = net.start[p], net.start[p + 1]
        out.population_spikes[t, b, p] = work.count[a:z].sum()
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
        work.now[PENDING] = 0


@inlined
def start_sample(net, rules, carried, out, work, events):
    now = work.now
    b = now[B]
    out.emitted[b, 0] = now[EVENTS]
    for row in range(carried.offsets[b], carried.offsets[b + 1]):
        at = now[EVENTS]
        amplitude, potential = carried.amplitude[row], carried.potential[row]
        emit(work, events, carried.source[row], amplitude, potential, 0, carried.step[row], -1, True)
        events.ints[at, TIMESTEP] = carried.timestep[row] - rules.timestep


@inlined
def finish_sample(out, work, events, rooms, steps):
    now = work.now
    b = now[B]
    out.emitted[b, steps + 1] = now[EVENTS]
    out.delivered[b, steps] = now[DELIVERIES]
    out.left[b] = now[PENDING]
    for a in range(now[PENDING]):
        rooms.left[now[LEFT]] = events.pending[a]
        now[LEFT] += 1


@inlined
def timestep(net, rules, tensors, out, work, events, rooms, keep_log):
    """Run one timestep; return its status."""
    now, steps = work.now, tensors.x.shape[0]
    t, b = now[T], now[B]
    now[NEXT_STEP], now[HOP], now[FIRST_OUTPUT], now[OPERATIONS], now[UPDATES] = 0, 0, -1, 0, 0
    out.emitted[b, 1 + t] = now[EVENTS]
    out.delivered[b, t] = now[DELIVERIES]
    out.inputs[b * steps + t] = now[INPUTS]
    first = now[INPUTS]
    if first + net.inputs > len(rooms.input_source):
        return NO_ROOM
    count = nonzero(tensors.x[t, b], rooms.input_source[first:], rooms.input_amplitude[first:])
    if count < 0:
        return NOT_FINITE
    inputs, values = rooms.input_source[first : first + count], rooms.input_amplitude[first : first + count]
    if keep_log and not rules.queued:
        now[INPUTS] += count
    v = tensors.potentials[b] if t == 0 else out.potentials[t - 1, b]
    fired = tensors.fired[b] if t == 0 else out.spikes[t - 1, b]
    last_spikes = tensors.last_spikes[b] if t == 0 else out.spikes[t - 1, b]
    begin(net, tensors, work, v, fired, last_spikes)
    most = net.neurons + count + len(work.holder)  # events that one forward step can emit
    last_row = len(events.ints) - most
    status = DONE if now[EVENTS] <= last_row else NO_ROOM
    layered, carried, level, place, turn = rules.scheduler == LAYERED, now[PENDING], 0, 0, -1
    rooms.ranges[:] = 0
    while status == DONE:
        only, limit = -1, end_of_phase(net, rules, level)
        if layered:
            # spikes of this timestep are found by node; only what was carried in is pending
            now[PENDING] = carried
            if place == net.nodes:
                break
            only = net.order[place]
            place += 1
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
        elif now[NEXT_STEP] == 0:
            if rules.queued:
                for i in range(count):
                    emit(work, events, inputs[i], values[i], values[i], 0, 0, -1, True)
            list_inputs(work, events, inputs[:0] if rules.queued else inputs, values)
        else:
            turn = next_turn(net, tensors, work, limit) if now[PENDING] == 0 else -1
            over = now[PENDING] == 0 and turn < 0
            if over and level == net.levels:
                skip_to(net, work, -1)
                break
            if stopped(rules, work):
                break
            if now[NEXT_STEP] >= rules.max_forward_steps:
                status = RUNAWAY
                break
            if now[EVENTS] > last_row:
                status = NO_ROOM
                break
            if over:
                release_level(net, work, events, limit)
                level += 1
                continue
            now[HOP] = min(now[HOP] + 1, limit - 1)
            if turn >= 0:
                skip_to(net, work, turn)
            list_group(net, rules, tensors, work, events)
        forward_step(net, rules, tensors, work, events, last_spikes, only)
        if layered:
            rooms.ranges[only, 1] = now[EVENTS]
    if layered:
        now[PENDING] = 0
    end(net, work, rules, out, keep_log)
    return status


@inlined
def simulate_chunk(
    net, rules, tensors, carried, out, work, events, rooms, first_sample, last_sample, keep_log
):
    """Run samples first_sample .. last_sample - 1.

    Returns the first sample that was not run and why: DONE (all were), NO_ROOM in `events` or `rooms`,
    NOT_FINITE input, or RUNAWAY; and the timestep in which that was found. Offsets in `out` count rows of
    this chunk.
    """
    steps = tensors.x.shape[0]
    now, room = work.now, len(events.ints)
    for n in range(net.nodes):
        work.turn[n] = n if rules.scheduler == LAYERED else net.turn[n] + (1 if rules.queued else 0)
    work.dirty[:] = 0
    work.bounds[:, 0], work.bounds[:, 1] = len(work.dirty), 0
    for b in range(first_sample, last_sample):
        now[B], now[T], now[PENDING], now[NEXT_STEP] = b, -1, 0, 0
        began = (now[EVENTS], now[DELIVERIES], now[INPUTS])
        status, t = DONE, 0
        if now[EVENTS] + carried.offsets[b + 1] - carried.offsets[b] > room:
            status = NO_ROOM
        else:
            start_sample(net, rules, carried, out, work, events)
            while t < steps and status == DONE:
                now[T] = t
                status = timestep(net, rules, tensors, out, work, events, rooms, keep_log)
                t += 1
        if status == DONE and now[LEFT] + now[PENDING] > len(rooms.left):
            status = NO_ROOM
        if status != DONE:
            now[EVENTS], now[DELIVERIES], now[INPUTS] = began
            return b, status, t - 1
        finish_sample(out, work, events, rooms, steps)
    return last_sample, DONE, steps
