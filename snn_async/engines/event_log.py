"""The event log of one timestep: what an engine's `simulate` records so that `replay` can differentiate it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evaluations:
    """Decisive evaluations.

    Attributes:
        source: (E,) source indices of the events.
        potential: (E,) at their decisive evaluation; anything for other than neurons.
        silent_potential: (..., B, N) at the silent ones, and at all that an engine keeps neuron by neuron.
        sample: (E,).
    """

    source: Tensor
    potential: Tensor
    silent_potential: Tensor
    sample: Tensor


@dataclass(frozen=True)
class EventLog:
    """Emissions and deliveries apart, and the silent evaluations. Indices and sizes are those of `engines.contract`.

    An emission is a spike, a queued input, or what a junction's unit passes on in one forward step. A delivery brings
    one emission through one projection; an event may be delivered by several, not necessarily in the same forward step.

    Memory is linear in events plus B * N for the silent evaluations, as in layered backprop.

    Attributes:
        offsets: (B + 1,) rows `offsets[b]:offsets[b + 1]` are sample b's emissions, in order; first those that were
            pending when the timestep began, `carried[b]` (B,) of them.
        source: (E,) emitter, as a source index.
        amplitude: (E,) what is delivered: a spike's value (1 where spikes are binary), that of a queued input or of a
            junction's unit.
        step: (E,) forward step of emission (for carried ones, of their own timestep).
        potential: (E,) membrane potential at the moment of spiking (its decisive evaluation), before any reset;
            the amplitude for queued inputs and junctions.
        current: (E,) the current that had arrived at the neuron by then, unscaled; 0 where there is no neuron.
        cell: (E,) for a unit of a "max", the cell of its junction that holds the maximum from then on; else -1.
        event, projection, step_of_delivery: (D,) deliveries, by sample, then in order of time: row of the emission,
            index of the projection, forward step.
        left: (L,) rows that are pending when the timestep ends, in the order of `Simulation.pending`.
        silent_step: (B, N) forward step of a neuron's last evaluation if it was decisive without a spike, else -1
            (it ended the timestep refractory, or was never evaluated since its last spike).
        silent_potential: (B, N) potential at that evaluation; 0 where there is none.
        turn_step: (B, P + J) forward step in which a population took its turn, -1 if it never did; for a junction that
            waits, the last forward step before it was released; -1 for other junctions.
    """

    offsets: Tensor
    carried: Tensor
    source: Tensor
    amplitude: Tensor
    step: Tensor
    potential: Tensor
    current: Tensor
    cell: Tensor
    event: Tensor
    projection: Tensor
    step_of_delivery: Tensor
    left: Tensor
    silent_step: Tensor
    silent_potential: Tensor
    turn_step: Tensor

    @property
    def evaluations(self) -> Evaluations:
        """Return its decisive evaluations."""
        sample = torch.repeat_interleave(self.offsets.diff())
        return Evaluations(self.source, self.potential, self.silent_potential, sample)
