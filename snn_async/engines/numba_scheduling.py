"""Which pending events go next: the first F in the scheduler's order, by a heap."""

from snn_async import keys
from snn_async.engines.numba_keys import step_state, uniform
from snn_async.engines.numba_records import FIFO, PENDING, POTENTIAL, RANDOM, SOURCE, inlined


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
    state = step_state(rules, tensors, work, keys.ORDER)
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
