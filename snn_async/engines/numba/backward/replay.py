"""The numba engine's gradient: the masked sum of docs/design.md, section 5, differentiated by hand.

Within a timestep, nodes go in reverse topological order: a node's adjoints need only its targets'. The adjoint of a
current that lands on neuron i in forward step d is that of i's first decisive evaluation not before d, or, after the
last one, that of the potential at the end (refractory "integrate"); times the gain. The adjoint of what a junction's
unit passed on makes those of what reached its cells (`cells`).
"""

from snn_async.engines.numba.backward.adjoints import (
    accumulate,
    queued_inputs,
    sort_deliveries,
    sort_emissions,
    start_left,
)
from snn_async.engines.numba.backward.decisive import decisive_evaluations, silent_slopes
from snn_async.engines.numba.codes import DONE, STATUS, B, T
from snn_async.engines.numba.forward.linear import charge_adjoint, row_of
from snn_async.engines.numba.forward.vectors import copy, fill
from snn_async.engines.numba.jit import Kernel, call, inlined


@inlined
def begin_adjoint(net, tensors, grads, adj, b, p, v, fired):
    """From the adjoints of what the timestep started with to that of the potential kept before."""
    a, z = net.start[p], net.start[p + 1]
    charge_adjoint(
        adj.potential[a:z],
        adj.kept[a:z],
        adj.gain[a:z],
        adj.threshold[a:z],
        v[a:z],
        fired[a:z],
        tensors.leak[a:z],
        tensors.threshold[row_of(tensors.threshold, b), a:z],
        net.delayed[p],
        v.dtype.type(net.reset_value[p]),
        net.retest[p],
        net.inclusive[p],
        grads.leak[a:z],
        grads.offset[a:z],
        grads.gain[row_of(grads.gain, b), a:z],
        grads.threshold[row_of(grads.threshold, b), a:z],
    )


@inlined
def end_adjoint(run, adj, t, b):
    """Take up the adjoints of what timestep t gave."""
    if len(run.grad_potentials) > 0:
        accumulate(adj.potential, run.grad_potentials[t, b])
    if len(run.grad_arrived) > 0:
        copy(adj.arrived, run.grad_arrived[t, b])
    copy(adj.kept, adj.potential)
    copy(adj.counts, adj.recurrent)
    if len(run.grad_spikes) > 0:
        accumulate(adj.counts, run.grad_spikes[t, b])
    fill(adj.recurrent, 0)
    fill(adj.silent, 0)
    fill(adj.early, 0)


@inlined
def _timestep(net, rules, tensors, log, run, grads, adj, work, kernels, first_row, t, b):
    """Go back over one timestep."""
    v = run.potentials[t - 1, b] if t > 0 else tensors.potentials[b]
    fired = run.spikes[t - 1, b] if t > 0 else tensors.fired[b]
    needs_x = len(grads.x) > 0 and not rules.queued
    end_adjoint(run, adj, t, b)
    silent_slopes(net, tensors, log, run, adj, work, t, b)
    first, last = log.emitted[b, 1 + t], log.emitted[b, 2 + t]
    sort_emissions(first, log.source[first:last], net.node_of, adj.emissions, adj.emission_start)
    first, last = log.delivered[b, t], log.delivered[b, t + 1]
    sort_deliveries(log.deliveries[first:last], log.source, net.node_of, adj.deliveries, adj.delivery_start)
    for place in range(net.nodes - 1, -1, -1):
        n, extras = net.order[place], 0
        if n < net.populations:
            extras = decisive_evaluations(net, tensors, log, run, adj, work, first_row, t, b, n, fired)
        else:
            call(
                kernels.prepare_junction,
                (net, rules, tensors, log, adj, work, kernels, first_row, n, int(needs_x)),
            )
        for k in range(len(net.target)):
            if net.target[k] == n:
                back = (net, rules, tensors, log, run, grads, adj, work, first_row, n, k, extras)
                call(kernels.back[k], back)
        if n < net.populations:
            begin_adjoint(net, tensors, grads, adj, b, n, v, fired)
    if len(grads.x) > 0:
        inputs = adj.emissions[: adj.emission_start[1]]
        queued_inputs(grads.x[t, b], adj.rows, inputs, log.source, first_row)


def replay(net, rules, tensors, log, run, grads, adj, work, kernels, first_sample, last_sample):
    """Add the gradients of samples first_sample .. last_sample - 1 to `grads`.

    STATUS is NOT_FINITE if a slope was not.
    """
    now, steps = work.now, tensors.x.shape[0]
    now[STATUS] = DONE
    for b in range(first_sample, last_sample):
        first_row, own_row = log.emitted[b, 0], log.emitted[b, 1]
        rows = log.emitted[b, steps + 1] - first_row
        fill(adj.rows[:rows], 0)
        fill(adj.first_rows[:rows], 0)
        if len(run.grad_left) > 0:
            first, last = log.left_start[b], log.left_start[b + 1]
            start_left(
                adj.rows,
                log.left[first - log.left_start[first_sample] :],
                first_row,
                run.grad_left[first:last],
            )
        fill(adj.potential, 0)
        fill(adj.recurrent, 0)
        now[B] = b
        for t in range(steps - 1, -1, -1):
            now[T] = t
            _timestep(net, rules, tensors, log, run, grads, adj, work, kernels, first_row, t, b)
        copy(grads.potentials[b], adj.potential)
        copy(grads.last_spikes[b], adj.recurrent)
        copy(grads.carried[log.carried[b] : log.carried[b + 1]], adj.rows[: own_row - first_row])


REPLAY = Kernel(replay)
