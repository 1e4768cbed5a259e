"""Loops over plain arrays for the replay: adjoints of one population or projection at a time."""

from snn_async.engines.numba_records import compiled, summing


@compiled
def accumulate(total, values):
    for i in range(len(total)):
        total[i] += values[i]


@compiled
def times(values, scale):
    for i in range(len(scale)):
        values[i] *= scale[i]


@compiled
def add_outer(grads, slot, sources, amplitudes, scale):
    for e in range(len(sources)):
        row = grads[sources[e]]
        factor = amplitudes[e]
        if len(scale) > 0:
            factor *= scale[sources[e]]
        for i in range(len(slot)):
            row[i] += factor * slot[i]


@summing
def masked_row(weights, grads, slot, slot_step, after, step, factor):
    """Add a delivered event's part of the weight gradient; return the adjoint of its amplitude."""
    total = slot.dtype.type(0)
    for i in range(len(slot)):
        adjoint = slot[i] if step <= slot_step[i] else after[i]
        grads[i] += factor * adjoint
        total += weights[i] * adjoint
    return total


@compiled
def add_masked(grads, slot, slot_step, after, step, scale):
    for i in range(len(grads)):
        adjoint = slot[i] if step <= slot_step[i] else after[i]
        grads[i] += adjoint * scale[i] if len(scale) > 0 else adjoint


@summing
def silent_sources(weights, slot, steps, slopes, scale, adjoints):
    """Adjoints of silent sources; those whose surrogate is flat do not matter."""
    for j in range(len(weights)):
        if steps[j] < 0 or slopes[j] == 0:
            continue
        row = weights[j]
        total = slot.dtype.type(0)
        for i in range(len(slot)):
            total += row[i] * slot[i]
        adjoints[j] += total * scale[j] if len(scale) > 0 else total


@summing
def input_sources(weights, slot, x, only_zeros, scale, adjoints):
    for j in range(len(weights)):
        if only_zeros and x[j] != 0:
            continue
        row = weights[j]
        total = slot.dtype.type(0)
        for i in range(len(slot)):
            total += row[i] * slot[i]
        adjoints[j] += total * scale[j] if len(scale) > 0 else total


@compiled
def silent_evaluations(
    subtract, value, reset_value, threshold, u, slope, step, silent, spikes, current, last, last_step, grads
):
    """Silent decisive evaluations of a population, the last ones of the timestep.

    `subtract` and `value` are 1 where the gradient passes through that reset (the spike variable is 0).
    """
    for i in range(len(current)):
        adjoint = silent[i] + (spikes[i] if len(spikes) > 0 else 0)
        adjoint -= subtract * threshold[i] * current[i]
        adjoint += value * (reset_value - u[i]) * current[i]
        through = slope[i] * adjoint if step[i] >= 0 else 0
        grads[i] -= through
        current[i] += through
        last[i] = current[i] if step[i] >= 0 else 0
        last_step[i] = step[i]


@compiled
def rewind(slot, slot_step, extra_neuron, extra_step, extra, scale, at, count, step):
    """Go back to forward step `step`: earlier evaluations take over their neurons' slots."""
    while at < count and extra_step[at] >= step:
        i = extra_neuron[at]
        slot_step[i] = extra_step[at]
        slot[i] = extra[at] * scale[i] if len(scale) > 0 else extra[at]
        at += 1
    return at


@compiled
def leak_adjoint(current, v, leak, leak_grads, offset_grads):
    for i in range(len(current)):
        offset_grads[i] += current[i]
        leak_grads[i] += current[i] * v[i]
        current[i] *= leak[i]


@compiled
def delayed_subtract_adjoint(current, fired, threshold_grads):
    for i in range(len(current)):
        threshold_grads[i] -= fired[i] * current[i]


@compiled
def retest_adjoint(current, kept, v, compare, threshold_grads):
    for i in range(len(current)):
        if v[i] > compare[i]:
            threshold_grads[i] += kept[i] - current[i]


@compiled
def emission_timestep(emitted, row):
    t = 0
    while emitted[t + 2] <= row:
        t += 1
    return t
