"""Adjoints of junctions' cells: of sums step by step, of maxima as their holders change (docs/design.md, section 7).

A junction's rows are what its units passed on; `first_unit` and `first_row` are where units and rows count from.
"""

from snn_async.engines.numba.forward.vectors import fill
from snn_async.engines.numba.jit import compiled


@compiled
def follow_sum(
    rows,
    at,
    step,
    steps,
    source,
    first_unit,
    first_row,
    adjoints,
    first_adjoints,
    scale,
    slot,
    first,
):
    """Go back to forward step `step`, in which a cell's adjoint is that of what its unit passed on then.

    `at` are the places in `rows` of the last one still to be set, and still to be cleared.
    """
    setting, clearing = at[0], at[1]
    while clearing >= 0 and steps[rows[clearing]] > step:
        unit = source[rows[clearing]] - first_unit
        slot[unit] = 0
        first[unit] = 0
        clearing -= 1
    while setting >= 0 and steps[rows[setting]] >= step:
        row = rows[setting]
        if steps[row] == step:
            unit = source[row] - first_unit
            factor = scale[unit] if len(scale) > 0 else slot.dtype.type(1)
            slot[unit] = factor * adjoints[row - first_row]
            if len(first_adjoints) > 0:
                first[unit] = factor * first_adjoints[row - first_row]
        setting -= 1
    at[0], at[1] = setting, clearing


@compiled
def follow_maximum(
    rows, at, step, steps, cell, previous, first_row, adjoints, first_adjoints, scale, slot, first
):
    """Go back to forward step `step`, in which a cell's adjoint is that of the maxima while it holds them."""
    adding, leaving = at[0], at[1]
    while adding >= 0 and steps[rows[adding]] >= step:
        row = rows[adding]
        factor = scale[cell[row]] if len(scale) > 0 else slot.dtype.type(1)
        slot[cell[row]] += factor * adjoints[row - first_row]
        first[cell[row]] += factor * first_adjoints[row - first_row]
        adding -= 1
    while leaving >= 0 and steps[rows[leaving]] > step:
        row = rows[leaving]
        before = previous[row - first_row]
        factor = scale[before] if len(scale) > 0 else slot.dtype.type(1)
        slot[before] -= factor * adjoints[row - first_row]
        first[before] -= factor * first_adjoints[row - first_row]
        leaving -= 1
    at[0], at[1] = adding, leaving


@compiled
def find_previous(rows, source, cell, first_unit, first_row, holder, previous):
    """Write which cell held the maximum before each row; `holder` begins with the first ones."""
    for row in rows:
        unit = source[row] - first_unit
        previous[row - first_row] = holder[unit]
        holder[unit] = cell[row]


@compiled
def would_be_maximum(rows, cell, previous, first_row, first_adjoints, holder, silent, would_be):
    """Adjoints of cells for what is silent: it counts at targets' first decisive evaluations."""
    fill(would_be, 0)
    for unit in range(len(holder)):
        would_be[holder[unit]] += silent[unit]
    for row in rows:
        would_be[cell[row]] += first_adjoints[row - first_row]
        would_be[previous[row - first_row]] -= first_adjoints[row - first_row]


@compiled
def start_maximum(
    rows, step, steps, source, cell, previous, first_unit, first_row, adjoints, holder, early, start
):
    """Adjoints of cells for zero inputs, delivered in step `step`; overwrites `holder` of units that passed on then."""
    fill(start, 0)
    for row in rows:
        start[cell[row]] += adjoints[row - first_row]
        if steps[row] == step:
            holder[source[row] - first_unit] = -1
        else:
            start[previous[row - first_row]] -= adjoints[row - first_row]
    for unit in range(len(holder)):
        if holder[unit] >= 0:
            start[holder[unit]] += early[unit]


@compiled
def joined_adjoints(conjunction, values, operands):
    """From the adjoints of an "and" or "iand" and its operands' totals to the adjoints of the operands, in place."""
    size = len(values)
    for unit in range(size):
        a, b = operands[unit], operands[size + unit]
        operands[unit] = values[unit] * (b if conjunction else 1 - b)
        operands[size + unit] = values[unit] * (a if conjunction else -a)
