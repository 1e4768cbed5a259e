"""The gated LIF (Yao et al., NeurIPS 2022; SpikingJelly's `GatedLIFNode`), whose learned gates mix several rules.

With the sigmoids of its parameters, last timestep's spike R and current I, in timestep t of T:

    leak = 1 - alpha (1 - tau)
    h    = leak v - (1 - alpha) linear_decay - R (gamma leak v + (1 - gamma) v_subreset) + (1 - beta (1 - conduct[t])) I

It fires where h >= threshold; its reset acts at the next timestep, with its gradient. After T timesteps it starts again
with conduct[0] and without R, as in another call of the module.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from snn_async.neurons.base import Charge, Outcome, State
from snn_async.neurons.written import WrittenNeuron, check_finite, per_neuron, span

if TYPE_CHECKING:
    from snn_async.graph import Population


class GatedParameters(NamedTuple):
    """Live values between 0 and 1, one per neuron; of `conduct` T, (T, size)."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    tau: Tensor
    v_threshold: Tensor
    linear_decay: Tensor
    v_subreset: Tensor
    conduct: Tensor


@dataclass(frozen=True)
class GatedNeuron(WrittenNeuron):
    """State (v, R, t).

    Attributes:
        parameters: returns the live parameters of `module`, in the order of `GatedParameters`, each of a shape that
            broadcasts to the neurons' (`conduct` after its T).
    """

    def read(self, population: "Population", like: Tensor) -> GatedParameters:
        *single, conduct = (value.to(like) for value in self.parameters(self.module))
        values = [per_neuron(value, population) for value in single]
        values.append(torch.stack([per_neuron(value, population) for value in conduct]))
        live = GatedParameters(*values)
        check_finite(population, **live._asdict())
        return live

    def rest(self, live: GatedParameters, samples: int, like: Tensor) -> State:
        zero = like.new_zeros((samples, len(live.tau)))
        return zero, zero, zero

    def begin(self, live: GatedParameters, state: State) -> Charge:
        v, fired, t = state
        leaked = (1 - live.alpha * (1 - live.tau)) * v
        reset = live.gamma * leaked + (1 - live.gamma) * live.v_subreset
        fired = torch.where(t > 0, torch.where(fired > 1, 1.0, fired), 0.0)
        conduct = live.conduct.gather(0, t.long())
        base = leaked - (1 - live.alpha) * live.linear_decay - fired * reset
        return Charge(base, 1 - live.beta * (1 - conduct), live.v_threshold)

    def end(self, live: GatedParameters, state: State, outcome: Outcome) -> State:
        t = (state[2] + 1) % len(live.conduct)
        return outcome.potential, outcome.spikes, t

    def describe(self) -> str:
        values = zip(GatedParameters._fields, map(span, self.parameters(self.module)), strict=True)
        return ", ".join([*(f"{name} {value}" for name, value in values), "reset at the next timestep"])
