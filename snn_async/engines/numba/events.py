"""Rows of the event log, compiled: emission and delivery."""

from snn_async.engines.numba.records import (
    AMPLITUDE,
    CELL,
    DELIVERED_STEP,
    DELIVERED_TIMESTEP,
    DELIVERIES,
    EVENTS,
    NEXT_STEP,
    PENDING,
    POTENTIAL,
    SOURCE,
    STEP,
    TIMESTEP,
    T,
    inlined,
)


@inlined
def emit(work, events, source, amplitude, potential, step, cell, waits):
    row = work.now[EVENTS]
    events.ints[row, SOURCE] = source
    events.ints[row, STEP] = step
    events.ints[row, TIMESTEP] = work.now[T]
    events.ints[row, DELIVERED_TIMESTEP] = -1
    events.ints[row, DELIVERED_STEP] = -1
    events.ints[row, CELL] = cell
    events.floats[row, AMPLITUDE] = amplitude
    events.floats[row, POTENTIAL] = potential
    work.now[EVENTS] = row + 1
    if waits:
        events.pending[work.now[PENDING]] = row
        work.now[PENDING] += 1


@inlined
def mark_delivered(work, events, row):
    """Log an event's first delivery."""
    if events.ints[row, DELIVERED_TIMESTEP] < 0:
        events.ints[row, DELIVERED_TIMESTEP] = work.now[T]
        events.ints[row, DELIVERED_STEP] = work.now[NEXT_STEP]
        events.deliveries[work.now[DELIVERIES]] = row
        work.now[DELIVERIES] += 1
