"""Values, results and gradients of T timesteps of `LinearNeuron` in one call; the rest is as in `contract`."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snn_async.engines.contract import Counts, PendingEvents
from snn_async.engines.numba import records


@dataclass(frozen=True)
class SequenceValues:
    """The tensors of T timesteps, all of one floating dtype; all but `fired` and the scales are differentiable.

    Attributes:
        x: (T, B, S).
        weights, biases: as in `contract.Values`.
        potentials: (B, N) the neurons' stored potential.
        fired: (B, N) spike counts that their delayed resets see.
        leak, gain, offset, threshold: (N,).
        last_spikes: (B, N) of the timestep before.
        pending: (E,) amplitudes of `Start.pending`.
        source_scale, target_scale: per projection (T, B, fan_in) or (T, B, fan_out) dropout factors, or None.
    """

    x: Tensor
    weights: Tensor
    biases: Tensor
    potentials: Tensor
    fired: Tensor
    leak: Tensor
    gain: Tensor
    offset: Tensor
    threshold: Tensor
    last_spikes: Tensor
    pending: Tensor
    source_scale: tuple[Tensor | None, ...]
    target_scale: tuple[Tensor | None, ...]


class SequenceLog:
    """What surrogate slopes need of the log, and the chunks' rows that the kernels read, with their samples.

    Attributes:
        source: (E,) emitters of all events, as source indices.
        potential: (E,) a neuron's at its decisive evaluation.
        silent_potential: (T, B, N).
    """

    def __init__(self, logs: list[records.Log], bounds: list[tuple[int, int]]) -> None:
        self.chunks = list(zip(logs, bounds, strict=True))
        self.silent_potential = torch.from_numpy(logs[0].silent_potential)

    @property
    def source(self) -> Tensor:
        return torch.from_numpy(np.concatenate([log.source for log, _ in self.chunks]))

    @property
    def potential(self) -> Tensor:
        return torch.from_numpy(np.concatenate([log.potential for log, _ in self.chunks]))


@dataclass(frozen=True)
class SequenceSimulation:
    """Result of T timesteps.

    Attributes:
        spikes, potentials: (T, B, N), potentials as `LinearNeuron.end` stores them.
        counts: with a leading T.
        pending: what is left over at the end.
        log: None unless it was asked for.
    """

    spikes: Tensor
    potentials: Tensor
    counts: Counts
    pending: PendingEvents
    log: SequenceLog | None


@dataclass(frozen=True)
class SequenceAdjoints:
    """Of the results; None for zero. `spikes`, `potentials` (T, B, N), `pending` (L,) of the amplitudes left over."""

    spikes: Tensor | None
    potentials: Tensor | None
    pending: Tensor | None


@dataclass(frozen=True)
class SequenceGradients:
    """Adjoints of the differentiable members of `SequenceValues`; `x` is None unless asked for."""

    x: Tensor | None
    weights: Tensor
    biases: Tensor
    potentials: Tensor
    leak: Tensor
    gain: Tensor
    offset: Tensor
    threshold: Tensor
    last_spikes: Tensor
    pending: Tensor
