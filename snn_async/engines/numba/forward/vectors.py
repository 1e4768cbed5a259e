"""Loops over plain arrays, one population's neurons or one projection's synapses at a time."""

import numpy as np

from snn_async.engines.numba.codes import NOT_YET
from snn_async.engines.numba.jit import compiled


@compiled
def copy(to, values):
    for i in range(len(to)):
        to[i] = values[i]


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
def scale_range(start, size, samples, t, b):
    """Where the dropout factors of one frame lie in `Tensors.scales`; empty if there are none."""
    if start < 0:
        return 0, 0
    begin = start + (t * samples + b) * size
    return begin, begin + size


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
def firing(current, base, gain, compare, found):
    """List the neurons whose potential is above `compare`; return how many."""
    count = 0
    for i in range(len(current)):
        if base[i] + gain[i] * current[i] > compare[i]:
            found[count] = i
            count += 1
    return count


@compiled
def any_above(current, base, gain, compare):
    """Whether any neuron would fire."""
    for i in range(len(current)):  # noqa: SIM110 - numba compiles no generators
        if base[i] + gain[i] * current[i] > compare[i]:
            return True
    return False


@compiled
def any_set(values):
    for value in values:  # noqa: SIM110 - numba compiles no generators
        if value != 0:
            return True
    return False


@compiled
def settle(base, gain, current):
    """From what a potential starts with to the potential."""
    for i in range(len(base)):
        base[i] += gain[i] * current[i]


@compiled
def keep(potentials, spikes, u, residual, count):
    for i in range(len(u)):
        potentials[i] = u[i] + residual[i]
        spikes[i] = count[i]


@compiled
def log_silent(u, able, last_spike, last_evaluation, block, steps, potentials):
    zero = u.dtype.type(0)
    for q in range(len(last_evaluation)):
        evaluated = last_evaluation[q]
        for i in range(q * block, (q + 1) * block):
            silent = able[i] < np.inf and evaluated > last_spike[i]
            steps[i] = evaluated if silent else NOT_YET
            potentials[i] = u[i] if silent else zero


@compiled
def nonzero(frame, index, values):
    """Write the nonzero inputs of a frame; return how many, -1 if one is not finite."""
    count = 0
    for i in range(len(frame)):
        if frame[i] != 0:
            index[count] = i
            values[count] = frame[i]
            count += 1
    for i in range(count):
        if not np.isfinite(values[i]):
            return -1
    return count
