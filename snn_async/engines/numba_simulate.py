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
    priority: Any
    heap: Any
    now: Any


class Events(NamedTuple):
    """Growable storage of one chunk: `ints` columns are source, step, timestep, delivered timestep and step."""

    ints: Any
    floats: Any
    pending: Any
    deliveries: Any


SOURCE, STEP, TIMESTEP, DELIVERED_TIMESTEP, DELIVERED_STEP = range(5)
AMPLITUDE, POTENTIAL = range(2)
# entries of Work.now, the scalars that change within a timestep
(T, B, NEXT_STEP, HOP, FIRST_OUTPUT, OPERATIONS, UPDATES, EVENTS, PENDING, DELIVERIES, INPUTS) = range(11)

_GOLDEN = np.uint64(keys.GOLDEN)
_MUL1, _MUL2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)
_ONE = np.uint64(1)
_ORDER, _DROPOUT = keys.ORDER, keys.REFRACTORY_DROPOUT

compiled = njit(cache=True, nogil=True, error_model="numpy")


@compiled
def mix(state, value):  # type: ignore[no-untyped-def]
    z = state + _GOLDEN * (np.uint64(value) + _ONE)
    z = (z ^ (z >> _S30)) * _MUL1
    z = (z ^ (z >> _S27)) * _MUL2
    return z ^ (z >> _S31)


@compiled
def step_state(rules, tensors, work, purpose):  # type: ignore[no-untyped-def]
    state = mix(np.uint64(0), rules.seed)
    state = mix(state, tensors.sample_ids[work.now[B]])
    state = mix(state, rules.timestep + work.now[T])
    state = mix(state, purpose)
    return mix(state, work.now[NEXT_STEP])


@compiled
def uniform(state, source):  # type: ignore[no-untyped-def]
    return float(mix(state, source) >> _S11) * 2.0**-53


@compiled
def begin(net, tensors, work, v, fired):  # type: ignore[no-untyped-def]
    """Leak and delayed reset, in the framework's own order; nobody is refractory."""
    work.compare[:] = tensors.compare
    work.ignoring[:] = False
    work.residual[:] = 0
    work.count[:] = 0
    work.last_spike[:] = -1
    work.last_evaluation[:] = -1
    work.turn_step[:] = -1
    for p in range(len(net.turn)):
        work.able[p] = net.start[p + 1] - net.start[p]
        delayed, reset, value = net.delayed[p], net.reset[p], net.reset_value[p]
        for i in range(net.start[p], net.start[p + 1]):
            before = v[i]
            if delayed and reset == VALUE and fired[i] > 0:
                before = value
            base = tensors.leak[i] * before + tensors.offset[i]
            if delayed and reset == SUBTRACT:
                base -= fired[i] * tensors.threshold[i]
            if net.swallow[p] and fired[i] > 0:
                base = value
                work.ignoring[i] = True
                work.held[i] = value
            if net.retest[p] and v[i] > tensors.compare[i]:
                work.residual[i] = tensors.threshold[i]
                base -= tensors.threshold[i]
            work.u[i] = base


@compiled
def emit(net, work, events, source, amplitude, potential, waits):  # type: ignore[no-untyped-def]
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


@compiled
def spike(net, rules, tensors, work, events, p, i):  # type: ignore[no-untyped-def]
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
def evaluate(net, rules, tensors, work, events):  # type: ignore[no-untyped-def]
    """Finish a forward step: biases of the populations whose turn it is, then one evaluation each."""
    step = work.now[NEXT_STEP]
    for p in range(len(net.turn)):
        if work.turn[p] == work.now[HOP]:
            work.turn_step[p] = step
            work.reached[p] = True
            for k in range(len(net.target)):
                if net.target[k] == p and tensors.has_bias[p]:
                    add_row(net, tensors, work, k, tensors.biases, net.bias_start[k], tensors.x.dtype.type(1))
    for p in range(len(net.turn)):
        if not work.reached[p]:
            continue
        work.reached[p] = False
        first, last = net.start[p], net.start[p + 1]
        work.last_evaluation[p] = step
        work.now[UPDATES] += last - first if net.refractory[p] == INTEGRATE else work.able[p]
        if net.swallow[p]:
            for i in range(first, last):
                if work.ignoring[i]:
                    work.u[i] = work.held[i]
        for i in range(first, last):
            if work.u[i] > work.compare[i]:
                spike(net, rules, tensors, work, events, p, i)
    work.now[NEXT_STEP] = step + 1


