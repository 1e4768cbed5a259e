"""The numba engine's event loop: the rules of DESIGN section 3, compiled, one chunk of samples per call.

Mirrors `reference_simulate` function by function; differences are for speed only. Rows of weights are
contiguous per source, so a delivered spike adds one contiguous row to its targets' potentials. Currents that
a refractory or swallowing neuron must ignore are added all the same and undone from `held`.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from snn_async import keys

RANDOM, MOMENTUM, FIFO, LAYERED = range(4)
QUIESCENT, OUTPUT, AFTER = range(3)
NO_RESET, SUBTRACT, VALUE = range(3)
OFF, DISCARD, INTEGRATE = range(3)
DONE, NO_ROOM, NOT_FINITE, RUNAWAY = range(4)


class Net(NamedTuple):
    """The layout of a graph and its neurons' kinds, one entry per population or projection."""

    inputs: int
    neurons: int
    output: int
    start: Any
    turn: Any
    source: Any
    target: Any
    fan_in: Any
    fan_out: Any
    first_source: Any
    weight_start: Any
    bias_start: Any
    has_out: Any
    reset: Any
    reset_value: Any
    delayed: Any
    swallow: Any
    retest: Any
    detach: Any
    spiking: Any
    refractory: Any
    refractory_dropout: Any


class Rules(NamedTuple):
    """Scalar options; `group_size` 0 means all."""

    scheduler: int
    noise: float
    group_size: int
    stop: int
    stop_steps: int
    carry: bool
    queued: bool
    max_forward_steps: int
    seed: Any
    timestep: int


class Tensors(NamedTuple):
    """Values as arrays; `compare` is the threshold such that u > compare fires; scales lie in one array."""

    x: Any
    weights: Any
    biases: Any
    leak: Any
    offset: Any
    threshold: Any
    compare: Any
    potentials: Any
    spikes: Any
    sample_ids: Any
    scales: Any
    source_scale_start: Any
    target_scale_start: Any
    has_bias: Any


class Carried(NamedTuple):
    """`PendingEvents` as arrays."""

    offsets: Any
    source: Any
    amplitude: Any
    potential: Any
    timestep: Any
    step: Any


class Out(NamedTuple):
    """Where results go; silent arrays have length 0 if no log is kept."""

    spikes: Any
    potentials: Any
    silent_step: Any
    silent_potential: Any
    turn_step: Any
    population_spikes: Any
    forward_steps: Any
    first_output: Any
    operations: Any
    updates: Any
    emitted: Any
    delivered: Any
    inputs: Any
    left: Any


class Rooms(NamedTuple):
    """More storage of one chunk: delivered inputs, events left pending, and one sample's kept state."""

    input_source: Any
    input_amplitude: Any
    left_ints: Any
    left_floats: Any
    v: Any
    fired: Any
    ranges: Any


class Work(NamedTuple):
    """One sample's state within a timestep."""

    u: Any
    compare: Any
    held: Any
    ignoring: Any
    residual: Any
    count: Any
    last_spike: Any
    last_evaluation: Any
    able: Any
    turn: Any
    turn_step: Any
    reached: Any
    found: Any
    now: Any


class Events(NamedTuple):
    """The events of one chunk, all arrays of one length.

    `ints` columns are source, step, timestep, delivered timestep and step; `pending` and `deliveries` name its
    rows, `priority` and `heap` order places in `pending`, `sources` and `amplitudes` are the group under way.
    """

    ints: Any
    floats: Any
    pending: Any
    deliveries: Any
    priority: Any
    heap: Any
    sources: Any
    amplitudes: Any


SOURCE, STEP, TIMESTEP, DELIVERED_TIMESTEP, DELIVERED_STEP = range(5)
AMPLITUDE, POTENTIAL = range(2)
# entries of Work.now, the scalars that change within a timestep
(T, B, NEXT_STEP, HOP, FIRST_OUTPUT, OPERATIONS, UPDATES, EVENTS, PENDING, DELIVERIES, INPUTS, LEFT) = range(
    12
)

_GOLDEN = np.uint64(keys.GOLDEN)
_MUL1, _MUL2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)
_ONE = np.uint64(1)
_ORDER, _DROPOUT = keys.ORDER, keys.REFRACTORY_DROPOUT

