"""Rows of the event log, compiled: emission and delivery."""

from snn_async.engines.numba.codes import (
    DELIVERIES,
    EVENTS,
    NEXT_STEP,
    NOT_YET,
    OLDEST,
    PENDING,
    T,
)
from snn_async.engines.numba.jit import inlined


@inlined
def emit(work, events, source, amplitude, potential, current, step, cell, waits):
    row = work.now[EVENTS]
    events.source[row] = source
    events.step[row] = step
    events.timestep[row] = work.now[T]
    events.delivered_step[row] = NOT_YET
    events.cell[row] = cell
    events.amplitude[row] = amplitude
    events.potential[row] = potential
    events.current[row] = current
    work.now[EVENTS] = row + 1
    if waits:
        events.pending[work.now[OLDEST] + work.now[PENDING]] = row
        work.now[PENDING] += 1


@inlined
def mark_delivered(work, events, row):
    """Log an event's first delivery."""
    if events.delivered_step[row] < 0:
        events.delivered_step[row] = work.now[NEXT_STEP]
        events.deliveries[work.now[DELIVERIES]] = row
        work.now[DELIVERIES] += 1
