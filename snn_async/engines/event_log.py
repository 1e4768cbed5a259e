"""The event log: what an engine's `simulate` records so that `replay` can differentiate it.

Indices: T timesteps, B samples, N neurons of all populations in graph order, P populations, J junctions, S inputs.
A *source* index counts inputs first: source s < S is input s, source S + n is neuron n, source S + N + u is unit u of
all junctions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Offsets = NDArray[np.int64]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class EventLog:
    """One row per event, by sample, then in order of emission: a spike, a queued input, or what a junction's unit
    passes on in one forward step (emitted and delivered in that step; a junction that waits emits when it is released).

    Memory is linear in events plus T * B * N for the silent evaluations, as in layered backprop.

    Attributes:
        emitted: (B, T + 2) rows `emitted[b, 0]:emitted[b, 1]` of sample b were pending when the run began,
            rows `emitted[b, 1 + t]:emitted[b, 2 + t]` were emitted in timestep t.
        source: (E,) emitter, as a source index.
        amplitude: (E,) what is delivered: 1 for a spike, the value for a queued input or a junction's unit.
        step: (E,) forward step of emission.
        potential: (E,) membrane potential at the moment of spiking (its decisive evaluation), before reset;
            the amplitude for queued inputs and junctions.
        cell: (E,) for a unit of a "max", the cell of its junction that holds the maximum from then on; else -1.
        delivered_timestep, delivered_step: (E,) when it was delivered, -1 if it never was.
        deliveries: rows in the order of delivery; `deliveries[delivered[b, t]:delivered[b, t + 1]]` are
            those of sample b in timestep t.
        delivered: (B, T + 1).
        silent_step: (T, B, N) forward step of a neuron's last evaluation if it was decisive without a
            spike, else -1 (it ended the timestep refractory, or was never evaluated since its last spike).
        silent_potential: (T, B, N) potential at that evaluation.
        turn_step: (T, B, P + J) forward step in which a population took its turn, -1 if it never did; for a junction
            that waits, the last forward step before it was released, for other junctions -1.
        inputs: (B * T + 1,) rows of `input_source` and `input_amplitude` delivered in forward step 0 of
            timestep t to sample b are `inputs[b * T + t]:inputs[b * T + t + 1]` (none if inputs are queued).
    """

    emitted: Offsets
    source: Ints
    amplitude: Floats
    step: Ints
    potential: Floats
    cell: Ints
    delivered_timestep: Ints
    delivered_step: Ints
    deliveries: Offsets
    delivered: Offsets
    silent_step: Ints
    silent_potential: Floats
    turn_step: Ints
    inputs: Offsets
    input_source: Ints
    input_amplitude: Floats
