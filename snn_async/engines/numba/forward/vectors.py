"""Loops over plain arrays, one population's neurons or one projection's synapses at a time.

LLVM vectorizes loops without jumps. `flags` are all 0 between two uses; `words` are the same memory, eight flags each.
"""

import numpy as np

from snn_async.engines.numba.codes import NOT_YET
from snn_async.engines.numba.jit import compiled


@compiled
def fill(to, value):
    for i in range(len(to)):
        to[i] = value


@compiled
def total(values):
    found = 0
    for i in range(len(values)):
        found += values[i]
    return found


@compiled
def copy(to, values):
    for i in range(len(to)):
        to[i] = values[i]


@compiled
def restore(u, held, ignoring):
    for i in range(len(u)):
        kept, now = held[i], u[i]  # both are read, else LLVM chooses between addresses
        u[i] = kept if ignoring[i] else now


@compiled
def add(u, row, scale):
    if len(scale) > 0:
        for i in range(len(u)):
            u[i] += row[i] * scale[i]
    else:
        for i in range(len(u)):
            u[i] += row[i]


@compiled
def scale_range(start, size, samples, t, b):
    """Where the dropout factors of one frame lie in `Tensors.scales`; empty if there are none."""
    if start < 0:
        return 0, 0
    begin = start + (t * samples + b) * size
    return begin, begin + size


@compiled
def next_blocks(dirty, able, last_evaluation, first, high, step, found):
    """Find the next run of dirty blocks, clean them and note their evaluation; return how many are able.

    Writes the run's begin and end to `found`; they are equal if there is none.
    """
    while first < high and dirty[first] == 0:
        first += 1
    found[0] = first
    count = 0
    while first < high and dirty[first] != 0:
        dirty[first] = 0
        last_evaluation[first] = step
        count += able[first]
        first += 1
    found[1] = first
    return count


@compiled
def evaluate_all(able, last_evaluation, step):
    """Note an evaluation of every block; return how many neurons are able."""
    count = 0
    for q in range(len(able)):
        count += able[q]
        last_evaluation[q] = step
    return count


@compiled
def _above(current, base, gain, compare, flags):
    for i in range(len(current)):
        flags[i] = base[i] + gain[i] * current[i] > compare[i]


@compiled
def _set_places(flags, words, size, found):
    """List where flags are set, looking at eight at a time; return how many. Leaves no flag set."""
    count = 0
    for w in range((size + 7) // 8):
        if words[w] != 0:
            for i in range(8 * w, 8 * w + 8):
                found[count] = i
                count += flags[i]
            words[w] = 0
    return count


@compiled
def firing(current, base, gain, compare, flags, words, found):
    """List the neurons whose potential is above `compare`; return how many."""
    _above(current, base, gain, compare, flags)
    return _set_places(flags, words, len(current), found)


@compiled
def any_above(current, base, gain, compare):
    """Whether any neuron would fire."""
    found = False
    for i in range(len(current)):
        found |= base[i] + gain[i] * current[i] > compare[i]
    return found


@compiled
def any_set(values):
    found = False
    for i in range(len(values)):
        found |= values[i] != 0
    return found


@compiled
def settle(base, gain, current):
    """From what a potential starts with to the potential."""
    for i in range(len(base)):
        base[i] += gain[i] * current[i]


@compiled
def keep(potentials, spikes, u, residual, count):
    for i in range(len(u)):
        potentials[i] = u[i] + residual[i]
    for i in range(len(u)):
        spikes[i] = count[i]


@compiled
def _log_block(u, able, last_spike, evaluated, steps, potentials):
    zero, never = u.dtype.type(0), np.int32(NOT_YET)
    for i in range(len(u)):
        silent = (able[i] < np.inf) & (evaluated > last_spike[i])
        steps[i] = evaluated if silent else never
        potentials[i] = u[i] if silent else zero


@compiled
def log_silent(u, able, last_spike, last_evaluation, block, steps, potentials):
    a, z = 0, block
    for evaluated in last_evaluation:
        _log_block(u[a:z], able[a:z], last_spike[a:z], evaluated, steps[a:z], potentials[a:z])
        a, z = z, z + block


@compiled
def all_finite(values):
    infinite = False
    for i in range(len(values)):
        infinite |= not np.isfinite(values[i])
    return not infinite


@compiled
def _nonzero_flags(values, flags):
    for i in range(len(values)):
        flags[i] = values[i] != 0


@compiled
def nonzero(frame, first_source, flags, words, index, values):
    """List the sources whose value is not 0; return how many."""
    _nonzero_flags(frame, flags)
    count = _set_places(flags, words, len(frame), index)
    for e in range(count):
        values[e] = frame[index[e]]
        index[e] += first_source
    return count
