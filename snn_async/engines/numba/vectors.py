"""Loops over plain arrays, one population's neurons or one projection's synapses at a time."""

import numpy as np

from snn_async.engines.numba.records import compiled


@compiled
def copy(to, values):
    for i in range(len(to)):
        to[i] = values[i]


@compiled
def set_where_fired(u, fired, value):
    for i in range(len(u)):
        if fired[i] > 0:
            u[i] = value


@compiled
def leak_step(u, v, leak, offset):
    for i in range(len(u)):
        u[i] = leak[i] * v[i] + offset[i]


@compiled
def delayed_subtract(u, fired, threshold):
    for i in range(len(u)):
        u[i] -= fired[i] * threshold[i]


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


@compiled
def restore(u, held, ignoring):
    for i in range(len(u)):
        if ignoring[i]:
            u[i] = held[i]


@compiled
def firing(u, compare, found):
    count = 0
    for i in range(len(u)):
        if u[i] > compare[i]:
            found[count] = i
            count += 1
    return count


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
def any_above(u, compare):
    """Whether any neuron would fire; blocks pass at vector speed."""
    block, size = 64, len(u)
    for first in range(0, size, block):
        above = False
        for i in range(first, min(first + block, size)):
            above |= u[i] > compare[i]
        if above:
            return True
    return False


@compiled
def any_set(values):
    found = False
    for i in range(len(values)):
        found |= values[i] != 0
    return found


@compiled
def active_sources(values, sources, amplitudes, first_source):
    """List the sources whose value is not 0; return how many."""
    count = 0
    for i in range(len(values)):
        if values[i] != 0:
            sources[count] = first_source + i
            amplitudes[count] = values[i]
            count += 1
    return count


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
def log_silent(u, able, last_spike, last_evaluation, block, steps, potentials):
    for q in range(len(last_evaluation)):
        evaluated = last_evaluation[q]
        for i in range(q * block, (q + 1) * block):
            silent = able[i] < np.inf and evaluated > last_spike[i]
            steps[i] = evaluated if silent else -1
            potentials[i] = u[i] if silent else 0
