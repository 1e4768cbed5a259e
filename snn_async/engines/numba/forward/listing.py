"""Which events a forward step delivers: listed by node, `Work.bins` says where each node's begin."""

from snn_async.engines.numba.codes import EVENTS, PENDING, PICKED
from snn_async.engines.numba.forward.events import mark_delivered
from snn_async.engines.numba.forward.vectors import fill
from snn_async.engines.numba.jit import call, compiled, inlined


@inlined
def list_inputs(work, events, inputs, values):
    """List a timestep's inputs for delivery."""
    count = len(inputs)
    for i in range(count):
        events.sources[i] = inputs[i]
        events.amplitudes[i] = values[i]
    work.bins[0] = 0
    fill(work.bins[1:], count)


@compiled
def _list_rows(chosen, source, amplitude, node_of, bins, sources, amplitudes):
    """List rows by node."""
    fill(bins, 0)
    for row in chosen:
        bins[node_of[source[row]] + 2] += 1
    for n in range(2, len(bins)):
        bins[n] += bins[n - 1]
    for row in chosen:
        n = node_of[source[row]] + 1
        sources[bins[n]], amplitudes[bins[n]] = source[row], amplitude[row]
        bins[n] += 1


@inlined
def list_group(net, rules, tensors, work, events, kernels):
    """Take the group that is next out of what is pending and list it for delivery."""
    size, waiting = rules.group_size, work.now[PENDING]
    everything = size == 0 or size >= waiting
    pick = kernels.oldest if everything else kernels.pick
    call(pick, (net, rules, tensors, work, events, waiting if everything else size))
    chosen = events.chosen[: work.now[PICKED]]
    for row in chosen:
        mark_delivered(work, events, row)
    _list_rows(
        chosen, events.source, events.amplitude, net.node_of, work.bins, events.sources, events.amplitudes
    )


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
                if _within(net, k, events.source[events.pending[a]]):
                    return True
    return False


@inlined
def list_upstream(net, work, events, inputs, values, ranges, n):
    """List everything upstream of node n for delivery to it: inputs, what was carried over, rows of this timestep."""
    leads, carried = work.leads, work.now[PENDING]  # of each node (the input is 0) whether it leads to n
    fill(leads, 0)
    for k in range(len(net.target)):
        if net.target[k] == n and not net.delayed_edge[k]:
            leads[net.source[k] + 1] = 1
    for a in range(carried):
        if leads[net.node_of[events.source[events.pending[a]]]] == 1:
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
            if net.node_of[events.source[row]] == q + 1:
                events.sources[size] = events.source[row]
                events.amplitudes[size] = events.amplitude[row]
                size += 1
    fill(work.bins[net.nodes + 1 :], size)


@inlined
def list_passed(work, events, n, first):
    """List the rows from `first` on, which junction n has just passed on, for delivery."""
    count = work.now[EVENTS] - first
    for place in range(count):
        row = first + place
        events.sources[place] = events.source[row]
        events.amplitudes[place] = events.amplitude[row]
        mark_delivered(work, events, row)
    fill(work.bins[: n + 2], 0)
    fill(work.bins[n + 2 :], count)
