"""Neurons with one state that leaks linearly: snnTorch's Leaky, Lapicque and RLeaky, SpikingJelly's IF, LIF and PLIF.

Per timestep a neuron with stored potential v, last timestep's spike count R and current I computes

    base = leak * v + offset                      (delayed reset: before or after the leak, see `LinearNeuron`)
    u    = base + gain * I
    s    = H(u - threshold)

and keeps u, reset if it spiked and its reset acts at once, as the next v.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from snn_async.neurons.base import Charge, Outcome, Refractory, State
from snn_async.neurons.written import WrittenNeuron, span


class LinearParameters(NamedTuple):
    """Live, differentiable values; each a scalar or of the neurons' shape in the source model."""

    leak: Tensor  # factor on the stored potential, once per timestep
    gain: Tensor  # factor on every current, bias included
    offset: Tensor  # added to the potential once per timestep (a leak towards a value other than 0)
    threshold: Tensor


@dataclass(frozen=True)
class LinearNeuron(WrittenNeuron):
    """A leaky integrate-and-fire neuron; state (v, R).

    Attributes:
        delayed_reset: None, or what last timestep's spikes do at the start of a timestep, without gradient (snnTorch's
            `reset_delay=True`): "value" before the leak, "subtract" after it, once per spike; "swallow" also swallows
            the currents of the timestep in which it acts (snnTorch's `Lapicque`). `reset` is "none" then.
        retest_residual: a potential that is still above threshold after its reset is lowered by one
            threshold for the comparison of the next timestep only (snnTorch, "subtract" with `reset_delay=False`).
        resting: initial potential.
    """

    delayed_reset: str | None = None
    retest_residual: bool = False
    resting: float = 0.0

    @property
    def default_refractory(self) -> Refractory:
        """A hard reset at once forgets everything, so later currents are discarded; any other reset keeps the surplus,
        so they are integrated. Both as in layered execution.
        """
        return "discard" if self.reset == "value" else "integrate"

    def rest(self, live: LinearParameters, samples: int, like: Tensor) -> State:
        v = like.new_full((samples, len(live.leak)), self.resting)
        # snnTorch derives a delayed reset from the stored potential, which may start above a negative threshold
        fired = self._above(v, live) if self.delayed_reset else torch.zeros_like(v)
        return v, fired

    def started(self, live: LinearParameters, given: State, rest: State) -> State:
        v, *_ = (*given, *rest)
        return v, self._above(v, live) if self.delayed_reset else rest[1], *rest[2:]

    def begin(self, live: LinearParameters, state: State) -> Charge:
        v, fired = state
        if self.delayed_reset in ("value", "swallow"):
            v = torch.where(fired > 0, self.reset_value, v)
        base, gain = live.leak * v + live.offset, live.gain
        if self.delayed_reset == "subtract":
            base = base - fired * live.threshold
        if self.delayed_reset == "swallow":
            base, gain = torch.where(fired > 0, self.reset_value, base), torch.where(fired > 0, 0.0, gain)
        if self.retest_residual:
            base = base - self._above(v, live) * live.threshold
        return Charge(base, gain, live.threshold)

    def end(self, live: LinearParameters, state: State, outcome: Outcome) -> State:
        v = outcome.potential
        if self.retest_residual:  # what was subtracted for the comparison is given back
            v = v + self._above(state[0], live) * live.threshold
        return v, outcome.spikes.detach()

    def _above(self, v: Tensor, live: LinearParameters) -> Tensor:
        above = v >= live.threshold if self.inclusive else v > live.threshold
        return above.to(v.dtype)

    def describe(self) -> str:
        leak, gain, offset, threshold, *_ = map(span, self.parameters(self.module))
        parts = (
            [f"leak {leak}"]
            + ([f"gain {gain}"] if gain != "1" else [])
            + ([f"offset {offset}"] if offset != "0" else [])
        )
        if not self.spiking:
            return ", ".join(parts)
        kind = self.delayed_reset or self.reset
        reset = {"none": "no reset", "subtract": "reset by subtraction"}.get(
            kind, f"reset to {self.reset_value:g}"
        )
        when = "" if kind == "none" else " at the next timestep" if self.delayed_reset else " at once"
        fires = "at" if self.inclusive else "above"
        return ", ".join([*parts, f"fires {fires} {threshold}", reset + when])