@compiled
def add_row(net, tensors, work, k, values, first, factor):  # type: ignore[no-untyped-def]
    size = net.fan_out[k]
    base = net.start[net.target[k]]
    u = work.u[base : base + size]
    row = values[first : first + size]
    scale_start = tensors.target_scale_start[k]
    if scale_start < 0:
        for i in range(size):
            u[i] += factor * row[i]
    else:
        samples = tensors.x.shape[1]
        at = scale_start + (work.now[T] * samples + work.now[B]) * size
        for i in range(size):
            u[i] += factor * row[i] * tensors.scales[at + i]


@compiled
def deliver(net, tensors, work, k, source, amplitude):  # type: ignore[no-untyped-def]
    """Add the current of one event through projection k, if it leaves that source."""
    row = source - net.first_source[k]
    if row < 0 or row >= net.fan_in[k]:
        return
    factor = tensors.x.dtype.type(amplitude)
    scale_start = tensors.source_scale_start[k]
    if scale_start >= 0:
        samples = tensors.x.shape[1]
        factor *= tensors.scales[scale_start + (work.now[T] * samples + work.now[B]) * net.fan_in[k] + row]
    if factor == 0:
        return
    work.reached[net.target[k]] = True
    work.now[OPERATIONS] += net.fan_out[k]
    add_row(net, tensors, work, k, tensors.weights, net.weight_start[k] + row * net.fan_out[k], factor)


@compiled
def turn_changes(net, tensors, work, p):  # type: ignore[no-untyped-def]
    if tensors.has_bias[p]:
        return True
    for i in range(net.start[p], net.start[p + 1]):
        if work.u[i] > work.compare[i]:
            return True
    return False


@compiled
def next_turn(net, tensors, work):  # type: ignore[no-untyped-def]
    """The next turn that can change anything, -1 if there is none."""
    best = -1
    for p in range(len(net.turn)):
        turn = work.turn[p]
        if turn > work.now[HOP] and (best < 0 or turn < best) and turn_changes(net, tensors, work, p):
            best = turn
    return best


@compiled
def take_turn(net, work, p):  # type: ignore[no-untyped-def]
    if work.turn_step[p] < 0:
        work.turn_step[p] = work.now[NEXT_STEP]
        work.last_evaluation[p] = work.now[NEXT_STEP]
        work.now[UPDATES] += work.able[p]


@compiled
def skip_to(net, work, turn):  # type: ignore[no-untyped-def]
    """Let turns pass that can change nothing; turn -1 lets all pass."""
    for p in range(len(net.turn)):
        if work.turn[p] >= work.now[HOP] and (turn < 0 or work.turn[p] < turn):
            take_turn(net, work, p)
    if turn >= 0:
        work.now[HOP] = turn


@compiled
def stopped(rules, work):  # type: ignore[no-untyped-def]
    step = work.now[NEXT_STEP]
    if rules.stop == AFTER and step >= rules.stop_steps:
        return True
    if rules.stop != OUTPUT or work.now[FIRST_OUTPUT] < 0:
        return False
    return step > work.now[FIRST_OUTPUT] + rules.stop_steps


@compiled
def later(work, events, a, b):  # type: ignore[no-untyped-def]
    """Whether the pending event at place a goes after the one at place b."""
    if work.priority[a] != work.priority[b]:
        return work.priority[a] > work.priority[b]
    source_a, source_b = events.ints[events.pending[a], SOURCE], events.ints[events.pending[b], SOURCE]
    if source_a != source_b:
        return source_a > source_b
    return a > b


@compiled
def sift_down(work, events, size):  # type: ignore[no-untyped-def]
    heap, at = work.heap, 0
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


@compiled
def sift_up(work, events, at):  # type: ignore[no-untyped-def]
    heap = work.heap
    while at > 0:
        parent = (at - 1) // 2
        if not later(work, events, heap[at], heap[parent]):
            return
        heap[at], heap[parent] = heap[parent], heap[at]
        at = parent


