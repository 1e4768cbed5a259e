"""Which synapses an event uses: the index arithmetic of every kind, and what is done along them.

An event's synapses are *runs*: neighbouring weights to neighbouring targets, times a coefficient.
"""

from snn_async.engines.numba.records import (
    CHANNELS,
    CONVOLUTION,
    DENSE,
    DILATION_X,
    DILATION_Y,
    INS,
    KERNEL_X,
    KERNEL_Y,
    KIND,
    LEFT_SIDE,
    LENGTH,
    ONE_TO_ONE,
    OUT_CHANNELS,
    OUT_HEIGHT,
    OUT_WIDTH,
    OUTS,
    POSITION,
    SHARE,
    SHIFT,
    STRIDE_X,
    STRIDE_Y,
    TABLE,
    TARGET,
    TOP,
    WEIGHT,
    WIDTH,
    compiled,
    inlined,
    summing,
)
from snn_async.engines.numba.vectors import scale_range


@compiled
def runs_of(geometry, offsets, positions, values, j, runs, coefficients):
    """Write the runs of source unit j, in the order of their weights; return how many."""
    if geometry[KIND] == CONVOLUTION:
        return _convolution_runs(geometry, j, runs, coefficients)
    coefficients[0] = 1
    if geometry[KIND] == DENSE:
        runs[0, WEIGHT], runs[0, TARGET], runs[0, LENGTH] = j * geometry[OUTS], 0, geometry[OUTS]
        return 1
    if geometry[KIND] == ONE_TO_ONE:
        runs[0, WEIGHT], runs[0, TARGET], runs[0, LENGTH] = j % geometry[CHANNELS], j, 1
        return 1
    at, channel = geometry[TABLE] + j // geometry[CHANNELS], j % geometry[CHANNELS]
    count = 0
    for entry in range(offsets[at], offsets[at + 1]):
        target = positions[entry] * geometry[CHANNELS] + channel
        runs[count, WEIGHT], runs[count, TARGET], runs[count, LENGTH] = 0, target, 1
        coefficients[count] = values[entry]
        count += 1
    return count


@compiled
def _convolution_runs(geometry, j, runs, coefficients):
    position = j // geometry[CHANNELS]
    channel = j - position * geometry[CHANNELS]
    y = position // geometry[WIDTH]
    top, left = y + geometry[TOP], position - y * geometry[WIDTH] + geometry[LEFT_SIDE]
    stride_y, stride_x, outs = geometry[STRIDE_Y], geometry[STRIDE_X], geometry[OUTS]
    weight, target = channel * geometry[SHIFT], 0
    if geometry[INS] < geometry[CHANNELS]:
        target = channel // geometry[INS] * outs
    count = 0
    for ky in range(geometry[KERNEL_Y]):
        below = top - ky * geometry[DILATION_Y]
        if below < 0:
            break
        row = below if stride_y == 1 else below // stride_y
        if row * stride_y != below or row >= geometry[OUT_HEIGHT]:
            continue
        for kx in range(geometry[KERNEL_X]):
            right = left - kx * geometry[DILATION_X]
            if right < 0:
                break
            column = right if stride_x == 1 else right // stride_x
            if column * stride_x != right or column >= geometry[OUT_WIDTH]:
                continue
            at = row * geometry[OUT_WIDTH] + column
            runs[count, WEIGHT] = weight + (ky * geometry[KERNEL_X] + kx) * outs
            runs[count, TARGET] = at * geometry[OUT_CHANNELS] + target
            runs[count, LENGTH] = outs
            runs[count, POSITION] = at
            coefficients[count] = 1
            count += 1
    return count


@compiled
def add_events(u, weights, sources, amplitudes, first_source, source_scale, target_scale):
    """Add the rows of events to all targets (fully connected); return how many were not dropped."""
    delivered = 0
    for e in range(len(sources)):
        j = sources[e] - first_source
        factor = amplitudes[e]
        if len(source_scale) > 0:
            if source_scale[j] == 0:
                continue
            factor *= source_scale[j]
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
def _add_run(u, weights, factor):
    for i in range(len(u)):
        u[i] += factor * weights[i]


