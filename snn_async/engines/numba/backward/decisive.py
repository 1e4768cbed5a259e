"""The decisive evaluations of one population in one timestep, differentiated by hand (docs/design.md, section 5)."""

import numpy as np

from snn_async.engines.numba.backward.adjoints import silent_evaluations
from snn_async.engines.numba.backward.slopes import GIVEN, fill_slopes, slope_of
from snn_async.engines.numba.codes import INTEGRATE, NOT_FINITE, STATUS, SUBTRACT, SWALLOW, VALUE
from snn_async.engines.numba.forward.linear import masked_gain, row_of
from snn_async.engines.numba.forward.vectors import copy, fill
from snn_async.engines.numba.jit import inlined


@inlined
def spike_evaluation(net, own_threshold, log, run, adj, work, first_row, p, i, row):
    """Go back over a decisive evaluation at which neuron i spiked."""
    after, slope = adj.potential[i], adj.rows.dtype.type(0)
    if run.form[p] == GIVEN:
        if len(run.slope) > 0:
            slope = run.slope[row]
    else:
        slope = slope_of(run.form[p], run.parameter[p], log.potential[row] - own_threshold[i])
        if not np.isfinite(slope):
            work.now[STATUS] = NOT_FINITE
    adjoint, before = adj.rows[row - first_row] + adj.counts[i], after
    if net.reset[p] == SUBTRACT:
        adj.threshold[i] -= after
        if not net.detach[p]:
            adjoint -= own_threshold[i] * after
    elif net.reset[p] == VALUE:
        before = adj.rows.dtype.type(0)
        if not net.detach[p]:
            adjoint += (adj.rows.dtype.type(net.reset_value[p]) - log.potential[row]) * after
    adj.threshold[i] -= slope * adjoint
    before += slope * adjoint
    adj.gain[i] += (before - after) * log.current[row]
    adj.potential[i] = before


@inlined
def silent_slopes(net, tensors, log, run, adj, work, t, b):
    """Fill the slopes at silent evaluations."""
    threshold = tensors.threshold[row_of(tensors.threshold, b)]
    for p in range(net.populations):
        a, z = net.start[p], net.start[p + 1]
        if run.form[p] != GIVEN:
            u = log.silent_potential[t, b, a:z]
            if not fill_slopes(run.form[p], run.parameter[p], u, threshold[a:z], adj.slope[a:z]):
                work.now[STATUS] = NOT_FINITE
        elif len(run.silent_slope) > 0:
            copy(adj.slope[a:z], run.silent_slope[t, b, a:z])


@inlined
def decisive_evaluations(net, tensors, log, run, adj, work, first_row, t, b, p, fired):
    """Fill the slots of population p and the adjoints of its gain and threshold; return how many extra evaluations
    there are.
    """
    a, z = net.start[p], net.start[p + 1]
    through, one, zero = not net.detach[p], tensors.x.dtype.type(1), tensors.x.dtype.type(0)
    own_gain, own_threshold = adj.own_gain, tensors.threshold[row_of(tensors.threshold, b)]
    gain = tensors.gain[row_of(tensors.gain, b)]
    masked_gain(own_gain[a:z], gain[a:z], fired[a:z], net.delayed[p] == SWALLOW)
    silent_evaluations(
        one if through and net.reset[p] == SUBTRACT else zero,
        one if through and net.reset[p] == VALUE else zero,
        tensors.x.dtype.type(net.reset_value[p]),
        own_gain[a:z],
        own_threshold[a:z],
        log.silent_potential[t, b, a:z],
        log.arrived[t, b, a:z],
        adj.slope[a:z],
        log.silent_step[t, b, a:z],
        adj.silent[a:z],
        adj.counts[a:z],
        adj.arrived[a:z],
        adj.potential[a:z],
        adj.gain[a:z],
        adj.threshold[a:z],
        adj.last[a:z],
        adj.last_step[a:z],
    )
    fill(adj.after[a:z], 0)
    extras = 0
    for place in range(adj.emission_start[p + 2] - 1, adj.emission_start[p + 1] - 1, -1):
        row = adj.emissions[place]
        i = log.source[row] - net.inputs
        kept = own_gain[i] * adj.potential[i] + adj.arrived[i]
        spike_evaluation(net, own_threshold, log, run, adj, work, first_row, p, i, row)
        landing = own_gain[i] * adj.potential[i] + adj.arrived[i]
        if adj.last_step[i] < 0:
            adj.last_step[i] = log.step[row]
            adj.last[i] = landing
            if net.refractory[p] == INTEGRATE:
                adj.after[i] = kept
        else:
            adj.extra_neuron[extras] = i - a
            adj.extra_step[extras] = log.step[row]
            adj.extra[extras] = landing
            extras += 1
    return extras
