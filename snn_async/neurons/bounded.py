"""SpikeZIP's ST-BIF (SpikingJelly's `STBIFNode`): signed spikes that write out a quantized value, and never more of it.

    q = q + I / scale,    s = [q >= 1 and sent < highest] - [q < 0 and sent > lowest]

    q = q - s,    sent = sent + s

It sends s * scale; q begins at 1/2. What was sent closes either side for the next timestep. It is made for inference
and has no gradient.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from snn_async.errors import GradientError
from snn_async.neurons.base import Charge, Outcome, State
from snn_async.neurons.written import WrittenNeuron, span

if TYPE_CHECKING:
    pass

CLOSED = 1e30  # a threshold that no potential reaches


class BoundedParameters(NamedTuple):
    """Live values, each one per neuron."""

    scale: Tensor
    highest: Tensor
    lowest: Tensor


@dataclass(frozen=True)
class BoundedNeuron(WrittenNeuron):
    """State (q, sent, s). Of its threshold, 1 or CLOSED, the sign says whether it may send below 0 too."""

    def rest(self, live: BoundedParameters, samples: int, like: Tensor) -> State:
        shape = (samples, len(live.scale))
        return like.new_full(shape, 0.5), like.new_zeros(shape), like.new_zeros(shape)

    def begin(self, live: BoundedParameters, state: State) -> Charge:
        q, sent, _ = state
        above = torch.where(sent < live.highest, 1.0, CLOSED)
        return Charge(q, 1 / live.scale, torch.where(sent > live.lowest, above, -above).to(q))

    def value(self, potential: Tensor, threshold: Tensor) -> Tensor:
        above, below = potential >= threshold.abs(), (potential < 0) & (threshold > 0)
        scale: Any = self.module.q_threshold
        return (above.to(potential) - below.to(potential)) * scale.to(potential)

    def end(self, live: BoundedParameters, state: State, outcome: Outcome) -> State:
        s = (outcome.spikes / live.scale).round()
        return outcome.potential - s, state[1] + s, s

    def describe(self) -> str:
        scale, highest, lowest = map(span, self.parameters(self.module))
        return f"signed spikes of {scale}, from {lowest} to {highest} of them sent in all"


def for_inference(x: Tensor) -> Tensor:
    """Stand for the surrogate function of a class that has none.

    Raises:
        GradientError: always.
    """
    raise GradientError(
        "a neuron of the network is made for inference and has no gradient (SpikingJelly's STBIFNode); run it under "
        "torch.no_grad(), or train the network that it was converted from"
    )
