"""What synapses are: what one projection does with an event, as weights, geometry and a torch function.

Every kind is linear in its events. Its *packed* weights are a flat vector, source by source, in which an event finds
the weights it needs in runs of neighbouring targets; a kind without weights of that form (identity, fixed wiring, any
function) has none. Unit order is that of `grids`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async.errors import UnsupportedModelError
from snn_async.graph.grids import Grid, size_of
from snn_async.graph.live import Found, Held, Live, held


class Packing(NamedTuple):
    """How a live weight becomes packed weights: `(weight.reshape(shape).permute(axes) * scale).flatten()`."""

    weight: Tensor
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    scale: Tensor | None = None  # of a BatchNorm; broadcasts against the permuted weight


class Table(NamedTuple):
    """Every synapse, (fan_in, fan_out): its strength is `coefficient * packed[weight]`, coefficient 0 for none.

    `weight` is None where there are no packed weights: the strength is the coefficient itself.
    """

    weight: NDArray[np.int64] | None
    coefficient: NDArray[np.float64]


@dataclass(frozen=True)
class Normalization:
    """A BatchNorm folded into the synapses before it, with its running statistics."""

    weight: Live | None
    bias: Live | None
    mean: Live
    var: Live
    eps: float

    @classmethod
    def of(cls, module: Any) -> "Normalization":
        """Return that of a BatchNorm module."""
        mean, var = Held(module, "running_mean"), Held(module, "running_var")
        return cls(held(module, "weight"), held(module, "bias"), mean, var, module.eps)

    def scale(self, found: Found) -> Tensor:
        """Return the live factor per channel, gamma / sqrt(var + eps)."""
        factor = torch.rsqrt(self.var(found) + self.eps)
        return factor if self.weight is None else factor * self.weight(found)

    def shift(self, found: Found) -> Tensor:
        """Return the live shift per channel, beta - gamma * mean / sqrt(var + eps)."""
        shift = -self.mean(found) * self.scale(found)
        return shift if self.bias is None else shift + self.bias(found)


class Synapses(ABC):
    """The synapses of one projection, from a grid of source units to a grid of target units.

    Attributes:
        source, target: grids.
        weighted: False for wiring without weights of its own (identity, pooling), which costs no synaptic operation.
        biased: whether there is a bias.
        live: what the engines' `Values.parameters` hold for these synapses.
    """

    source: Grid
    target: Grid
    weighted: bool = True
    biased: bool = False
    live: tuple[Live, ...] = ()

    @property
    def fan_in(self) -> int:
        return size_of(self.source)

    @property
    def fan_out(self) -> int:
        return size_of(self.target)

    @property
    def weight_count(self) -> int:
        """Number of packed weights."""
        return 0

    def pack(self, found: Found) -> Packing | None:
        """Return how the live weights are packed, None if there are none."""
        return None

    def constant(self, found: Found, like: Tensor) -> Tensor | None:
        """Return the live bias for a run of values like `like`, (fan_out,) in unit order; None if there is none."""
        return None

    @abstractmethod
    def apply(self, x: Tensor, found: Found) -> Tensor:
        """Return the currents (R, fan_out) of source values (R, fan_in) with live weights, without bias."""

    @abstractmethod
    def table(self) -> Table:
        """Return every synapse; small networks only."""

    @abstractmethod
    def describe(self) -> str:
        """Return the kind and size as text."""


def normalized(bias: Live | None, norm: Normalization | None, found: Found) -> Tensor | None:
    """Return a layer's bias after the normalization that follows it."""
    value = None if bias is None else bias(found)
    if norm is None:
        return value
    shift = norm.shift(found)
    return shift if value is None else value * norm.scale(found) + shift


def suffix(norm: Normalization | None) -> str:
    """Return what a description says of a normalization."""
    return "" if norm is None else " with BatchNorm folded in"


def check_shape(weight: Tensor, expected: tuple[int, ...], synapses: Synapses) -> None:
    """Raise UnsupportedModelError if a layer's weight is no longer of the shape it had."""
    if tuple(weight.shape) != expected:
        raise UnsupportedModelError(
            f"the weight of {synapses.describe()} has shape {tuple(weight.shape)} instead of {expected}; call "
            "asynchronize again after changing a layer"
        )