# Loops over neurons live in functions of plain arrays, which LLVM vectorizes; what passes the tuples above
# around is inlined, because passing them costs more than most of these functions do.
# Nothing here allocates, so numba's reference counting is off: its atomic operations took most of the time.
compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
inlined = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)


@inlined
def mix(state, value):
    z = state + _GOLDEN * (np.uint64(value) + _ONE)
    z = (z ^ (z >> _S30)) * _MUL1
    z = (z ^ (z >> _S27)) * _MUL2
    return z ^ (z >> _S31)


@inlined
def step_state(rules, tensors, work, purpose):
    state = mix(np.uint64(0), rules.seed)
    state = mix(state, tensors.sample_ids[work.now[B]])
    state = mix(state, rules.timestep + work.now[T])
    state = mix(state, purpose)
    return mix(state, work.now[NEXT_STEP])


@inlined
def uniform(state, source):
    return float(mix(state, source) >> _S11) * 2.0**-53


@compiled
def copy(to, values):
    for i in range(len(to)):
        to[i] = values[i]


@compiled
def leak_step(u, v, leak, offset):
    for i in range(len(u)):
        u[i] = leak[i] * v[i] + offset[i]


@compiled
def delayed_subtract(u, fired, threshold):
    for i in range(len(u)):
        u[i] -= fired[i] * threshold[i]


@compiled
def set_where_fired(u, fired, value):
    for i in range(len(u)):
        if fired[i] > 0:
            u[i] = value


@compiled
def swallow(held, ignoring, fired, value):
    for i in range(len(held)):
        ignoring[i] = fired[i] > 0
        held[i] = value


@compiled
def retest(u, residual, v, compare, threshold):
    for i in range(len(u)):
        residual[i] = threshold[i] if v[i] > compare[i] else 0
        u[i] -= residual[i]


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
    if rate > 0 and uniform(step_state(rules, tensors, work, _DROPOUT), net.inputs + i) < rate:
        return
    work.compare[i] = np.inf
    work.able[p] -= 1
    if net.refractory[p] == DISCARD and not work.ignoring[i]:
        work.ignoring[i] = True
        work.held[i] = work.u[i]


@compiled
def firing(u, compare, found):
    count = 0
    for i in range(len(u)):
        if u[i] > compare[i]:
            found[count] = i
            count += 1
    return count


@compiled
def restore(u, held, ignoring):
    for i in range(len(u)):
        if ignoring[i]:
            u[i] = held[i]


@compiled
def add(u, row, scale):
    if len(scale) > 0:
        for i in range(len(u)):
            u[i] += row[i] * scale[i]
    else:
        for i in range(len(u)):
            u[i] += row[i]


@compiled
def add_events(u, weights, sources, amplitudes, count, first_source, source_scale, target_scale):
    """Add the rows of the events that leave this projection's sources; return how many did."""
    delivered = 0
    for e in range(count):
        j = sources[e] - first_source
        if j < 0 or j >= len(weights):
            continue
        factor = amplitudes[e]
        if len(source_scale) > 0:
            factor *= source_scale[j]
        if factor == 0:
            continue
        delivered += 1
        row = weights[j]
        if len(target_scale) > 0:
            for i in range(len(u)):
                u[i] += factor * row[i] * target_scale[i]
        else:
            for i in range(len(u)):
                u[i] += factor * row[i]
    return delivered


@compiled
def scale_range(start, size, samples, t, b):
    """Where the dropout factors of one frame lie in `Tensors.scales`; empty if there are none."""
    if start < 0:
        return 0, 0
    begin = start + (t * samples + b) * size
    return begin, begin + size


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
def later(work, events, a, b):
    """Whether the pending event at place a goes after the one at place b."""
    if events.priority[a] != events.priority[b]:
        return events.priority[a] > events.priority[b]
    source_a, source_b = events.ints[events.pending[a], SOURCE], events.ints[events.pending[b], SOURCE]
    if source_a != source_b:
        return source_a > source_b
    return a > b


@inlined
def sift_down(work, events, size):
    heap, at = events.heap, 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and later(work, events, heap[child + 1], heap[child]):
            child += 1
        if not later(work, events, heap[child], heap[at]):
            return
        heap[at], heap[child] = heap[child], heap[at]
        at = child


@inlined
def sift_up(work, events, at):
    heap = events.heap
    while at > 0:
        parent = (at - 1) // 2
        if not later(work, events, heap[at], heap[parent]):
            return
        heap[at], heap[parent] = heap[parent], heap[at]
        at = parent


