"""Grids: how the units of a node are numbered.

A node (the input, a population, a junction) has units on a grid (channels, height, width); fully connected ones lie
on (size, 1, 1), sequences on (channels, 1, length). Units are numbered with the channel fastest:

    unit = (y * width + x) * channels + channel

so that a convolution's event reaches runs of neighbouring units. Tensors of the source model, (..., C, H, W), are
reordered where they enter and leave.
"""

import math
from collections.abc import Sequence

from torch import Tensor

Grid = tuple[int, int, int]


def grid_of(shape: Sequence[int]) -> Grid | None:
    """Return the grid for features of `shape` (n,), (C, L) or (C, H, W); None for any other."""
    if len(shape) == 1:
        return (int(shape[0]), 1, 1)
    if len(shape) == 2:
        return (int(shape[0]), 1, int(shape[1]))
    return (int(shape[0]), int(shape[1]), int(shape[2])) if len(shape) == 3 else None


def size_of(grid: Grid) -> int:
    """Return the number of units."""
    return math.prod(grid)


def to_units(x: Tensor, grid: Grid) -> Tensor:
    """Reorder (..., C * H * W) features, as the source model flattens them, to unit order."""
    channels, height, width = grid
    if channels == 1 or height * width == 1:
        return x
    return x.unflatten(-1, (channels, height * width)).transpose(-1, -2).flatten(-2)


def from_units(x: Tensor, grid: Grid) -> Tensor:
    """Reorder (..., units) to features as the source model flattens them, the inverse of `to_units`."""
    channels, height, width = grid
    if channels == 1 or height * width == 1:
        return x
    return x.unflatten(-1, (height * width, channels)).transpose(-1, -2).flatten(-2)
