"""Rows of the event log, compiled: emission and delivery."""

from snn_async.engines.numba.codes import (
    AMPLITUDE,
    CELL,
    CURRENT,
    DELIVERED_STEP,
    DELIVERIES,
    EVENTS,
    NEXT_STEP,
    NOT_YET,
    PENDING,
    POTENTIAL,
    SOURCE,
    STEP,
    TIMESTEP,
    T,
)
from snn_async.engines.numba.jit import inlined


@inlined
def emit(work, events, source, amplitude, potential, current, step, cell, waits):
    row = work.now[EVENTS]
    events.ints[row, SOURCE] = source
    events.ints[row, STEP] = step
    events.ints[row, TIMESTEP] = work.now[T]
    events.ints[row, DELIVERED_STEP] = NOT_YET
    events.ints[row, CELL] = cell
    events.floats[row, AMPLITUDE] = amplitude
    events.floats[row, POTENTIAL] = potential
    events.floats[row, CURRENT] = current
    work.now[EVENTS] = row + 1
    if waits:
        events.pending[work.now[PENDING]] = row
        work.now[PENDING] += 1


@inlined
def mark_delivered(work, events, row):
    """Log an event's first delivery."""
    if events.ints[row, DELIVERED_STEP] < 0:
        events.ints[row, DELIVERED_STEP] = work.now[NEXT_STEP]
        events.deliveries[work.now[DELIVERIES]] = row
        work.now[DELIVERIES] += 1
