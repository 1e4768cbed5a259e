"""Surrogate functions of neurons that compare something else than their potential with their threshold.

Each is a function of x = potential - threshold, as `Neuron.surrogate` is, elementwise and differentiable.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

Surrogate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Mapped:
    """Of a neuron that compares `map(potential)`, which is not affine: KLIF rectifies, DeltaLeaky takes the size."""

    surrogate: Surrogate
    map: Callable[[Tensor], Tensor]
    threshold: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.surrogate(self.map(x + self.threshold) - self.threshold)


@dataclass(frozen=True)
class Counted:
    """Of a neuron that sends so many spikes at once as thresholds fit into its potential (I-LIF)."""

    surrogate: Surrogate
    threshold: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.surrogate((x + self.threshold) / self.threshold)


@dataclass(frozen=True)
class Signed:
    """Of a neuron that sends 1 at its threshold and -1 at minus its threshold."""

    surrogate: Surrogate
    threshold: float

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spikes of either sign."""
        return self.surrogate(x), self.surrogate(-x - 2 * self.threshold)

    def __call__(self, x: Tensor) -> Tensor:
        positive, negative = self.parts(x)
        return positive - negative


@dataclass(frozen=True)
class TrainingOnly:
    """Of a class that fires without its surrogate function in evaluation."""

    surrogate: Surrogate
    module: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return self.surrogate(x) if self.module.training else (x >= 0).to(x)