@compiled
def _add_scaled_run(u, weights, factor, scale):
    for i in range(len(u)):
        u[i] += factor * weights[i] * scale[i]


@compiled
def _mark(dirty, bounds, block, target, length, position):
    """Mark the blocks that a run reaches; a block of more than one is a position, or everything."""
    if block == 1:
        for i in range(target, target + length):
            dirty[i] = 1
        low, high = target, target + length
    else:
        dirty[position] = 1
        low, high = position, position + 1
    if low < bounds[0]:
        bounds[0] = low
    if high > bounds[1]:
        bounds[1] = high


@compiled
def add_runs(
    geometry,
    offsets,
    positions,
    values,
    u,
    weights,
    sources,
    amplitudes,
    first_source,
    source_scale,
    target_scale,
    runs,
    coefficients,
    dirty,
    bounds,
    block,
):
    """Add the currents of events, mark what they reach (unless `dirty` is empty); return the synapses used."""
    used = 0
    for e in range(len(sources)):
        j = sources[e] - first_source
        factor = amplitudes[e]
        if len(source_scale) > 0:
            if source_scale[j] == 0:
                continue
            factor *= source_scale[j]
        for s in range(runs_of(geometry, offsets, positions, values, j, runs, coefficients)):
            w, a, length = runs[s, WEIGHT], runs[s, TARGET], runs[s, LENGTH]
            used += length
            if length == 1:
                current = factor * (weights[w] * coefficients[s])
                if len(target_scale) > 0:
                    current *= target_scale[a]
                u[a] += current
            elif len(target_scale) > 0:
                _add_scaled_run(
                    u[a : a + length], weights[w : w + length], factor, target_scale[a : a + length]
                )
            else:
                _add_run(u[a : a + length], weights[w : w + length], factor)
            if len(dirty) > 0:
                _mark(dirty, bounds, block, a, length, runs[s, POSITION])
    return used


@compiled
def mark_all(dirty, bounds):
    for i in range(len(dirty)):
        dirty[i] = 1
    bounds[0] = 0
    bounds[1] = len(dirty)


@inlined
def add_projection(net, tensors, k, u, sources, amplitudes, t, b, runs, coefficients, dirty, bounds):
    """Add the currents of events through projection k to its targets `u`, mark these; return the synapses used.

    Nothing is marked if `dirty` is empty.
    """
    rows, size, first, samples = net.fan_in[k], net.fan_out[k], net.weight_start[k], tensors.x.shape[1]
    c, d = scale_range(tensors.source_scale_start[k], rows, samples, t, b)
    e, f = scale_range(tensors.target_scale_start[k], size, samples, t, b)
    if net.geometry[k, KIND] == DENSE:
        weights = tensors.weights[first : first + rows * size].reshape(rows, size)
        delivered = add_events(
            u, weights, sources, amplitudes, net.first_source[k], tensors.scales[c:d], tensors.scales[e:f]
        )
        if delivered > 0 and len(dirty) > 0:
            mark_all(dirty, bounds)
        return delivered * size
    return add_runs(
        net.geometry[k],
        net.table_offsets,
        net.table_positions,
        net.table_values,
        u,
        tensors.weights[first : first + net.weight_count[k]],
        sources,
        amplitudes,
        net.first_source[k],
        tensors.scales[c:d],
        tensors.scales[e:f],
        runs,
        coefficients,
        dirty,
        bounds,
        net.block[net.target[k]],
    )


# -- the way back ----------------------------------------------------------------------------------------


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
    geometry, offsets, positions, values, grads, slot, sources, amplitudes, scale, runs, coefficients
):
    """Add the weight gradients of events that all meet the same adjoints."""
    for e in range(len(sources)):
        j = sources[e]
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
