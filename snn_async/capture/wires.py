"""Operators without weights as fixed synapses: where each value goes, found by running them on the places."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from snn_async.capture.expression import run_node
from snn_async.capture.kinds import shape_of, tensors_in, value_of
from snn_async.capture.operators import ADDITIONS, MOVES, RESHAPES, plain_name
from snn_async.errors import UnsupportedModelError
from snn_async.graph.grids import Grid, size_of, to_units
from snn_async.graph.synapses import OneToOne, Synapses, wiring
from snn_async.graph.windows import Windows, adaptive, pooling

_SCALES = {"mul", "multiply", "div", "divide", "neg", "true_divide"}
_MOST_PROBED = 1 << 22  # entries of a map that is found by giving one value after another


class Link(NamedTuple):
    """One operator on the way from a source to a target; of several results, that of `through` is taken."""

    node: Node
    operand: Node
    through: Node | None = None


class Wires(NamedTuple):
    """A sparse map from n to m values of a row, in torch's order: result[to] += value * given[of]."""

    sources: int
    targets: int
    of: NDArray[np.int64]
    to: NDArray[np.int64]
    value: NDArray[np.float64]

    @classmethod
    def identity(cls, size: int) -> "Wires":
        every = np.arange(size)
        return cls(size, size, every, every, np.ones(size))

    def then(self, after: "Wires") -> "Wires":
        """Return this map followed by another."""
        order = np.argsort(after.of, kind="stable")
        counts = np.bincount(after.of, minlength=after.sources)
        first, each = (np.cumsum(counts) - counts)[self.to], counts[self.to]
        mine = np.repeat(np.arange(len(self.to)), each)
        nth = np.arange(len(mine)) - np.repeat(np.cumsum(each) - each, each)
        its = order[first[mine] + nth]
        ways, way = np.unique(self.of[mine] * after.targets + after.to[its], return_inverse=True)
        value = np.bincount(way, self.value[mine] * after.value[its], len(ways))
        kept = value != 0
        of, to = np.divmod(ways[kept], after.targets)
        return Wires(self.sources, after.targets, of, to, value[kept])

    @property
    def selects(self) -> bool:
        """Whether every result is one of the values as it is, or nothing, and no value goes to two places."""
        once = all(not len(places) or np.bincount(places).max() == 1 for places in (self.to, self.of))
        return once and bool((self.value == 1).all())


def wires_of(link: Link, slots: int, values: Mapping[Node, Any]) -> Wires | None:
    """Return what a link does to a row, None if it is no fixed map of the values of each row by itself.

    Args:
        slots: rows that the operator takes at once.
        values: of the nodes that follow from parameters alone.
    """
    node, name = link.node, plain_name(link.through or link.node)
    if any(_is_weight(n) for n in tensors_in((node.args, node.kwargs)) if n in values):
        return None
    size, result = _per_row(link.operand, slots), _per_row(node, slots)
    if size is None or result is None:
        return None
    if name in RESHAPES and size == result:
        return Wires.identity(size)
    windows = average_windows(node, slots)
    if windows is not None:
        return _pooled(windows, shape_of(link.operand), slots)
    if name in MOVES | RESHAPES:
        return _moved(link, slots, size, result, values)
    if size == result and name in _SCALES | ADDITIONS:  # of a sum, the other operand is zero
        scale = _run(link, torch.ones(shape_of(link.operand), dtype=torch.float64), values).reshape(-1)
        if not scale.isfinite().all():
            raise UnsupportedModelError(f"a factor between neurons is {float(scale[0])}; give a finite one")
        return Wires.identity(size)._replace(value=scale[:size].numpy())
    return _probed(link, slots, size, result, values)


def _is_weight(node: Node) -> bool:
    value = value_of(node)
    return isinstance(value, Tensor) and value.is_floating_point()


def _per_row(node: Node, slots: int) -> int | None:
    value = value_of(node)
    if not isinstance(value, Tensor) or value.numel() % slots:
        return None
    return value.numel() // slots


def _run(link: Link, x: Tensor, values: Mapping[Node, Any]) -> Tensor:
    """Run a link on a value of its operand; other operands that are data count for nothing."""
    env = _Filled(values)
    env[link.operand] = x
    if link.through is not None:
        env[link.through] = run_node(link.through, env)
    result: Tensor = run_node(link.node, env)
    return result


class _Filled(dict[Node, Any]):
    """Values of nodes; those that are not there are zero."""

    def __missing__(self, node: Node) -> Any:
        value = value_of(node)
        return torch.zeros(value.shape, dtype=torch.float64)


def _moved(link: Link, slots: int, size: int, result: int, values: Mapping[Node, Any]) -> Wires | None:
    places = torch.arange(1, slots * size + 1, dtype=torch.float64).reshape(shape_of(link.operand))
    if _run(link, torch.zeros_like(places), values).any():
        return None  # it fills in values
    found = _run(link, places, values).reshape(slots, result).long().numpy() - 1
    here = found[0] >= 0
    shift = np.arange(slots)[:, None] * size
    if not np.array_equal(np.where(found >= 0, found - shift, -1), np.broadcast_to(found[0], found.shape)):
        return None  # a row takes values of another
    of = found[0][here]
    if len(of) and (of.min() < 0 or of.max() >= size):
        return None
    return Wires(size, result, of, np.flatnonzero(here), np.ones(len(of)))