@inlined
def pick(net, rules, tensors, work, events):
    """Put the places of the (at most F) events to deliver into `heap`, oldest first; return how many."""
    waiting = work.now[PENDING]
    size = rules.group_size
    if size == 0 or waiting <= size:
        for a in range(waiting):
            events.heap[a] = a
        return waiting
    if rules.scheduler == FIFO:
        for a in range(size):
            events.heap[a] = a
        return size
    state = step_state(rules, tensors, work, _ORDER)
    for a in range(waiting):
        row = events.pending[a]
        if rules.scheduler == RANDOM:
            events.priority[a] = uniform(state, events.ints[row, SOURCE])
        else:
            momentum = float(events.floats[row, POTENTIAL])
            if rules.noise > 0:
                momentum += rules.noise * uniform(state, events.ints[row, SOURCE])
            events.priority[a] = -momentum
    for a in range(waiting):  # keep the first `size` in a heap with the last of them on top
        if a < size:
            events.heap[a] = a
            sift_up(work, events, a)
        elif later(work, events, events.heap[0], a):
            events.heap[0] = a
            sift_down(work, events, size)
    chosen = events.sources  # free until the group is under way
    for a in range(waiting):
        chosen[a] = 0
    for g in range(size):
        chosen[events.heap[g]] = 1
    g = 0
    for a in range(waiting):
        if chosen[a] == 1:
            events.heap[g] = a
            g += 1
    return size


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


@compiled
def nonzero(frame, index, values):
    """Write the nonzero inputs of a frame; return how many, -1 if one is not finite.

    Blocks of zeros pass at vector speed.
    """
    count, block, size = 0, 16, len(frame)
    for first in range(0, size - block + 1, block):
        any_set = False
        for i in range(block):
            any_set |= frame[first + i] != 0
        if any_set:
            for i in range(first, first + block):
                if frame[i] != 0:
                    index[count] = i
                    values[count] = frame[i]
                    count += 1
    for i in range(size - size % block, size):
        if frame[i] != 0:
            index[count] = i
            values[count] = frame[i]
            count += 1
    for i in range(count):
        if not np.isfinite(values[i]):
            return -1
    return count


@compiled
def keep(v, u, residual, potentials, count, spikes):
    for i in range(len(v)):
        v[i] = u[i] + residual[i]
        potentials[i] = v[i]
        spikes[i] = count[i]


@compiled
def log_silent(u, able, last_spike, evaluated, steps, potentials):
    for i in range(len(u)):
        silent = able[i] < np.inf and evaluated > last_spike[i]
        steps[i] = evaluated if silent else -1
        potentials[i] = u[i] if silent else 0


@inlined
def end(net, tensors, work, rules, out, v, fired, keep_log):
    t, b = work.now[T], work.now[B]
    restore(work.u, work.held, work.ignoring)
    for p in range(len(net.turn)):
        a, z = net.start[p], net.start[p + 1]
        out.population_spikes[t, b, p] = work.count[a:z].sum()
        out.turn_step[t, b, p] = work.turn_step[p]
        if keep_log:
            able = work.compare[a:z] if net.spiking[p] else work.u[a:z]
            log_silent(
                work.u[a:z],
                able,
                work.last_spike[a:z],
                work.last_evaluation[p],
                out.silent_step[t, b, a:z],
                out.silent_potential[t, b, a:z],
            )
    keep(v, work.u, work.residual, out.potentials[t, b], work.count, out.spikes[t, b])
    copy(fired, work.count)
    out.forward_steps[t, b] = work.now[NEXT_STEP]
    out.first_output[t, b] = work.now[FIRST_OUTPUT]
    out.operations[t, b] = work.now[OPERATIONS]
    out.updates[t, b] = work.now[UPDATES]
    if not rules.carry:
        work.now[PENDING] = 0


