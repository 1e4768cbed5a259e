"""Neuron parameters: what an adapter must say about a population (docs/design.md, section 4).

Per timestep a neuron with stored potential v, last timestep's spike count R and current I computes

    base = leak * v + offset                      (delayed reset: before or after the leak, see `Reset`)
    u    = base + gain * I
    s    = H(u - threshold)

and keeps u, reset if it spiked and its reset acts at once, as the next v.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError

Refractory = Literal["discard", "integrate", "off"]
REFRACTORY_MODES: tuple[Refractory, ...] = ("discard", "integrate", "off")


class NeuronParameters(NamedTuple):
    """Live, differentiable values; each a scalar or one value per neuron (size,)."""

    leak: Tensor  # factor on the stored potential, once per timestep
    gain: Tensor  # factor on every current, bias included
    offset: Tensor  # added to the potential once per timestep (a leak towards a value other than 0)
    threshold: Tensor


@dataclass(frozen=True)
class Neuron:
    """The neuron model of one population.

    Attributes:
        module: the source model's own module; its parameters are read at every run.
        read: returns the live parameters of `module`.
        surrogate: maps u - threshold to spikes, with the surrogate gradient; elementwise, any shape.
        inclusive: fires at u == threshold (SpikingJelly) rather than only above it (snnTorch).
        reset: "subtract" the threshold, set to "value", or "none".
        reset_value: the value of reset "value".
        delayed_reset: the reset acts at the next timestep's start, without gradient (snnTorch's
            `reset_delay=True`): "value" before the leak, "subtract" after it, once per spike.
        swallow_input: a delayed "value" reset also swallows the currents of the timestep in which it acts
            (snnTorch's `Lapicque`).
        retest_residual: a potential that is still above threshold after its reset is lowered by one
            threshold for the comparison of the next timestep only (snnTorch, "subtract" with
            `reset_delay=False`).
        detach_reset: the gradient does not pass through a reset that acts at once.
        spiking: False for a readout that only integrates.
        rest: initial potential.
        refractory, refractory_dropout: the layer's own options; None leaves them to `asynchronize`.
    """

    module: nn.Module
    read: Callable[[nn.Module], NeuronParameters]
    surrogate: Callable[[Tensor], Tensor]
    inclusive: bool
    reset: Literal["subtract", "value", "none"]
    reset_value: float = 0.0
    delayed_reset: bool = False
    swallow_input: bool = False
    retest_residual: bool = False
    detach_reset: bool = False
    spiking: bool = True
    rest: float = 0.0
    refractory: Refractory | None = None
    refractory_dropout: float | None = None

    def parameters(self) -> NeuronParameters:
        """Return the live leak, gain, offset and threshold of the population."""
        return self.read(self.module)

    @property
    def default_refractory(self) -> Refractory:
        """The mode under which what a neuron carries over does not depend on the order of its currents.

        A hard reset at once forgets everything, so later currents are discarded; any other reset keeps
        the surplus, so they are integrated. Both as in layered execution.
        """
        return "discard" if self.reset == "value" and not self.delayed_reset else "integrate"


def probe_comparison(surrogate: Callable[[Tensor], Tensor], where: str) -> bool:
    """Return whether `surrogate` fires at exactly 0, after checking that it is a step function.

    Raises:
        UnsupportedModelError: when it cannot be called or its values are not spikes (0 or 1).
    """
    probe = torch.tensor([-2.0, -0.5, -1e-3, 1e-3, 0.5, 2.0, 0.0])
    try:
        with torch.no_grad():
            fired = surrogate(probe.clone())
    except Exception as error:
        raise UnsupportedModelError(
            f"{where}: its surrogate function cannot be called ({type(error).__name__}: {error}); "
            "give the neuron another one"
        ) from error
    expected = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    if not isinstance(fired, Tensor) or fired.shape != probe.shape or not torch.equal(fired[:-1], expected):
        raise UnsupportedModelError(
            f"{where}: its surrogate function does not return spikes (1 above 0, 0 below 0); "
            "asynchronous execution needs binary spikes, use a spiking surrogate"
        )
    return bool(fired[-1])
