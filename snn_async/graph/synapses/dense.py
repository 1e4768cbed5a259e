"""Fully connected synapses."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from snn_async.graph.grids import Grid, from_units
from snn_async.graph.live import Found, Held, Live, held
from snn_async.graph.synapses.base import (
    Normalization,
    Packing,
    Synapses,
    Table,
    check_shape,
    normalized,
    suffix,
)


@dataclass(frozen=True)
class Dense(Synapses):
    """All to all, from a grid that is flattened as torch does. Packed weights: (source unit, target).

    Attributes:
        weight: (out, fan_in), columns in torch's flat order of `source`.
        bias: (out,).
    """

    weight: Live
    bias: Live | None
    source: Grid
    out: int
    norm: Normalization | None = None

    @classmethod
    def of(cls, layer: nn.Linear, source: Grid, norm: Normalization | None = None) -> "Dense":
        """Return the synapses of a Linear."""
        return cls(Held(layer, "weight"), held(layer, "bias"), source, layer.out_features, norm)

    @property
    def target(self) -> Grid:  # type: ignore[override]
        return (self.out, 1, 1)

    @property
    def weight_count(self) -> int:
        return self.fan_in * self.fan_out

    def pack(self, found: Found) -> Packing:
        weight = self.weight(found)
        check_shape(weight, (self.fan_out, self.fan_in), self)
        scale = None if self.norm is None else self.norm.scale(found)
        return Packing(weight, (self.fan_out, *self.source), (2, 3, 1, 0), scale)

    @property
    def biased(self) -> bool:  # type: ignore[override]
        return self.bias is not None or self.norm is not None

    def constant(self, found: Found, like: Tensor) -> Tensor | None:
        return normalized(self.bias, self.norm, found)

    def apply(self, x: Tensor, found: Found) -> Tensor:
        current = functional.linear(from_units(x, self.source), self.weight(found))
        return current if self.norm is None else current * self.norm.scale(found)

    def table(self) -> Table:
        index = np.arange(self.weight_count, dtype=np.int64).reshape(self.fan_in, self.fan_out)
        return Table(index, np.ones(index.shape))

    def describe(self) -> str:
        return f"Linear {self.fan_in}x{self.fan_out}{suffix(self.norm)}"
