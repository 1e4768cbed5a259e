"""Kinds of synapses: what one projection does with an event, as weights, geometry and a torch function.

Every kind is linear in its events. Its *packed* weights are a flat vector, source by source, in which an event finds
the weights it needs in runs of neighbouring targets; engines read packed weights only. Unit order is that of `grids`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from snn_async.errors import UnsupportedModelError
from snn_async.graph.grids import Grid, from_units, size_of, to_units

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Packing(NamedTuple):
    """How a live weight becomes packed weights: `(weight.reshape(shape).transpose(axes) * gain).flatten()`.

    `gain` broadcasts against the transposed weight.
    """

    weight: Tensor
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    gain: Tensor


class Table(NamedTuple):
    """Every synapse, (fan_in, fan_out): its strength is `coefficient * packed[weight]`, coefficient 0 for none."""

    weight: NDArray[np.int64]
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
    @abstractmethod
    def weight_count(self) -> int:
        """Number of packed weights."""

    @abstractmethod
    def pack(self, gain: Tensor) -> Packing:
        """Return how the live weights are packed, times the targets' gain, (1,) or (fan_out,).

        Raises:
            UnsupportedModelError: for a gain per neuron where weights are shared between neurons.
        """

    @abstractmethod
    def bias(self) -> Tensor | None:
        """Return the live bias, (fan_out,) in unit order, or None."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Return the currents (N, fan_out) of source values (N, fan_in) with live weights: no gain, no bias."""

    @abstractmethod
    def table(self) -> Table:
        """Return every synapse; small networks only."""

    @abstractmethod
    def describe(self) -> str:
        """Return the kind and size as text."""


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
        return (*self.layers, *_module_of(self.norm))

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

    def pack(self, gain: Tensor) -> Packing:
        weight = self.weight()
        _check_shape(weight, (self.fan_out, self.fan_in), self)
        factor = gain if self.norm is None else gain * self.norm.scale().to(gain)
        return Packing(weight, (self.fan_out, *self.source), (2, 3, 1, 0), factor)

    def bias(self) -> Tensor | None:
        bias: Tensor | None = None
        for layer in self.layers if self.biased else ():
            if bias is not None:
                bias = layer.weight @ bias
            if layer.bias is not None:
                bias = layer.bias if bias is None else bias + layer.bias
        return _normalized(bias, self.norm)

    def apply(self, x: Tensor) -> Tensor:
        current = functional.linear(from_units(x, self.source), self.weight())
        return current if self.norm is None else current * self.norm.scale()

    def table(self) -> Table:
        index = np.arange(self.weight_count, dtype=np.int64).reshape(self.fan_in, self.fan_out)
        return Table(index, np.ones(index.shape))

    def describe(self) -> str:
        product = f" (product of {len(self.layers)})" if len(self.layers) > 1 else ""
        return f"Linear {self.fan_in}x{self.fan_out}{product}{_with(self.norm)}"


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
        return (self.layer, *_module_of(self.norm))

    @property
    def groups(self) -> int:
        return int(self.layer.groups)

    @property
    def weight_count(self) -> int:
        return int(self.layer.out_channels * self.layer.in_channels // self.groups * np.prod(self.kernel))

    def pack(self, gain: Tensor) -> Packing:
        layer = self.layer
        ins, outs = layer.in_channels // self.groups, layer.out_channels // self.groups
        if len(gain) not in (1, layer.out_channels):
            raise UnsupportedModelError(
                f"a convolution shares its weights, but its target neurons have {len(gain)} different input gains; "
                "give the neurons one time constant"
            )
        factor = gain if self.norm is None else gain * self.norm.scale().to(gain)
        _check_shape(layer.weight.flatten(2), (layer.out_channels, ins, int(np.prod(self.kernel))), self)
        factor = factor.reshape(-1, 1, 1, 1, outs) if len(factor) > 1 else factor
        return Packing(layer.weight, (self.groups, outs, ins, *self.kernel), (0, 2, 3, 4, 1), factor)

    def bias(self) -> Tensor | None:
        bias = _normalized(self.layer.bias, self.norm)
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
        return ", ".join([name, *extra]) + _with(self.norm)


@dataclass(frozen=True)
class OneToOne(Synapses):
    """Each unit to the unit of the same number: identity (no weight), a BatchNorm on its own, or given weights.

    `read` returns the live weights: `count` of them, 1, one per channel or one per unit. Packed weights: (count,).
    """

    source: Grid
    norm: Normalization | None = None
    owner: nn.Module | None = None  # whose `parameter` the weights are
    parameter: str = ""
    per_unit: bool = False  # a gain per neuron follows, or weights per neuron

    @property
    def target(self) -> Grid:  # type: ignore[override]
        return self.source

    @property
    def weighted(self) -> bool:  # type: ignore[override]
        return self.owner is not None

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (*_module_of(self.norm), *([self.owner] if self.owner is not None else []))

    @property
    def weight_count(self) -> int:
        if self.per_unit:
            return self.fan_in
        return 1 if self.norm is None else self.source[0]

    def _weight(self, like: Tensor) -> Tensor:
        weight = like.new_ones(1)
        if self.owner is not None:
            weight = getattr(self.owner, self.parameter).to(like).reshape(-1)
            if len(weight) > 1:
                weight = to_units(weight, self.source)
        if self.norm is not None:
            weight = weight * self.norm.scale().to(like)
        return weight

    def pack(self, gain: Tensor) -> Packing:
        weight = self._weight(gain)
        if len(weight) < self.weight_count:
            weight = weight.repeat(self.weight_count // len(weight))
        _check_shape(weight, (self.weight_count,), self)
        if len(gain) not in (1, self.weight_count):
            raise UnsupportedModelError(
                f"{self.describe()} leads to neurons with {len(gain)} different gains; give them one time constant"
            )
        return Packing(weight, (self.weight_count,), (0,), gain)

    def bias(self) -> Tensor | None:
        if self.norm is None:
            return None
        shift = self.norm.shift()
        return shift.repeat(self.fan_in // len(shift))

    def apply(self, x: Tensor) -> Tensor:
        weight = self._weight(x)
        return x * (weight if len(weight) in (1, self.fan_in) else weight.repeat(self.fan_in // len(weight)))

    def table(self) -> Table:
        units = np.arange(self.fan_in)
        index = np.tile(units % self.weight_count, (self.fan_in, 1))
        return Table(index, np.eye(self.fan_in))

    def describe(self) -> str:
        if self.norm is not None:
            return f"BatchNorm {self.fan_in}"
        return f"one to one {self.fan_in}" if self.weighted else f"identity {self.fan_in}"


@dataclass(frozen=True, eq=False)
class Wiring(Synapses):
    """Fixed synapses between positions, the same for every channel: average pooling, upsampling, voting.

    A source position p (units p * channels + c) reaches the positions `positions[offsets[p]:offsets[p + 1]]` with
    `values`. Packed weights: one, the gain.

    Attributes:
        channels: units per position, in source and target.
    """

    name: str
    source: Grid
    target: Grid
    channels: int
    offsets: NDArray[np.int64]
    positions: NDArray[np.int64]
    values: NDArray[np.float64]
    weighted = False

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return ()

    @property
    def weight_count(self) -> int:
        return 1

    def pack(self, gain: Tensor) -> Packing:
        if len(gain) != 1:
            raise UnsupportedModelError(
                f"{self.name} leads to neurons with {len(gain)} different input gains; give them one time constant"
            )
        return Packing(gain.new_ones(1), (1,), (0,), gain)

    def bias(self) -> None:
        return None

    def _entries(self) -> NDArray[np.int64]:
        """Return the source position of every entry."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def apply(self, x: Tensor) -> Tensor:
        frame = x.unflatten(-1, (-1, self.channels))
        parts = frame[:, torch.from_numpy(self._entries())] * torch.from_numpy(self.values).to(x)[:, None]
        total = x.new_zeros((len(x), self.fan_out // self.channels, self.channels))
        return total.index_add(1, torch.from_numpy(self.positions), parts).flatten(1)

    def table(self) -> Table:
        coefficient = self.apply(torch.eye(self.fan_in, dtype=torch.float64)).numpy()
        return Table(np.zeros(coefficient.shape, dtype=np.int64), coefficient)

    def describe(self) -> str:
        return f"{self.name} {self.fan_in} to {self.fan_out}"


def wiring(
    name: str, source: Grid, target: Grid, channels: int, entries: Iterable[tuple[int, int, float]]
) -> Wiring:
    """Return the wiring of (source position, target position, value) entries."""
    table = sorted(entries)
    count = np.bincount([s for s, _, _ in table], minlength=size_of(source) // channels)
    return Wiring(
        name,
        source,
        target,
        channels,
        np.concatenate(([0], np.cumsum(count))).astype(np.int64),
        np.array([t for _, t, _ in table], dtype=np.int64),
        np.array([v for _, _, v in table], dtype=np.float64),
    )


@dataclass(frozen=True)
class Opaque(Synapses):
    """Any other affine module (a ConvTranspose2d, a layer of one's own): the torch engine calls it.

    An event's current is `module(event) - module(0)`; `module(0)` is the bias. `shape` is what the module takes of a
    sample, `result` what it gives. An event reaches every target. Packed weights: the targets' gains (fan_out,).
    """

    module: nn.Module
    source: Grid
    target: Grid
    shape: tuple[int, ...]
    result: tuple[int, ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.module,)

    @property
    def weight_count(self) -> int:
        return self.fan_out

    def call(self, x: Tensor) -> Tensor:
        """Return module(x) for x (N, fan_in), as (N, fan_out) in unit order."""
        frame = from_units(x, self.source).reshape(-1, *self.shape)
        return to_units(self.module(frame).flatten(1), self.target)

    def pack(self, gain: Tensor) -> Packing:
        return Packing(gain.new_ones(self.fan_out), (self.fan_out,), (0,), gain)

    def bias(self) -> Tensor | None:
        held = [*self.module.parameters(), *self.module.buffers()]
        like = next((tensor for tensor in held if tensor.is_floating_point()), None)
        if like is None:
            constant = self.call(torch.zeros((1, self.fan_in)))[0]
            return constant if bool(constant.any()) else None
        return self.call(like.new_zeros((1, self.fan_in)))[0]

    def apply(self, x: Tensor) -> Tensor:
        return self.call(x) - self.call(torch.zeros_like(x[:1]))

    def table(self) -> Table:
        raise UnsupportedModelError(f"{self.describe()} has no table of synapses; use backend='torch'")

    def describe(self) -> str:
        return f"{type(self.module).__name__} {self.fan_in} to {self.fan_out}"


def _pair(value: int | tuple[int, ...], first: int = 1) -> tuple[int, int]:
    """Return a Conv1d's or Conv2d's setting for height and width; `first` is the height's in one dimension."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return (first, values[0]) if len(values) == 1 else (values[0], values[1])


def _module_of(norm: Normalization | None) -> tuple[nn.Module, ...]:
    return () if norm is None else (norm.module,)


def _normalized(bias: Tensor | None, norm: Normalization | None) -> Tensor | None:
    if norm is None:
        return bias
    shift = norm.shift()
    return shift if bias is None else bias * norm.scale() + shift


def _with(norm: Normalization | None) -> str:
    return "" if norm is None else " with BatchNorm folded in"


def _check_shape(weight: Tensor, expected: tuple[int, ...], synapses: Synapses) -> None:
    if tuple(weight.shape) != expected:
        raise UnsupportedModelError(
            f"the weight of {synapses.describe()} has shape {tuple(weight.shape)} instead of {expected}; call "
            "asynchronize again after changing a layer"
        )
