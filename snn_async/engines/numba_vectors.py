"""Loops over plain arrays, one population's neurons or one projection's synapses at a time."""

import numpy as np

from snn_async.engines.numba_records import compiled


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
