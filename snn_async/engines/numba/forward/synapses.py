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
    OPERATIONS,
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
    B,
    T,
)
from snn_async.engines.numba.forward.vectors import add, fill, scale_range
from snn_async.engines.numba.jit import Kernel, compiled, inlined


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
def _add_row(u, row, factor):
    for i in range(len(u)):
        u[i] += factor * row[i]


@compiled
def _add_four_rows(u, a, b, c, d, f, g, h, k):
    for i in range(len(u)):
        u[i] = (((u[i] + f * a[i]) + g * b[i]) + h * c[i]) + k * d[i]


@compiled
def _add_rows(u, weights, own, factors):
    """Add the rows of events to all targets (fully connected)."""
    a, many = 0, len(own)
    while a + 4 <= many:
        _add_four_rows(
            u,
            weights[own[a]],
            weights[own[a + 1]],
            weights[own[a + 2]],
            weights[own[a + 3]],
            factors[a],
            factors[a + 1],
            factors[a + 2],
            factors[a + 3],
        )
        a += 4
    while a < many:
        _add_row(u, weights[own[a]], factors[a])
        a += 1


@compiled
def _add_scaled_row(u, weights, factor, scale):
    for i in range(len(u)):
        u[i] += factor * weights[i] * scale[i]


@compiled
def own_events(sources, amplitudes, first_source, rows, scale, own, factors):
    """List the units of a projection that events come from, and what these carry; return how many were not dropped.

    An input has several projections, each from a part of it.
    """
    count = 0
    for e in range(len(sources)):
        j = sources[e] - first_source
        if j < 0 or j >= rows:
            continue
        factor = amplitudes[e]
        if len(scale) > 0:
            if scale[j] == 0:
                continue
            factor *= scale[j]
        own[count] = j
        factors[count] = factor
        count += 1
    return count


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
    own,
    factors,
    scale,
    runs,
    coefficients,
    dirty,
    bounds,
    block,
):
    """Add the currents of events, mark what they reach (unless `dirty` is empty); return the synapses used."""
    used = 0
    for e in range(len(own)):
        for s in range(runs_of(geometry, offsets, positions, values, own[e], runs, coefficients)):
            w, a, length = runs[s, WEIGHT], runs[s, TARGET], runs[s, LENGTH]
            used += length
            if length == 1:
                current = factors[e] * (weights[w] * coefficients[s])
                u[a] += current * scale[a] if len(scale) > 0 else current
            elif len(scale) > 0:
                _add_scaled_row(u[a : a + length], weights[w : w + length], factors[e], scale[a : a + length])
            else:
                _add_row(u[a : a + length], weights[w : w + length], factors[e])
            if len(dirty) > 0:
                _mark(dirty, bounds, block, a, length, runs[s, POSITION])
    return used


@compiled
def mark_all(dirty, bounds):
    fill(dirty, 1)
    bounds[0] = 0
    bounds[1] = len(dirty)


@inlined
def _list_own(net, tensors, work, k, sources, amplitudes):
    t, b, rows = work.now[T], work.now[B], net.fan_in[k]
    c, d = scale_range(tensors.source_scale_start[k], rows, tensors.x.shape[1], t, b)
    return own_events(
        sources, amplitudes, net.first_source[k], rows, tensors.scales[c:d], work.own, work.factors
    )


@inlined
def _target_scale(net, tensors, work, k):
    """The range of factors on a projection's currents."""
    return scale_range(
        tensors.target_scale_start[k], net.fan_out[k], tensors.x.shape[1], work.now[T], work.now[B]
    )


@inlined
def _block_range(net, k):
    """The blocks that projection k marks; none if it is delayed: at a turn everybody is evaluated anyway."""
    n = net.target[k]
    return net.block_start[n], net.block_start[n] if net.delayed_edge[k] else net.block_start[n + 1]


def add_dense(net, tensors, work, k, current, sources, amplitudes):
    """Add the currents of events through projection k to its targets, mark these, count the synapses used."""
    count, size, w = (
        _list_own(net, tensors, work, k, sources, amplitudes),
        net.fan_out[k],
        net.weight_start[k],
    )
    weights = tensors.weights[w : w + net.weight_count[k]].reshape(net.fan_in[k], size)
    c, d = _target_scale(net, tensors, work, k)
    scale, u = tensors.scales[c:d], current
    if len(scale) > 0:
        u = work.summed[:size]
        fill(u, 0)
    _add_rows(u, weights, work.own[:count], work.factors[:count])
    if len(scale) > 0:
        add(current, u, scale)
    c, d = _block_range(net, k)
    if count > 0 and c < d:
        mark_all(work.dirty[c:d], work.bounds[net.target[k]])
    work.now[OPERATIONS] += count * size


def add_sparse(net, tensors, work, k, current, sources, amplitudes):
    """The same through other synapses."""
    count, w = _list_own(net, tensors, work, k, sources, amplitudes), net.weight_start[k]
    c, d = _block_range(net, k)
    e, f = _target_scale(net, tensors, work, k)
    used = add_runs(
        net.geometry[k],
        net.table_offsets,
        net.table_positions,
        net.table_values,
        current,
        tensors.weights[w : w + net.weight_count[k]] if net.weight_count[k] > 0 else tensors.one,
        work.own[:count],
        work.factors[:count],
        tensors.scales[e:f],
        work.runs,
        work.coefficients,
        work.dirty[c:d],
        work.bounds[net.target[k]],
        net.block[net.target[k]],
    )
    if net.weighted[k]:
        work.now[OPERATIONS] += used


ADD_DENSE, ADD_SPARSE = Kernel(add_dense), Kernel(add_sparse)
