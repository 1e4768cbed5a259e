"""Which pending events go next: the first F in the scheduler's order, found without sorting."""

import numpy as np

from snn_async import random_keys
from snn_async.engines.numba.codes import FIFO, PENDING, POTENTIAL, RANDOM, SOURCE
from snn_async.engines.numba.forward.keys import step_state, uniform
from snn_async.engines.numba.jit import compiled, inlined


@compiled
def nth_smallest(values, count, n):
    """Return what would be at place n if values[:count] were sorted; reorders them (quickselect)."""
    low, high = 0, count - 1
    while low < high:
        a, b, c = values[(3 * low + high) // 4], values[(low + high) // 2], values[high]
        few = 4 * (n - low) < high - low  # then a pivot nearer to them leaves less to look at
        pivot = min(a, b, c) if few else max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if n <= j:
            high = j
        elif n >= i:
            low = i
        else:
            break
    return values[n]


@compiled
def choose(priority, sources, scratch, count, size, chosen):
    """Write the places of the `size` first events, by priority, then source, then place; in order of place."""
    for a in range(count):
        scratch[a] = priority[a]
    last = nth_smallest(scratch, count, size - 1)
    before = ties = 0
    for a in range(count):
        before += priority[a] < last
        if priority[a] == last:
            scratch[ties] = sources[a]
            ties += 1
    left, last_source = size - before, np.inf
    if ties > left:
        last_source = nth_smallest(scratch, ties, left - 1)
        for i in range(ties):
            left -= scratch[i] < last_source
    g = 0
    for a in range(count):
        taken = priority[a] < last
        if priority[a] == last:
            taken = sources[a] < last_source
            if sources[a] == last_source and left > 0:
                taken = True
                left -= 1
        if taken:
            chosen[g] = a
            g += 1


@inlined
def momentum_key(potential):
    """A potential rounded to 20 significant bits (`snn_async.schedulers.momentum_key`)."""
    bits = np.float64(potential).view(np.int64)
    return np.int64((bits + (1 << 32)) & ~((1 << 33) - 1)).view(np.float64)


@inlined
def pick(net, rules, tensors, work, events):
    """Put the places of the (at most F) events to deliver into `chosen`, oldest first; return how many."""
    waiting = work.now[PENDING]
    size = rules.group_size
    if size == 0 or waiting <= size or rules.scheduler == FIFO:
        size = waiting if size == 0 else min(waiting, size)
        for a in range(size):
            events.chosen[a] = a
        return size
    state = step_state(rules, tensors, work, random_keys.ORDER)
    for a in range(waiting):
        row = events.pending[a]
        source = events.ints[row, SOURCE]
        events.sources[a] = source  # free until the group is under way
        if rules.scheduler == RANDOM:
            events.priority[a] = uniform(state, source)
        else:
            momentum = momentum_key(events.floats[row, POTENTIAL])
            if rules.noise > 0:
                momentum += rules.noise * uniform(state, source)
            events.priority[a] = -momentum
    choose(events.priority, events.sources, events.scratch, waiting, size, events.chosen)
    return size
