"""Loops over plain arrays for the replay: adjoints of one population or projection at a time."""

from snn_async.engines.numba.forward.vectors import fill
from snn_async.engines.numba.jit import compiled


@compiled
def accumulate(total, values):
    for i in range(len(total)):
        total[i] += values[i]


@compiled
def masked(adjoints, slot, slot_step, after, step):
    for i in range(len(adjoints)):
        in_time, late = slot[i], after[i]
        adjoints[i] = in_time if step <= slot_step[i] else late


@compiled
def scaled(to, values, scale):
    for i in range(len(to)):
        to[i] = values[i] * scale[i] if len(scale) > 0 else values[i]


@compiled
def active_neurons(active, steps, slopes):
    """Mark the silent neurons whose spike would matter: those whose surrogate is not flat."""
    for i in range(len(active)):
        active[i] = steps[i] >= 0 and slopes[i] != 0


@compiled
def zero_inputs(active, x):
    for i in range(len(active)):
        active[i] = x[i] == 0


@compiled
def sort_emissions(first, sources, node_of, order, start):
    """Sort rows first, first + 1, ... by their sources' nodes; node n's are `order[start[n + 1] : start[n + 2]]`."""
    fill(start, 0)
    for i in range(len(sources)):
        start[node_of[sources[i]] + 2] += 1
    for n in range(2, len(start)):
        start[n] += start[n - 1]
    for i in range(len(sources)):
        n = node_of[sources[i]] + 1
        order[start[n]] = first + i
        start[n] += 1


@compiled
def sort_deliveries(rows, sources, node_of, order, start):
    """The same for listed rows."""
    fill(start, 0)
    for row in rows:
        start[node_of[sources[row]] + 2] += 1
    for n in range(2, len(start)):
        start[n] += start[n - 1]
    for row in rows:
        n = node_of[sources[row]] + 1
        order[start[n]] = row
        start[n] += 1


@compiled
def list_events(rows, source, amplitude, sources, amplitudes):
    for i in range(len(rows)):
        sources[i] = source[rows[i]]
        amplitudes[i] = amplitude[rows[i]]


@compiled
def silent_evaluations(
    subtract,
    value,
    reset_value,
    own_gain,
    own_threshold,
    u,
    current,
    slope,
    step,
    silent,
    counts,
    arrived,
    potential,
    gain,
    threshold,
    last,
    last_step,
):
    """The end of the timestep, then the silent decisive evaluations of a population: no current came in between.

    `subtract` and `value` are 1 where the gradient passes through that reset (the spike variable is 0). One loop over
    so many arrays would not be vectorized.
    """
    zero = u.dtype.type(0)
    for i in range(len(u)):
        adjoint = silent[i] + counts[i]
        adjoint += (value * (reset_value - u[i]) - subtract * own_threshold[i]) * potential[i]
        gain[i] = slope[i] * adjoint if step[i] >= 0 else zero
    for i in range(len(u)):
        threshold[i] = -gain[i]
        potential[i] += gain[i]
    for i in range(len(u)):
        gain[i] = potential[i] * current[i]
    for i in range(len(u)):
        last[i] = own_gain[i] * potential[i] + arrived[i] if step[i] >= 0 else zero
    for i in range(len(u)):
        last_step[i] = step[i]


@compiled
def rewind(slot, slot_step, extra_neuron, extra_step, extra, scale, at, count, step):
    """Go back to forward step `step`: earlier evaluations take over their neurons' slots."""
    while at < count and extra_step[at] >= step:
        i = extra_neuron[at]
        slot_step[i] = extra_step[at]
        slot[i] = extra[at] * scale[i] if len(scale) > 0 else extra[at]
        at += 1
    return at


@compiled
def start_left(rows, left, first_row, grad_left):
    """Rows that stay pending have an adjoint from after the run."""
    for i in range(len(grad_left)):
        rows[left[i] - first_row] += grad_left[i]


@compiled
def queued_inputs(x, rows, order, source, first_row):
    for row in order:
        x[source[row]] += rows[row - first_row]
