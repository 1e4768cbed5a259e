"""Which events a forward step delivers: listed by node, `Work.bins` says where each node's begin."""

from snn_async.engines.numba.codes import AMPLITUDE, EVENTS, PENDING, SOURCE
from snn_async.engines.numba.forward.events import mark_delivered
from snn_async.engines.numba.forward.scheduling import pick
from snn_async.engines.numba.jit import inlined


@inlined
def list_inputs(work, events, inputs, values):
    """List a timestep's inputs for delivery."""
    count = len(inputs)
    for i in range(count):
        events.sources[i] = inputs[i]
        events.amplitudes[i] = values[i]
    work.bins[0] = 0
    work.bins[1:] = count


@inlined
def list_group(net, rules, tensors, work, events):
    """Take the group that is next out of what is pending and list it for delivery."""
    size, bins = pick(net, rules, tensors, work, events), work.bins
    bins[:] = 0
    for g in range(size):
        row = events.pending[events.chosen[g]]
        mark_delivered(work, events, row)
        bins[net.node_of[events.ints[row, SOURCE]] + 2] += 1
    for n in range(2, len(bins)):
        bins[n] += bins[n - 1]
    for g in range(size):
        row = events.pending[events.chosen[g]]
        n = net.node_of[events.ints[row, SOURCE]] + 1
        events.sources[bins[n]] = events.ints[row, SOURCE]
        events.amplitudes[bins[n]] = events.floats[row, AMPLITUDE]
        bins[n] += 1
    waiting, kept, g = work.now[PENDING], 0, 0
    if size < waiting:
        for a in range(waiting):
            if g < size and events.chosen[g] == a:
                g += 1
            else:
                events.pending[kept] = events.pending[a]
                kept += 1
    work.now[PENDING] = kept


@inlined
def _within(net, k, source):
    """Whether a source is one of projection k: an input has several projections, each from a part of it."""
    return 0 <= source - net.first_source[k] < net.fan_in[k]


@inlined
def arrives(net, work, events, inputs, ranges, n):
    """Whether anything upstream of node n is to be delivered to it."""
    for k in range(len(net.target)):
        if net.target[k] == n and not net.delayed_edge[k]:
            q = net.source[k]
            if q >= 0 and ranges[q, 1] > ranges[q, 0]:
                return True
            for i in range(len(inputs) if q < 0 else 0):
                if _within(net, k, inputs[i]):
                    return True
            for a in range(work.now[PENDING]):  # carried over
                if _within(net, k, events.ints[events.pending[a], SOURCE]):
                    return True
    return False


@inlined
def list_upstream(net, work, events, inputs, values, ranges, n):
    """List everything upstream of node n for delivery to it: inputs, what was carried over, rows of this timestep."""
    leads, carried = work.leads, work.now[PENDING]  # of each node (the input is 0) whether it leads to n
    leads[:] = 0
    for k in range(len(net.target)):
        if net.target[k] == n and not net.delayed_edge[k]:
            leads[net.source[k] + 1] = 1
    for a in range(carried):
        if leads[net.node_of[events.ints[events.pending[a], SOURCE]]] == 1:
            mark_delivered(work, events, events.pending[a])
    for place in range(net.nodes):
        q = net.order[place]
        if leads[q + 1] == 1:
            for row in range(ranges[q, 0], ranges[q, 1]):
                mark_delivered(work, events, row)
    size = 0
    for q in range(-1, net.nodes):
        work.bins[q + 1] = size
        if leads[q + 1] == 0:
            continue
        if q < 0:
            for i in range(len(inputs)):
                events.sources[size + i] = inputs[i]
                events.amplitudes[size + i] = values[i]
            size += len(inputs)
        rows = 0 if q < 0 else ranges[q, 1] - ranges[q, 0]
        for a in range(carried + rows):
            row = events.pending[a] if a < carried else ranges[q, 0] + a - carried
            if net.node_of[events.ints[row, SOURCE]] == q + 1:
                events.sources[size] = events.ints[row, SOURCE]
                events.amplitudes[size] = events.floats[row, AMPLITUDE]
                size += 1
    work.bins[net.nodes + 1 :] = size


@inlined
def list_passed(work, events, n, first):
    """List the rows from `first` on, which junction n has just passed on, for delivery."""
    count = work.now[EVENTS] - first
    for place in range(count):
        row = first + place
        events.sources[place] = events.ints[row, SOURCE]
        events.amplitudes[place] = events.floats[row, AMPLITUDE]
        mark_delivered(work, events, row)
    work.bins[: n + 2] = 0
    work.bins[n + 2 :] = count
