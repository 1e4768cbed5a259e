"""KLIF (Jiang and Zhang, 2023; SpikingJelly's `KLIFNode`): a leaky neuron that fires on a rectified, learned multiple.

    h = leak * v + offset + gain * I,    fires where relu(k h) >= threshold,    v = reset of relu(k h), or of it / k

Its potential here is k h, which is affine in the current and, where it is above 0, what the class compares.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from snn_async.neurons.base import Charge, Outcome, State
from snn_async.neurons.linear import LinearNeuron
from snn_async.neurons.written import span


class KLIFParameters(NamedTuple):
    """Live values, each one per neuron: those of `LinearParameters`, and k."""

    leak: Tensor
    gain: Tensor
    offset: Tensor
    threshold: Tensor
    scale: Tensor


@dataclass(frozen=True)
class KLIFNeuron(LinearNeuron):
    """A linear neuron with a rectified, scaled potential; `surrogate` is a `Mapped`.

    Attributes:
        scale_reset: the potential is divided by k again when it is kept; a hard reset to `reset_value` then comes after
            that (and is left to `end`, `reset` "none").
    """

    scale_reset: bool = False

    def begin(self, live: KLIFParameters, state: State) -> Charge:  # type: ignore[override]
        base, gain, threshold = super().begin(live, state)  # type: ignore[arg-type]
        return Charge(live.scale * base, live.scale * gain, threshold)

    def end(self, live: KLIFParameters, state: State, outcome: Outcome) -> State:  # type: ignore[override]
        u, spikes = outcome.potential, outcome.spikes
        v = torch.where(spikes > 0, u, torch.relu(u))  # where it fired it was positive before its reset
        if self.scale_reset:
            v = v / live.scale
        if self.reset == "none":
            spikes = spikes.detach() if self.detach_reset else spikes
            v = (1 - spikes) * v + spikes * self.reset_value
        return v, outcome.spikes.detach()

    def describe(self) -> str:
        k = f"scale {span(self.parameters(self.module).scale)}, rectified"
        return f"{k}, {super().describe().replace('no reset', f'reset to {self.reset_value:g}')}"
