"""Which pending events go next: the first F in the scheduler's order, found without sorting.

`Events.pending` holds rows from place `OLDEST` on, with their `key`s beside them; smaller keys go first, then smaller
sources, then older rows. Kernels take the `PICKED` rows they pick out of it, into `chosen`.
"""

import numpy as np

from snn_async import random_keys
from snn_async.engines.numba.codes import OLDEST, ORDERED, PENDING, PICKED
from snn_async.engines.numba.forward.keys import step_state, uniform
from snn_async.engines.numba.forward.vectors import copy
from snn_async.engines.numba.jit import Kernel, compiled, inlined


@compiled
def _before(key, row, source, a, b):
    """Whether what is at place a goes before what is at place b."""
    if key[a] != key[b]:
        return key[a] < key[b]
    if source[row[a]] != source[row[b]]:
        return source[row[a]] < source[row[b]]
    return row[a] < row[b]


@compiled
def _swap(key, row, a, b):
    key[a], key[b] = key[b], key[a]
    row[a], row[b] = row[b], row[a]


@compiled
def _sift_up(key, row, source, at):
    """Add what is at place `at` to the heap before it, whose first is on top."""
    while at > 0 and _before(key, row, source, at, (at - 1) // 2):
        _swap(key, row, at, (at - 1) // 2)
        at = (at - 1) // 2


@compiled
def _sift_down(key, row, source, at, count, last):
    """Let what is at place `at` sink in a heap whose first, or `last`, is on top."""
    while True:
        best = at
        for child in (2 * at + 1, 2 * at + 2):
            if child < count and _before(key, row, source, child, best) != last:
                best = child
        if best == at:
            return
        _swap(key, row, at, best)
        at = best


@compiled
def _momentum_key(potential):
    """A potential rounded to 20 significant bits (`snn_async.schedulers.momentum_key`)."""
    bits = np.float64(potential).view(np.int64)
    return np.int64((bits + (1 << 32)) & ~((1 << 33) - 1)).view(np.float64)


@inlined
def _take_first(work, events, size):
    """Pick the first `size` places of what is pending; the last ones take them over."""
    count = work.now[PENDING]
    copy(events.chosen[:size], events.pending[:size])
    for a in range(min(size, count - size)):
        events.pending[a] = events.pending[max(size, count - size) + a]
    work.now[PENDING], work.now[PICKED] = count - size, size


def oldest(net, rules, tensors, work, events, size):
    first = work.now[OLDEST]
    copy(events.chosen[:size], events.pending[first : first + size])
    work.now[PENDING], work.now[PICKED] = work.now[PENDING] - size, size
    work.now[OLDEST] = first + size if work.now[PENDING] > 0 else 0
    work.now[ORDERED] = 0


def by_momentum(net, rules, tensors, work, events, size):
    """What an event's place follows from is fixed: what was pending before stays ordered, as a heap."""
    key, row, source, count = events.key, events.pending, events.source, work.now[PENDING]
    for a in range(work.now[ORDERED], count):
        key[a] = -_momentum_key(events.potential[row[a]])
        _sift_up(key, row, source, a)
    for g in range(size):
        events.chosen[g] = row[0]
        count -= 1
        key[0], row[0] = key[count], row[count]
        _sift_down(key, row, source, 0, count, False)
    work.now[PENDING], work.now[ORDERED], work.now[PICKED] = count, count, size


def by_fresh_keys(net, rules, tensors, work, events, size):
    """Keys are drawn in every forward step, and looked at once: the first ones so far are a heap, its last on top."""
    key, row, source, count = events.key, events.pending, events.source, work.now[PENDING]
    state = step_state(rules, tensors, work, random_keys.ORDER)
    for a in range(count):
        key[a] = rules.noise * uniform(state, source[row[a]])
    if rules.by_potential:
        for a in range(count):
            key[a] = -(_momentum_key(events.potential[row[a]]) + key[a])
    for a in range(size // 2 - 1, -1, -1):
        _sift_down(key, row, source, a, size, True)
    for a in range(size, count):
        if _before(key, row, source, a, 0):
            _swap(key, row, a, 0)
            _sift_down(key, row, source, 0, size, True)
    _take_first(work, events, size)


OLDEST_FIRST, BY_MOMENTUM, BY_FRESH_KEYS = Kernel(oldest), Kernel(by_momentum), Kernel(by_fresh_keys)
