"""Convolutions, in one or two dimensions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_async.graph.grids import Grid, from_units, to_units
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
class Convolution(Synapses):
    """A Conv1d or Conv2d. Packed weights: (group, channel in the group, ky, kx, target channel in the group)."""

    layer: Any
    source: Grid
    norm: Normalization | None = None

    @cached_property
    def kernel(self) -> tuple[int, int]:
        return _pair(self.layer.kernel_size)

    @cached_property
    def stride(self) -> tuple[int, int]:
        return _pair(self.layer.stride)

    @cached_property
    def dilation(self) -> tuple[int, int]:
        return _pair(self.layer.dilation)

    @cached_property
    def padding(self) -> tuple[int, int, int, int]:
        """Padding at the top, bottom, left and right."""
        if self.layer.padding == "valid":
            return (0, 0, 0, 0)
        if self.layer.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
            return (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
        y, x = _pair(self.layer.padding, 0)
        return (y, y, x, x)

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
        return (self.layer.out_channels, out[0], out[1])

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.layer, *module_of(self.norm))

    @property
    def groups(self) -> int:
        return int(self.layer.groups)

    @property
    def weight_count(self) -> int:
        return int(self.layer.out_channels * self.layer.in_channels // self.groups * np.prod(self.kernel))

    def pack(self) -> Packing:
        weight, kernel = self.layer.weight, self.kernel
        ins, outs = self.layer.in_channels // self.groups, self.layer.out_channels // self.groups
        check_shape(weight.flatten(2), (self.layer.out_channels, ins, kernel[0] * kernel[1]), self)
        scale = None if self.norm is None else self.norm.scale().reshape(-1, 1, 1, 1, outs)
        return Packing(weight, (self.groups, outs, ins, *kernel), (0, 2, 3, 4, 1), scale)

    def bias(self) -> Tensor | None:
        bias = normalized(self.layer.bias, self.norm)
        return None if bias is None else bias.repeat(self.fan_out // len(bias))

    def apply(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        if self.norm is not None:
            weight = weight * self.norm.scale().reshape(-1, *[1] * (weight.dim() - 1))
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
        shape = (
            self.groups,
            self.layer.in_channels // self.groups,
            *self.kernel,
            self.layer.out_channels // self.groups,
        )
        numbered = number.reshape(shape).permute(0, 4, 1, 2, 3).flatten(0, 1)
        found = self._convolve(torch.eye(self.fan_in, dtype=torch.float64), numbered).round().long().numpy()
        return Table(np.maximum(found - 1, 0), (found > 0).astype(np.float64))

    def describe(self) -> str:
        size = "x".join(map(str, self.kernel))
        extra = [f"stride {self.stride[0]}"] if self.stride != (1, 1) else []
        extra += [f"{self.groups} groups"] if self.groups > 1 else []
        name = f"Conv {size}, {self.layer.in_channels} to {self.layer.out_channels} channels"
        return ", ".join([name, *extra]) + suffix(self.norm)


def _pair(value: int | tuple[int, ...], first: int = 1) -> tuple[int, int]:
    """Return a Conv1d's or Conv2d's setting for height and width; `first` is the height's in one dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return (first, values[0]) if len(values) == 1 else (values[0], values[1])
