"""A neuron that fires when its potential changed by more than a threshold within a timestep, and has no reset.

snnTorch's `DeltaLeaky`:  v' = leak * v + I,  fires where |v' - v| > threshold. Its potential here is the change v' - v,
which is affine in the current; a spike has value 1 for a change of either sign.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from snn_async.neurons.base import Charge, Outcome, State
from snn_async.neurons.written import WrittenNeuron, span

if TYPE_CHECKING:
    pass


class DeltaParameters(NamedTuple):
    """Live values, each one per neuron."""

    leak: Tensor
    threshold: Tensor


@dataclass(frozen=True)
class DeltaNeuron(WrittenNeuron):
    """State (v,). `surrogate` is a `Mapped` by the absolute value, so `binary` is False."""

    def rest(self, live: DeltaParameters, samples: int, like: Tensor) -> State:
        return (like.new_zeros((samples, len(live.leak))),)

    def begin(self, live: DeltaParameters, state: State) -> Charge:
        (v,) = state
        return Charge(live.leak * v - v, v.new_ones(1), live.threshold)

    def end(self, live: DeltaParameters, state: State, outcome: Outcome) -> State:
        return (state[0] + outcome.potential,)

    def describe(self) -> str:
        leak, threshold = map(span, self.parameters(self.module))
        return f"leak {leak}, fires where it changed by more than {threshold}, no reset"
