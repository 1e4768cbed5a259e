"""Neurons that weigh their last inputs, without a reset: parallel spiking neurons (Fang et al., 2023), cut-off leaks.

    h[t] = sum_l weight[t, l] x[t - l],    l from 0 to k - 1,    fires where h[t] + bias[t] >= 0

SpikingJelly's `SlidingPSN` has the same weights and bias in every timestep; those of its `MaskedPSN` are of one of T
timesteps, after which it starts again, as in another call of the module. snnTorch's `StateLeaky` with
`kernel_truncation_steps` forgets what is older. All compute all timesteps at once, but none needs a later input: x[t]
acts with the gain weight[t, 0], and what was before is known when a timestep begins.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from snn_async.neurons.base import Charge, Outcome, State
from snn_async.neurons.written import WrittenNeuron, check_finite, span

if TYPE_CHECKING:
    from snn_async.graph import Population


class WindowParameters(NamedTuple):
    """Live values for each of T timesteps and n neurons; n is 1 where all are alike."""

    weight: Tensor  # (T, k, n), of the present input first; 0 for inputs before the first timestep
    bias: Tensor  # (T, n)
    size: int = 0  # how many neurons there are, once `read`


@dataclass(frozen=True)
class WindowNeuron(WrittenNeuron):
    """State (h, x[t - 1], ..., x[t - k + 1], t)."""

    def read(self, population: "Population", like: Tensor) -> WindowParameters:
        weight, bias, _ = self.parameters(self.module)
        live = WindowParameters(weight.to(like), bias.to(like), population.size)
        check_finite(population, weight=live.weight, bias=live.bias)
        return live

    def rest(self, live: WindowParameters, samples: int, like: Tensor) -> State:
        zero = like.new_zeros((samples, live.size))
        return (zero,) * (live.weight.shape[1] + 1)

    def begin(self, live: WindowParameters, state: State) -> Charge:
        _, *before, t = state
        now = t[:, 0].long() % len(live.weight)
        gain, *weights = live.weight[now].unbind(1)
        base = t.new_zeros(1).expand_as(t)
        for weight, x in zip(weights, before, strict=True):
            base = base + weight * x
        return Charge(base, gain, -live.bias[now])

    def end(self, live: WindowParameters, state: State, outcome: Outcome) -> State:
        _, *before, t = state
        return outcome.potential, *(outcome.current, *before)[: len(before)], t + 1

    def describe(self) -> str:
        weight, bias, _ = self.parameters(self.module)
        return f"weighs its last {weight.shape[1]} inputs by {span(weight)}, fires at {span(-bias)}, no reset"
