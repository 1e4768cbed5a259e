"""Along an event's synapses on the way back: gradients of weights, adjoints of amplitudes."""

from snn_async.engines.numba.codes import (
    CHANNELS,
    KIND,
    LENGTH,
    ONE_TO_ONE,
    SHARE,
    SHIFT,
    TARGET,
    WEIGHT,
    WIRING,
)
from snn_async.engines.numba.forward.synapses import runs_of
from snn_async.engines.numba.forward.vectors import fill
from snn_async.engines.numba.jit import compiled, summing


@summing
def masked_row(weights, grads, slot, slot_step, after, step, factor):
    total = slot.dtype.type(0)
    for i in range(len(slot)):
        in_time, late = slot[i], after[i]  # both are read, else LLVM chooses between addresses
        adjoint = in_time if step <= slot_step[i] else late
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
    total = slot.dtype.type(0)
    for s in range(runs_of(geometry, offsets, positions, values, j, runs, coefficients)):
        w, a, coefficient = runs[s, WEIGHT], runs[s, TARGET], coefficients[s]
        x, z = w + runs[s, LENGTH], a + runs[s, LENGTH]
        total += coefficient * masked_row(
            weights[w:x], grads[w:x], slot[a:z], slot_step[a:z], after[a:z], step, factor * coefficient
        )
    return total


@summing
def _first_run(weights, first, first_step, step):
    total = first.dtype.type(0)
    for i in range(len(first)):
        product = weights[i] * first[i]
        total += product if step <= first_step[i] else 0
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
def outer_row(grads, slot, factor):
    for i in range(len(slot)):
        grads[i] += factor * slot[i]


@compiled
def add_outer(geometry, offsets, positions, values, grads, slot, own, factors, runs, coefficients):
    """Add the weight gradients of events that all meet the same adjoints."""
    for e in range(len(own)):
        for s in range(runs_of(geometry, offsets, positions, values, own[e], runs, coefficients)):
            w, a = runs[s, WEIGHT], runs[s, TARGET]
            x, z = w + runs[s, LENGTH], a + runs[s, LENGTH]
            outer_row(grads[w:x], slot[a:z], factors[e] * coefficients[s])


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
def all_rows(weights, slot, active, scale, adjoints, chosen, totals):
    """Add the adjoints of all active sources (fully connected)."""
    size, count, at = len(slot), 0, 0
    for j in range(len(active)):
        chosen[count] = j
        count += active[j]
    while at < count:
        many = 4 if at + 4 <= count else 1
        fill(totals, 0)
        a = chosen[at] * size
        if many == 1:
            totals[0] = _dot(weights[a : a + size], slot)
        else:
            b, c, d = chosen[at + 1] * size, chosen[at + 2] * size, chosen[at + 3] * size
            _four_dots(
                weights[a : a + size],
                weights[b : b + size],
                weights[c : c + size],
                weights[d : d + size],
                slot,
                totals,
            )
        for i in range(many):
            j = chosen[at + i]
            adjoints[j] += totals[i] * scale[j] if len(scale) > 0 else totals[i]
        at += many


@compiled
def all_runs(
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
    if kind == WIRING:
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
        found = runs_of(geometry, offsets, positions, values, first, runs, coefficients)
        left = _merge(runs, found, slot, merged, patch)
        at = 0
        while at < count:
            many = 4 if at + 4 <= count else 1
            fill(totals, 0)
            filled = 0
            for s in range(left):
                w, length = merged[s, 0], merged[s, 1]
                part = patch[filled : filled + length]
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
