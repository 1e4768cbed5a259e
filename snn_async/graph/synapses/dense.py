"""Fully connected synapses."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from snn_async.graph.grids import Grid, from_units
from snn_async.graph.synapses.base import (
    Normalization,
    Packing,
    Synapses,
    Table,
    check_shape,
    module_of,
    normalized,
    suffix,
)


@dataclass(frozen=True)
class Dense(Synapses):
    """Linear layers applied in order (several are one product), from a grid that is flattened as torch does.

    `columns` are those input features of the layer that these synapses take (all if None); `biased` is False where
    another projection already brings the layer's bias. Packed weights: (source unit, target).
    """

    layers: tuple[nn.Linear, ...]
    source: Grid
    norm: Normalization | None = None
    columns: tuple[int, int] | None = None
    biased: bool = True

    @property
    def target(self) -> Grid:  # type: ignore[override]
        return (self.layers[-1].out_features, 1, 1)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (*self.layers, *module_of(self.norm))

    @property
    def weight_count(self) -> int:
        return self.fan_in * self.fan_out

    def weight(self) -> Tensor:
        """Return the live weight, (fan_out, fan_in), before normalization."""
        weight = self.layers[0].weight
        if self.columns is not None:
            weight = weight[:, slice(*self.columns)]
        for layer in self.layers[1:]:
            weight = layer.weight @ weight
        return weight

    def pack(self) -> Packing:
        weight = self.weight()
        check_shape(weight, (self.fan_out, self.fan_in), self)
        scale = None if self.norm is None else self.norm.scale()
        return Packing(weight, (self.fan_out, *self.source), (2, 3, 1, 0), scale)

    def bias(self) -> Tensor | None:
        bias: Tensor | None = None
        for layer in self.layers if self.biased else ():
            if bias is not None:
                bias = layer.weight @ bias
            if layer.bias is not None:
                bias = layer.bias if bias is None else bias + layer.bias
        return normalized(bias, self.norm)

    def apply(self, x: Tensor) -> Tensor:
        current = functional.linear(from_units(x, self.source), self.weight())
        return current if self.norm is None else current * self.norm.scale()

    def table(self) -> Table:
        index = np.arange(self.weight_count, dtype=np.int64).reshape(self.fan_in, self.fan_out)
        return Table(index, np.ones(index.shape))

    def describe(self) -> str:
        product = f" (product of {len(self.layers)})" if len(self.layers) > 1 else ""
        return f"Linear {self.fan_in}x{self.fan_out}{product}{suffix(self.norm)}"
