"""Ternary neurons with a hard reset: spikes of 1 at the threshold and of -1 at minus the threshold, which both reset.

SpikingJelly's `TernaryIFNode` and `TernaryLIFNode`. With a soft reset they are `LinearNeuron`s with signed spikes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from snn_async.neurons.base import Outcome, Refractory, State
from snn_async.neurons.linear import LinearNeuron, LinearParameters
from snn_async.neurons.surrogates import Signed


@dataclass(frozen=True)
class HardTernaryNeuron(LinearNeuron):
    """A linear neuron with signed spikes; `surrogate` is a `Signed`. A spike of either sign sets to `reset_value`.

    The reset is made in `end`: p + n of the positive and negative spike functions, of whose difference p - n events
    carry value and gradient. The gradient of the sum is shared out by the two functions' slopes at the potential of the
    end, which in layered execution is that of the decisive evaluation.
    """

    repeats: bool = False

    @property
    def default_refractory(self) -> Refractory:
        return "discard"

    def end(self, live: LinearParameters, state: State, outcome: Outcome) -> State:
        u, spikes = outcome.potential, outcome.spikes
        spiked = spikes.detach().abs()
        if not self.detach_reset and spikes.requires_grad:
            spiked = spiked + self._share(u - live.threshold) * (spikes - spikes.detach())
        return (1 - spiked) * u + spiked * self.reset_value, spikes.detach()

    def describe(self) -> str:
        return super().describe().replace("no reset", f"or at minus that, reset to {self.reset_value:g}")

    def _share(self, x: Tensor) -> Tensor:
        """Return d(p + n) / d(p - n)."""
        assert isinstance(self.surrogate, Signed)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            slopes = [
                torch.autograd.grad(part.sum(), x, retain_graph=True)[0]
                for part in self.surrogate.parts(x)
                if part.requires_grad
            ]
        if len(slopes) < 2:  # a surrogate function without gradient
            return torch.zeros_like(x)
        positive, negative = slopes  # dp/dx and dn/dx, of opposite signs
        difference = positive - negative
        return torch.where(difference == 0, 0.0, (positive + negative) / difference)
