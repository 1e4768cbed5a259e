"""What synapses are: what one projection does with an event, as weights, geometry and a torch function.

Every kind is linear in its events. Its *packed* weights are a flat vector, source by source, in which an event finds
the weights it needs in runs of neighbouring targets; a kind without weights to read (identity, fixed wiring, opaque
modules) has none. Unit order is that of `grids`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.graph.grids import Grid, size_of


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

    module: Any

    def scale(self) -> Tensor:
        """Return the live factor per channel, gamma / sqrt(var + eps)."""
        bn = self.module
        factor = torch.rsqrt(bn.running_var + bn.eps)
        return factor if bn.weight is None else factor * bn.weight

    def shift(self) -> Tensor:
        """Return the live shift per channel, beta - gamma * mean / sqrt(var + eps)."""
        bn = self.module
        shift = -bn.running_mean * self.scale()
        return shift if bn.bias is None else shift + bn.bias


class Synapses(ABC):
    """The synapses of one projection, from a grid of source units to a grid of target units.

    Attributes:
        source, target: grids.
        weighted: False for wiring without weights of its own (identity, pooling), which costs no synaptic operation.
    """

    source: Grid
    target: Grid
    weighted: bool = True

    @property
    def fan_in(self) -> int:
        return size_of(self.source)

    @property
    def fan_out(self) -> int:
        return size_of(self.target)

    @property
    @abstractmethod
    def modules(self) -> tuple[nn.Module, ...]:
        """The source model's modules whose parameters these are."""

    @property
    def weight_count(self) -> int:
        """Number of packed weights."""
        return 0

    def pack(self) -> Packing | None:
        """Return how the live weights are packed, None if there are none."""
        return None

    @abstractmethod
    def bias(self) -> Tensor | None:
        """Return the live bias, (fan_out,) in unit order, or None."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Return the currents (N, fan_out) of source values (N, fan_in) with live weights, without bias."""

    @abstractmethod
    def table(self) -> Table:
        """Return every synapse; small networks only."""

    @abstractmethod
    def describe(self) -> str:
        """Return the kind and size as text."""


def module_of(norm: Normalization | None) -> tuple[nn.Module, ...]:
    """Return the module of a normalization, if there is one."""
    return () if norm is None else (norm.module,)


def normalized(bias: Tensor | None, norm: Normalization | None) -> Tensor | None:
    """Return a layer's bias after the normalization that follows it."""
    if norm is None:
        return bias
    shift = norm.shift()
    return shift if bias is None else bias * norm.scale() + shift


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