def _probed(link: Link, slots: int, size: int, result: int, values: Mapping[Node, Any]) -> Wires | None:
    if size * result > _MOST_PROBED or size > 4096:
        return None
    columns = []
    for block in torch.eye(size, dtype=torch.float64).split(slots):
        count = len(block)
        padded = torch.cat((block, block.new_zeros((slots - count, size))))
        columns.append(
            _run(link, padded.reshape(shape_of(link.operand)), values).reshape(slots, result)[:count]
        )
    matrix = torch.cat(columns).numpy()
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((slots, size))
    found = _run(link, torch.from_numpy(rows).reshape(shape_of(link.operand)), values).reshape(slots, result)
    if not np.allclose(found.numpy(), rows @ matrix, rtol=0, atol=1e-9 * (1 + np.abs(found.numpy()).max())):
        return None
    of, to = np.nonzero(matrix)
    return Wires(size, result, of, to, matrix[of, to])


# -- windows -------------------------------------------------------------------------------------------


def max_windows(node: Node, slots: int) -> Windows | None:
    """Return the windows of a max pooling in one or two dimensions of rows (C, L) or (C, H, W), None for any other."""
    shape = shape_of(node.args[0])
    name = plain_name(node)
    if len(shape) != {"1": 3, "2": 4}.get(name[-2]) or shape[0] != slots:
        return None
    height, width = (1, *shape[2:])[-2:]
    if name.startswith("adaptive"):
        return None
    args = [*node.args[1:], *[None] * 5]
    dims = len(shape) - 2
    kernel = pair(args[0], dims, 1)
    return pooling(
        height,
        width,
        kernel,
        pair(args[1], dims, 1) if args[1] else kernel,
        pair(args[2] or 0, dims, 0),
        pair(args[3] or 1, dims, 1),
        bool(args[4]),
    )


def average_windows(node: Node, slots: int) -> tuple[Windows, NDArray[np.float64]] | None:
    """Return the windows of an average pooling and what each divides by, None for anything else."""
    name = plain_name(node)
    if name not in ("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"):
        return None
    shape = shape_of(node.args[0])
    if len(shape) != {"1": 3, "2": 4}[name[-2]] or shape[0] != slots:
        return None
    height, width = (1, *shape[2:])[-2:]
    if name.startswith("adaptive"):
        out = (1, *shape_of(node)[2:])[-2:]
        windows = adaptive(height, width, *out)
        return windows, np.diff(windows.offsets).astype(np.float64)
    args = [*node.args[1:], *[None] * 6][:6]
    named = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    kernel, stride, padding, ceil, include, divisor = (
        node.kwargs.get(key, value) for key, value in zip(named, args, strict=True)
    )
    dims = len(shape) - 2
    sides = pair(kernel, dims, 1)
    steps = pair(stride, dims, 1) if stride else sides
    windows = pooling(height, width, sides, steps, pair(padding or 0, dims, 0), (1, 1), bool(ceil))
    area = windows.area if include is not False else np.diff(windows.offsets)
    return windows, np.full(len(area), float(divisor)) if divisor else area.astype(np.float64)


def pair(value: Any, dims: int, first: int) -> tuple[int, int]:
    """Return a setting of a pooling or convolution for height and width; `first` is the height's in one dimension."""
    sides = [value] if isinstance(value, int) else list(value)
    sides = sides * dims if len(sides) == 1 else sides
    return (first, sides[0]) if dims == 1 else (sides[0], sides[1])


def _pooled(pooled: tuple[Windows, NDArray[np.float64]], shape: tuple[int, ...], slots: int) -> Wires:
    windows, area = pooled
    channels, positions = shape[1], math.prod(shape[2:])
    count = len(area)
    window = np.repeat(np.arange(count), np.diff(windows.offsets))
    c = np.arange(channels)[:, None]
    of = (c * positions + windows.positions).reshape(-1)
    to = (c * count + window).reshape(-1)
    value = np.tile(1 / area[window], channels)
    return Wires(channels * positions, channels * count, of, to, value)


# -- as synapses ---------------------------------------------------------------------------------------


def synapses_of(wires: Wires, source: Grid, target: Grid, name: str) -> Synapses:
    """Return fixed synapses between units of two grids.

    Raises:
        UnsupportedModelError: if the values are not those of the units, as of a network without an axis of samples.
    """
    if (wires.sources, wires.targets) != (size_of(source), size_of(target)):
        raise UnsupportedModelError(
            f"{name or 'a connection'} takes {wires.sources} values to {wires.targets}, but one sample has "
            f"{size_of(source)} and {size_of(target)}; give samples an axis of their own: x of (T, B, ...)"
        )
    of, to = _units(source)[wires.of], _units(target)[wires.to]
    same = source == target and len(of) == size_of(source)
    if same and bool((wires.value == 1).all()) and np.array_equal(of, to):
        return OneToOne(source)
    channels = source[0] if source[0] == target[0] else 1
    if channels > 1 and not _same_in_every_channel(of, to, wires.value, channels):
        channels = 1
    if channels > 1:
        kept = of % channels == 0
        of, to, value = of[kept] // channels, to[kept] // channels, wires.value[kept]
    else:
        value = wires.value
    return wiring(name, source, target, channels, of, to, value)


def _units(grid: Grid) -> NDArray[np.int64]:
    """Return the unit of every value in torch's order."""
    flat_of_unit = to_units(torch.arange(size_of(grid)), grid).numpy()
    units = np.empty_like(flat_of_unit)
    units[flat_of_unit] = np.arange(len(units))
    return units


def _same_in_every_channel(
    of: NDArray[np.int64], to: NDArray[np.int64], value: NDArray[np.float64], channels: int
) -> bool:
    if len(of) % channels or not np.array_equal(of % channels, to % channels):
        return False
    order = np.lexsort((to, of, of % channels))
    table = np.stack((of // channels, to // channels, value))[:, order].reshape(3, channels, -1)
    counts = np.bincount(of % channels, minlength=channels)
    return bool((counts == counts[0]).all()) and bool((table == table[:, :1]).all())
