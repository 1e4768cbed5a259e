"""Which synapses an event uses: the index arithmetic of every kind, and what is done along them.

An event's synapses are *runs*: neighbouring weights to neighbouring targets, times a coefficient.
"""

from snn_async.engines.numba.codes import (
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
    SHIFT,
    STRIDE_X,
    STRIDE_Y,
    TABLE,
    TARGET,
    TOP,
    WEIGHT,
    WIDTH,
)
from snn_async.engines.numba.forward.vectors import scale_range
from snn_async.engines.numba.jit import compiled, inlined


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
    """Add the rows of events to all targets (fully connected); return how many were not dropped or another input's."""
    delivered = 0
    for e in range(len(sources)):
        j = sources[e] - first_source
        if j < 0 or j >= len(weights):
            continue
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
    rows,
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
        if j < 0 or j >= rows:  # of another input
            continue
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
    rows, size, samples = net.fan_in[k], net.fan_out[k], tensors.x.shape[1]
    w, x = net.weight_start[k], net.weight_start[k] + net.weight_count[k]
    weights = tensors.weights[w:x] if w < x else tensors.one
    c, d = scale_range(tensors.source_scale_start[k], rows, samples, t, b)
    e, f = scale_range(tensors.target_scale_start[k], size, samples, t, b)
    if net.geometry[k, KIND] == DENSE:
        delivered = add_events(
            u,
            weights.reshape(rows, size),
            sources,
            amplitudes,
            net.first_source[k],
            tensors.scales[c:d],
            tensors.scales[e:f],
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
        weights,
        sources,
        amplitudes,
        net.first_source[k],
        rows,
        tensors.scales[c:d],
        tensors.scales[e:f],
        runs,
        coefficients,
        dirty,
        bounds,
        net.block[net.target[k]],
    )
