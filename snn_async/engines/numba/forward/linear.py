"""`LinearNeuron` over time, compiled: what a population's timestep starts with, and its adjoint."""

from snn_async.engines.numba.codes import SUBTRACT, SWALLOW, VALUE
from snn_async.engines.numba.jit import compiled, inlined


@inlined
def row_of(values, b):
    """Number of a sample's row in values that all samples may share."""
    return min(b, len(values) - 1)


@compiled
def is_above(v, threshold, inclusive):
    return v >= threshold if inclusive else v > threshold


@compiled
def charge(
    base,
    gain,
    residual,
    v,
    fired,
    leak,
    offset,
    own_gain,
    threshold,
    delayed,
    reset_value,
    retest,
    inclusive,
):
    """`LinearNeuron.begin`; `residual` is what `LinearNeuron.end` gives back."""
    for i in range(len(base)):
        base[i] = leak[i] * v[i] + offset[i]
    for i in range(len(base)):
        gain[i] = own_gain[i]
        residual[i] = 0
    if delayed == VALUE:
        for i in range(len(base)):
            if fired[i] > 0:
                base[i] = leak[i] * reset_value + offset[i]
    elif delayed == SWALLOW:
        for i in range(len(base)):
            if fired[i] > 0:
                base[i] = reset_value
                gain[i] = 0
    elif delayed == SUBTRACT:
        for i in range(len(base)):
            base[i] -= fired[i] * threshold[i]
    if retest:
        for i in range(len(base)):
            if is_above(v[i], threshold[i], inclusive):
                residual[i] = threshold[i]
                base[i] -= threshold[i]


@compiled
def masked_gain(gain, own_gain, fired, swallows):
    """The gain of a timestep."""
    for i in range(len(gain)):
        gain[i] = own_gain[i]
    if swallows:
        for i in range(len(gain)):
            if fired[i] > 0:
                gain[i] = 0


@compiled
def charge_adjoint(
    potential,
    kept,
    gain,
    threshold,
    v,
    fired,
    leak,
    own_threshold,
    delayed,
    reset_value,
    retest,
    inclusive,
    leak_grads,
    offset_grads,
    gain_grads,
    threshold_grads,
):
    """From the adjoint of a timestep's base to that of v, in place; `kept` is that of the potential kept after it.

    `gain` and `threshold` are adjoints of the timestep's.
    """
    if delayed == SUBTRACT:
        for i in range(len(v)):
            threshold[i] -= fired[i] * potential[i]
    if delayed == SWALLOW:
        for i in range(len(v)):
            if fired[i] > 0:
                potential[i] = 0
                gain[i] = 0
    if retest:
        for i in range(len(v)):
            if is_above(v[i], own_threshold[i], inclusive):
                threshold[i] += kept[i] - potential[i]
    if delayed == VALUE:
        for i in range(len(v)):
            if fired[i] > 0:
                leak_grads[i] += potential[i] * reset_value
                offset_grads[i] += potential[i]
                potential[i] = 0
    for i in range(len(v)):
        leak_grads[i] += potential[i] * v[i]
    for i in range(len(v)):
        offset_grads[i] += potential[i]
        potential[i] *= leak[i]
    for i in range(len(v)):
        gain_grads[i] += gain[i]
        threshold_grads[i] += threshold[i]