@compiled
def pick(net, rules, tensors, work, events):  # type: ignore[no-untyped-def]
    """Put the places of the (at most F) events to deliver into `heap`, oldest first; return how many."""
    waiting = work.now[PENDING]
    size = rules.group_size
    if size == 0 or waiting <= size:
        for a in range(waiting):
            work.heap[a] = a
        return waiting
    if rules.scheduler == FIFO:
        for a in range(size):
            work.heap[a] = a
        return size
    state = step_state(rules, tensors, work, _ORDER)
    for a in range(waiting):
        row = events.pending[a]
        if rules.scheduler == RANDOM:
            work.priority[a] = uniform(state, events.ints[row, SOURCE])
        else:
            momentum = float(events.floats[row, POTENTIAL])
            if rules.noise > 0:
                momentum += rules.noise * uniform(state, events.ints[row, SOURCE])
            work.priority[a] = -momentum
    for a in range(waiting):  # keep the first `size` in a heap with the last of them on top
        if a < size:
            work.heap[a] = a
            sift_up(work, events, a)
        elif later(work, events, work.heap[0], a):
            work.heap[0] = a
            sift_down(work, events, size)
    work.heap[:size].sort()
    return size


@compiled
def deliver_group(net, rules, tensors, work, events):  # type: ignore[no-untyped-def]
    size = pick(net, rules, tensors, work, events)
    for g in range(size):
        row = events.pending[work.heap[g]]
        events.ints[row, DELIVERED_TIMESTEP] = work.now[T]
        events.ints[row, DELIVERED_STEP] = work.now[NEXT_STEP]
        events.deliveries[work.now[DELIVERIES]] = row
        work.now[DELIVERIES] += 1
        for k in range(len(net.target)):
            deliver(net, tensors, work, k, events.ints[row, SOURCE], events.floats[row, AMPLITUDE])
    waiting, kept, g = work.now[PENDING], 0, 0
    if size < waiting:
        for a in range(waiting):
            if g < size and work.heap[g] == a:
                g += 1
            else:
                events.pending[kept] = events.pending[a]
                kept += 1
    work.now[PENDING] = kept


@compiled
def layered_population(net, rules, tensors, work, events, inputs, values, count, ranges, p):  # type: ignore[no-untyped-def]
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
        if net.target[k] != p:
            continue
        for a in range(work.now[PENDING]):
            deliver_once(net, tensors, work, events, k, events.pending[a])
        q = net.source[k]
        if q < 0:
            for i in range(count):
                deliver(net, tensors, work, k, inputs[i], values[i])
        else:
            for row in range(ranges[q, 0], ranges[q, 1]):
                deliver_once(net, tensors, work, events, k, row)
    ranges[p, 0] = work.now[EVENTS]
    evaluate(net, rules, tensors, work, events)
    ranges[p, 1] = work.now[EVENTS]
    return True


@compiled
def deliver_once(net, tensors, work, events, k, row):  # type: ignore[no-untyped-def]
    """Deliver an event behind the barrier; the log names its first delivery."""
    at = events.ints[row, SOURCE] - net.first_source[k]
    if 0 <= at < net.fan_in[k]:
        if events.ints[row, DELIVERED_TIMESTEP] < 0:
            events.ints[row, DELIVERED_TIMESTEP] = work.now[T]
            events.ints[row, DELIVERED_STEP] = work.now[NEXT_STEP]
            events.deliveries[work.now[DELIVERIES]] = row
            work.now[DELIVERIES] += 1
        deliver(net, tensors, work, k, events.ints[row, SOURCE], events.floats[row, AMPLITUDE])


@compiled
def nonzero(frame, index, values):  # type: ignore[no-untyped-def]
    """Write the nonzero inputs of a frame, return how many; blocks of zeros pass at vector speed."""
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
    return count


@compiled
def grown(array, size):  # type: ignore[no-untyped-def]
    bigger = np.empty((size,) + array.shape[1:], dtype=array.dtype)
    bigger[: len(array)] = array
    return bigger


