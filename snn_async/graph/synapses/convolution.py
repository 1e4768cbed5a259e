"""Convolutions, in one or two dimensions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from snn_async.graph.grids import Grid, from_units, to_units
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

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution(Synapses):
    """A convolution with zero padding. Packed weights: (group, channel in the group, ky, kx, target channel in it).

    Attributes:
        weight: of `weight_shape`, (out channels, channels of a group, height, width), or without the height.
        bias: (out channels,).
        stride, dilation: of height and width.
        padding: at the top, bottom, left and right.
    """

    weight: Live
    bias: Live | None
    source: Grid
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair
    groups: int
    weight_shape: tuple[int, ...]
    norm: Normalization | None = None

    @classmethod
    def of(cls, layer: Any, source: Grid, norm: Normalization | None = None) -> "Convolution":
        """Return the synapses of a Conv1d or Conv2d whose padding_mode is "zeros"."""
        dilation, shape = _pair(layer.dilation), tuple(layer.weight.shape)
        return cls(
            weight=Held(layer, "weight"),
            bias=held(layer, "bias"),
            source=source,
            stride=_pair(layer.stride),
            padding=padding_of(layer.padding, _pair(layer.kernel_size), dilation),
            dilation=dilation,
            groups=int(layer.groups),
            weight_shape=shape,
            norm=norm,
        )

    @property
    def kernel(self) -> Pair:
        """Height and width of the kernel."""
        return _pair(self.weight_shape[2:])

    @cached_property
    def target(self) -> Grid:  # type: ignore[override]
        _, height, width = self.source
        top, bottom, left, right = self.padding
        sides = zip(
            (height + top + bottom, width + left + right),
            self.kernel,
            self.stride,
            self.dilation,
            strict=True,
        )
        out = [(side - d * (k - 1) - 1) // s + 1 for side, k, s, d in sides]
        return (self.weight_shape[0], out[0], out[1])

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Sides of the packed weights."""
        return (self.groups, self.weight_shape[1], *self.kernel, self.weight_shape[0] // self.groups)

    @property
    def weight_count(self) -> int:
        return int(np.prod(self.weight_shape))

    def pack(self, found: Found) -> Packing:
        weight = self.weight(found)
        check_shape(weight, self.weight_shape, self)
        groups, ins, *kernel, outs = self.packed_shape
        scale = None if self.norm is None else self.norm.scale(found).reshape(-1, 1, 1, 1, outs)
        return Packing(weight, (groups, outs, ins, *kernel), (0, 2, 3, 4, 1), scale)

    @property
    def biased(self) -> bool:  # type: ignore[override]
        return self.bias is not None or self.norm is not None

    def constant(self, found: Found, like: Tensor) -> Tensor | None:
        bias = normalized(self.bias, self.norm, found)
        return None if bias is None else bias.repeat(self.fan_out // len(bias))

    def apply(self, x: Tensor, found: Found) -> Tensor:
        weight = self.weight(found)
        if self.norm is not None:
            weight = weight * self.norm.scale(found).reshape(-1, *[1] * (weight.dim() - 1))
        return self._convolve(x, weight.reshape(*weight.shape[:2], *self.kernel))

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        top, bottom, left, right = self.padding
        frame = functional.pad(
            from_units(x, self.source).unflatten(-1, self.source), (left, right, top, bottom)
        )
        result = functional.conv2d(frame, weight, None, self.stride, 0, self.dilation, self.groups)
        return to_units(result.flatten(1), self.target)

    def table(self) -> Table:
        number = torch.arange(1, self.weight_count + 1, dtype=torch.float64)
        numbered = number.reshape(self.packed_shape).permute(0, 4, 1, 2, 3).flatten(0, 1)
        found = self._convolve(torch.eye(self.fan_in, dtype=torch.float64), numbered).round().long().numpy()
        return Table(np.maximum(found - 1, 0), (found > 0).astype(np.float64))

    def describe(self) -> str:
        size = "x".join(map(str, self.kernel))
        extra = [f"stride {self.stride[0]}"] if self.stride != (1, 1) else []
        extra += [f"{self.groups} groups"] if self.groups > 1 else []
        name = f"Conv {size}, {self.source[0]} to {self.target[0]} channels"
        return ", ".join([name, *extra]) + suffix(self.norm)


def padding_of(given: Any, kernel: Pair, dilation: Pair) -> tuple[int, int, int, int]:
    """Return a layer's padding at the top, bottom, left and right."""
    if given == "valid":
        return (0, 0, 0, 0)
    if given == "same":
        y, x = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return (y // 2, y - y // 2, x // 2, x - x // 2)
    y, x = _pair(given, 0)
    return (y, y, x, x)


def _pair(value: int | tuple[int, ...], first: int = 1) -> Pair:
    """Return a Conv1d's or Conv2d's setting for height and width; `first` is the height's in one dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return (first, values[0]) if len(values) == 1 else (values[0], values[1])