@compiled
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
    for p in range(len(net.turn)):
        work.turn[p] = p if rules.scheduler == LAYERED else net.turn[p] + (1 if rules.queued else 0)
    for b in range(first_sample, last_sample):
        now[B], now[T], now[PENDING], now[NEXT_STEP] = b, -1, 0, 0
        began = (now[EVENTS], now[DELIVERIES], now[INPUTS])
        status, t = DONE, 0
        if now[EVENTS] + carried.offsets[b + 1] - carried.offsets[b] > room:
            status = NO_ROOM
        else:
            start_sample(net, rules, tensors, carried, out, work, events, rooms)
            while t < steps and status == DONE:
                now[T] = t
                status = timestep(net, rules, tensors, out, work, events, rooms, keep_log)
                t += 1
        if status == DONE and now[LEFT] + now[PENDING] > len(rooms.left_ints):
            status = NO_ROOM
        if status != DONE:
            now[EVENTS], now[DELIVERIES], now[INPUTS] = began
            return b, status, t - 1
        finish_sample(rules, out, work, events, rooms, steps)
    return last_sample, DONE, steps


@inlined
def start_sample(net, rules, tensors, carried, out, work, events, rooms):
    now = work.now
    b = now[B]
    copy(rooms.v, tensors.potentials[b])
    copy(rooms.fired, tensors.spikes[b])
    out.emitted[b, 0] = now[EVENTS]
    for row in range(carried.offsets[b], carried.offsets[b + 1]):
        at = now[EVENTS]
        emit(net, work, events, carried.source[row], carried.amplitude[row], carried.potential[row], True)
        events.ints[at, STEP] = carried.step[row]
        events.ints[at, TIMESTEP] = carried.timestep[row] - rules.timestep


@inlined
def finish_sample(rules, out, work, events, rooms, steps):
    now = work.now
    b = now[B]
    out.emitted[b, steps + 1] = now[EVENTS]
    out.delivered[b, steps] = now[DELIVERIES]
    out.left[b] = now[PENDING]
    for a in range(now[PENDING]):
        row, left = events.pending[a], now[LEFT]
        rooms.left_ints[left, 0] = events.ints[row, SOURCE]
        rooms.left_ints[left, 1] = events.ints[row, TIMESTEP] + rules.timestep
        rooms.left_ints[left, 2] = events.ints[row, STEP]
        rooms.left_floats[left, 0] = events.floats[row, AMPLITUDE]
        rooms.left_floats[left, 1] = events.floats[row, POTENTIAL]
        now[LEFT] = left + 1


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
    inputs, values = rooms.input_source[first:], rooms.input_amplitude[first:]
    count = nonzero(tensors.x[t, b], inputs, values)
    if count < 0:
        return NOT_FINITE
    if keep_log and not rules.queued:
        now[INPUTS] += count
    begin(net, tensors, work, rooms.v, rooms.fired)
    most = net.neurons + count  # events that one forward step can emit
    last_row = len(events.ints) - most
    status = DONE if now[EVENTS] <= last_row else NO_ROOM
    if status == DONE and rules.scheduler == LAYERED:
        run_layered(net, rules, tensors, work, events, inputs, values, count, rooms.ranges)
    elif status == DONE:
        first_step(net, rules, tensors, work, events, inputs, values, count)
        while status == DONE:
            turn = next_turn(net, tensors, work) if now[PENDING] == 0 else -1
            if now[PENDING] == 0 and turn < 0:
                skip_to(net, work, -1)
                break
            if stopped(rules, work):
                break
            if now[NEXT_STEP] >= rules.max_forward_steps:
                status = RUNAWAY
            elif now[EVENTS] > last_row:
                status = NO_ROOM
            else:
                now[HOP] += 1
                if turn >= 0:
                    skip_to(net, work, turn)
                deliver_group(net, rules, tensors, work, events)
                evaluate(net, rules, tensors, work, events)
    end(net, tensors, work, rules, out, rooms.v, rooms.fired, keep_log)
    return status


@inlined
def first_step(net, rules, tensors, work, events, inputs, values, count):
    if rules.queued:
        for i in range(count):
            emit(net, work, events, inputs[i], values[i], values[i], True)
    else:
        for k in range(len(net.target)):
            if net.source[k] < 0:
                deliver(net, tensors, work, k, inputs, values, count)
    evaluate(net, rules, tensors, work, events)


@inlined
def run_layered(net, rules, tensors, work, events, inputs, values, count, ranges):
    # spikes of this timestep are found by population; only what was carried in is pending
    carried = work.now[PENDING]
    ranges[:] = 0
    for p in range(len(net.turn)):
        work.now[HOP] = p
        going = layered_population(net, rules, tensors, work, events, inputs, values, count, ranges, p)
        work.now[PENDING] = carried
        if not going:
            break
    work.now[PENDING] = 0