@compiled
def end(net, work, events, rules, out, v, keep_log):  # type: ignore[no-untyped-def]
    t, b = work.now[T], work.now[B]
    for p in range(len(net.turn)):
        spikes, evaluated = 0, work.last_evaluation[p]
        for i in range(net.start[p], net.start[p + 1]):
            if work.ignoring[i]:
                work.u[i] = work.held[i]
            spikes += work.count[i]
            out.spikes[t, b, i] = work.count[i]
            if keep_log:
                refractory = net.spiking[p] and work.compare[i] == np.inf
                silent = not refractory and evaluated > work.last_spike[i]
                out.silent_step[t, b, i] = evaluated if silent else -1
                out.silent_potential[t, b, i] = work.u[i] if silent else 0
            v[i] = work.u[i] + work.residual[i]
            out.potentials[t, b, i] = v[i]
        out.population_spikes[t, b, p] = spikes
        out.turn_step[t, b, p] = work.turn_step[p]
    out.forward_steps[t, b] = work.now[NEXT_STEP]
    out.first_output[t, b] = work.now[FIRST_OUTPUT]
    out.operations[t, b] = work.now[OPERATIONS]
    out.updates[t, b] = work.now[UPDATES]
    if not rules.carry:
        work.now[PENDING] = 0


@compiled
def simulate_chunk(net, rules, tensors, carried, out, work, first_sample, last_sample, keep_log):  # type: ignore[no-untyped-def]
    """Run samples first_sample .. last_sample - 1; return the chunk's events and a runaway (sample, timestep).

    Offsets written to `out` count rows within this chunk.
    """
    steps, _, size = tensors.x.shape
    neurons, populations = net.neurons, len(net.turn)
    capacity = 4 * (neurons + size)
    events = Events(
        np.empty((capacity, 5), dtype=np.int32),
        np.empty((capacity, 2), dtype=tensors.x.dtype),
        np.empty(capacity, dtype=np.int64),
        np.empty(capacity, dtype=np.int64),
    )
    priority, heap = work.priority, work.heap
    inputs, values = np.empty(size, dtype=np.int32), np.empty(size, dtype=tensors.x.dtype)
    input_source = np.empty(4 * size, dtype=np.int32)
    input_amplitude = np.empty(4 * size, dtype=tensors.x.dtype)
    left_ints, left_floats = np.empty((16, 3), dtype=np.int64), np.empty((16, 2), dtype=np.float64)
    left = 0
    ranges = np.zeros((populations, 2), dtype=np.int64)
    v = np.empty(neurons, dtype=tensors.x.dtype)
    fired = np.empty(neurons, dtype=np.int64)
    now = work.now
    now[EVENTS] = now[DELIVERIES] = now[INPUTS] = 0
    runaway = (-1, -1)
    for b in range(first_sample, last_sample):
        now[B], now[PENDING], now[T] = b, 0, -1
        v[:] = tensors.potentials[b]
        fired[:] = tensors.spikes[b]
        out.emitted[b, 0] = now[EVENTS]
        arriving = carried.offsets[b + 1] - carried.offsets[b]
        now[NEXT_STEP] = 0
        needed = now[EVENTS] + arriving + neurons + size
        if needed > len(events.ints):
            capacity = 2 * needed
            events = Events(
                grown(events.ints, capacity),
                grown(events.floats, capacity),
                grown(events.pending, capacity),
                grown(events.deliveries, capacity),
            )
        for row in range(carried.offsets[b], carried.offsets[b + 1]):
            emit(net, work, events, carried.source[row], carried.amplitude[row], carried.potential[row], True)
            events.ints[now[EVENTS] - 1, STEP] = carried.step[row]
            events.ints[now[EVENTS] - 1, TIMESTEP] = carried.timestep[row] - rules.timestep
        for t in range(steps):
            now[T], now[NEXT_STEP], now[HOP], now[FIRST_OUTPUT] = t, 0, 0, -1
            now[OPERATIONS] = now[UPDATES] = 0
            out.emitted[b, 1 + t] = now[EVENTS]
            out.delivered[b, t] = now[DELIVERIES]
            out.inputs[b * steps + t] = now[INPUTS]
            begin(net, tensors, work, v, fired)
            count = nonzero(tensors.x[t, b], inputs, values)
            if not rules.queued and keep_log:
                if now[INPUTS] + count > len(input_source):
                    input_source = grown(input_source, 2 * (now[INPUTS] + count))
                    input_amplitude = grown(input_amplitude, 2 * (now[INPUTS] + count))
                input_source[now[INPUTS] : now[INPUTS] + count] = inputs[:count]
                input_amplitude[now[INPUTS] : now[INPUTS] + count] = values[:count]
                now[INPUTS] += count
            phase = 0
            while True:
                needed = now[EVENTS] + neurons + size
                if needed > len(events.ints):
                    capacity = 2 * needed
                    events = Events(
                        grown(events.ints, capacity),
                        grown(events.floats, capacity),
                        grown(events.pending, capacity),
                        grown(events.deliveries, capacity),
                    )
                if rules.scheduler == LAYERED:
                    if phase == 0:
                        ranges[:] = 0
                        for p in range(populations):
                            work.turn[p] = p
                    now[HOP] = phase
                    # spikes of this timestep are found by population; only what was carried in is pending
                    before = now[PENDING]
                    going = layered_population(
                        net, rules, tensors, work, events, inputs, values, count, ranges, phase
                    )
                    now[PENDING] = before
                    phase += 1
                    if not going or phase == populations:
                        now[PENDING] = 0
                        break
                    continue
                if phase == 0:
                    if rules.queued:
                        for i in range(count):
                            emit(net, work, events, inputs[i], values[i], values[i], True)
                    else:
                        for k in range(len(net.target)):
                            if net.source[k] < 0:
                                for i in range(count):
                                    deliver(net, tensors, work, k, inputs[i], values[i])
                    evaluate(net, rules, tensors, work, events)
                    phase = 1
                    continue
                turn = -1
                if now[PENDING] == 0:
                    turn = next_turn(net, tensors, work)
                    if turn < 0:
                        skip_to(net, work, -1)
                        break
                if stopped(rules, work):
                    break
                if now[NEXT_STEP] >= rules.max_forward_steps:
                    runaway = (b, t)
                    break
                now[HOP] += 1
                if turn >= 0:
                    skip_to(net, work, turn)
                if now[PENDING] > len(work.heap):
                    priority = np.empty(2 * now[PENDING], dtype=np.float64)
                    heap = np.empty(2 * now[PENDING], dtype=np.int64)
                    work = Work(
                        work.u,
                        work.compare,
                        work.held,
                        work.ignoring,
                        work.residual,
                        work.count,
                        work.last_spike,
                        work.last_evaluation,
                        work.able,
                        work.turn,
                        work.turn_step,
                        work.reached,
                        priority,
                        heap,
                        work.now,
                    )
                deliver_group(net, rules, tensors, work, events)
                evaluate(net, rules, tensors, work, events)
            end(net, work, events, rules, out, v, keep_log)
            fired[:] = work.count
            if runaway[0] >= 0:
                break
        out.emitted[b, steps + 1] = now[EVENTS]
        out.delivered[b, steps] = now[DELIVERIES]
        out.left[b] = now[PENDING]
        if left + now[PENDING] > len(left_ints):
            left_ints = grown(left_ints, 2 * (left + now[PENDING]))
            left_floats = grown(left_floats, 2 * (left + now[PENDING]))
        for a in range(now[PENDING]):
            row = events.pending[a]
            left_ints[left, 0] = events.ints[row, SOURCE]
            left_ints[left, 1] = events.ints[row, TIMESTEP] + rules.timestep
            left_ints[left, 2] = events.ints[row, STEP]
            left_floats[left, 0] = events.floats[row, AMPLITUDE]
            left_floats[left, 1] = events.floats[row, POTENTIAL]
            left += 1
        if runaway[0] >= 0:
            break
    return (
        events.ints[: now[EVENTS]],
        events.floats[: now[EVENTS]],
        events.deliveries[: now[DELIVERIES]],
        input_source[: now[INPUTS]],
        input_amplitude[: now[INPUTS]],
        left_ints[:left],
        left_floats[:left],
        runaway,
    )
