"""Along an event's synapses on the way back: gradients of weights, adjoints of amplitudes."""

from snn_async.engines.numba.codes import (
    CHANNELS,
    CONVOLUTION,
    DENSE,
    KIND,
    LENGTH,
    ONE_TO_ONE,
    SHARE,
    SHIFT,
    TARGET,
    WEIGHT,
)
from snn_async.engines.numba.forward.synapses import runs_of
from snn_async.engines.numba.jit import compiled, summing


@summing
def _masked_run(weights, grads, slot, slot_step, after, step, factor):
    total = slot.dtype.type(0)
    for i in range(len(slot)):
        adjoint = slot[i] if step <= slot_step[i] else after[i]
        grads[i] += factor * adjoint
        total += weights[i] * adjoint
    return total


@compiled
def event_adjoint(
    geometry,
    offsets,
    positions,
    values,
    weights,
    grads,
    j,
    slot,
    slot_step,
    after,
    step,
    factor,
    runs,
    coefficients,
):
    """Add a delivered event's part of the weight gradient; return the adjoint of its amplitude."""
    if geometry[KIND] == DENSE:
        w, x = j * len(slot), (j + 1) * len(slot)
        return _masked_run(weights[w:x], grads[w:x], slot, slot_step, after, step, factor)
    total = slot.dtype.type(0)
    for s in range(runs_of(geometry, offsets, positions, values, j, runs, coefficients)):
        w, a, coefficient = runs[s, WEIGHT], runs[s, TARGET], coefficients[s]
        x, z = w + runs[s, LENGTH], a + runs[s, LENGTH]
        total += coefficient * _masked_run(
            weights[w:x], grads[w:x], slot[a:z], slot_step[a:z], after[a:z], step, factor * coefficient
        )
    return total


@summing
def _first_run(weights, first, first_step, step):
    total = first.dtype.type(0)
    for i in range(len(first)):
        total += weights[i] * first[i] if step <= first_step[i] else 0
    return total


@compiled
def first_adjoint(
    geometry, offsets, positions, values, weights, j, first, first_step, step, runs, coefficients
):
    """Return the adjoint of an event's amplitude, counting its targets' first decisive evaluations only."""
    total = first.dtype.type(0)
    for s in range(runs_of(geometry, offsets, positions, values, j, runs, coefficients)):
        w, a = runs[s, WEIGHT], runs[s, TARGET]
        x, z = w + runs[s, LENGTH], a + runs[s, LENGTH]
        total += coefficients[s] * _first_run(weights[w:x], first[a:z], first_step[a:z], step)
    return total


@compiled
def _outer_run(grads, slot, factor):
    for i in range(len(slot)):
        grads[i] += factor * slot[i]


@compiled
def add_outer(
    geometry,
    offsets,
    positions,
    values,
    grads,
    slot,
    sources,
    amplitudes,
    first_source,
    rows,
    scale,
    runs,
    coefficients,
):
    """Add the weight gradients of events that all meet the same adjoints."""
    for e in range(len(sources)):
        j = sources[e] - first_source
        if j < 0 or j >= rows:  # of another input
            continue
        factor = amplitudes[e]
        if len(scale) > 0:
            factor *= scale[j]
        if factor == 0:
            continue
        if geometry[KIND] == DENSE:
            _outer_run(grads[j * len(slot) : (j + 1) * len(slot)], slot, factor)
            continue
        for s in range(runs_of(geometry, offsets, positions, values, j, runs, coefficients)):
            w, a = runs[s, WEIGHT], runs[s, TARGET]
            x, z = w + runs[s, LENGTH], a + runs[s, LENGTH]
            _outer_run(grads[w:x], slot[a:z], factor * coefficients[s])


@summing
def _dot(a, b):
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@summing
def _four_dots(a, b, c, d, patch, totals):
    """Four dot products with one vector, which is then read once."""
    t0 = t1 = t2 = t3 = patch.dtype.type(0)
    for i in range(len(patch)):
        p = patch[i]
        t0 += a[i] * p
        t1 += b[i] * p
        t2 += c[i] * p
        t3 += d[i] * p
    totals[0] += t0
    totals[1] += t1
    totals[2] += t2
    totals[3] += t3


@compiled
def _merge(runs, count, slot, merged, patch):
    """Gather the adjoints of runs; runs whose weights follow each other become one. Return how many are left."""
    filled, left, after = 0, 0, -1
    for s in range(count):
        w, a, length = runs[s, WEIGHT], runs[s, TARGET], runs[s, LENGTH]
        for i in range(length):
            patch[filled + i] = slot[a + i]
        filled += length
        if w == after:
            merged[left - 1, 1] += length
        else:
            merged[left, 0], merged[left, 1] = w, length
            left += 1
        after = w + length
    return left


@compiled
def dense_adjoints(
    geometry,
    offsets,
    positions,
    values,
    weights,
    slot,
    active,
    scale,
    adjoints,
    runs,
    coefficients,
    merged,
    patch,
    chosen,
    totals,
):
    """Add the adjoints of all active sources, whose events would all meet the same adjoints."""
    kind, share, shift = geometry[KIND], geometry[SHARE], geometry[SHIFT]
    if kind == ONE_TO_ONE:
        for j in range(len(active)):
            if active[j]:
                total = weights[j % geometry[CHANNELS]] * slot[j]
                adjoints[j] += total * scale[j] if len(scale) > 0 else total
        return
    if kind != CONVOLUTION and kind != DENSE:
        for j in range(len(active)):
            if active[j]:
                total = slot.dtype.type(0)
                for s in range(runs_of(geometry, offsets, positions, values, j, runs, coefficients)):
                    total += coefficients[s] * weights[0] * slot[runs[s, TARGET]]
                adjoints[j] += total * scale[j] if len(scale) > 0 else total
        return
    for first in range(0, len(active), share):
        count = 0
        for c in range(share):
            chosen[count] = c
            count += active[first + c]
        if count == 0:
            continue
        if kind == DENSE:
            left, around = 1, slot
            merged[0, 0], merged[0, 1] = 0, len(slot)
        else:
            found = runs_of(geometry, offsets, positions, values, first, runs, coefficients)
            left, around = _merge(runs, found, slot, merged, patch), patch
        at = 0
        while at < count:
            many = 4 if at + 4 <= count else 1
            totals[:] = 0
            filled = 0
            for s in range(left):
                w, length = merged[s, 0], merged[s, 1]
                part = around[filled : filled + length]
                a = w + chosen[at] * shift
                if many == 1:
                    totals[0] += _dot(weights[a : a + length], part)
                else:
                    b, c = w + chosen[at + 1] * shift, w + chosen[at + 2] * shift
                    d = w + chosen[at + 3] * shift
                    _four_dots(
                        weights[a : a + length],
                        weights[b : b + length],
                        weights[c : c + length],
                        weights[d : d + length],
                        part,
                        totals,
                    )
                filled += length
            for i in range(many):
                j = first + chosen[at + i]
                adjoints[j] += totals[i] * scale[j] if len(scale) > 0 else totals[i]
            at += many
