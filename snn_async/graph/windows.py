"""Which positions a pooling window draws from, as torch counts them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Windows:
    """For every window its positions: `positions[offsets[w]:offsets[w + 1]]`, in torch's scanning order.

    Attributes:
        height, width: of the grid of windows.
        offsets: (W + 1,).
        positions: (E,) of the grid that is pooled, y * width + x.
        area: (W,) positions of each window including padding: what AvgPool divides by.
    """

    height: int
    width: int
    offsets: Ints
    positions: Ints
    area: Ints


def _axis(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool
) -> list[tuple[list[int], int]]:
    """Return for each window along one axis its positions and its extent with padding."""
    reach = dilation * (kernel - 1) + 1
    span = size + 2 * padding - reach
    count = (-(-span // stride) if ceil else span // stride) + 1
    if (
        ceil and (count - 1) * stride >= size + padding
    ):  # a window must begin inside the input or its left padding
        count -= 1
    windows = []
    for w in range(count):
        begin = w * stride - padding
        positions = [p for p in range(begin, begin + reach, dilation) if 0 <= p < size]
        windows.append((positions, min(begin + reach, size + padding) - begin))
    return windows


def _product(rows: list[tuple[list[int], int]], columns: list[tuple[list[int], int]], width: int) -> Windows:
    offsets, positions, area = [0], [], []
    for ys, tall in rows:
        for xs, wide in columns:
            positions += [y * width + x for y in ys for x in xs]
            offsets.append(len(positions))
            area.append(tall * wide)
    as_ints = [np.array(values, dtype=np.int64) for values in (offsets, positions, area)]
    return Windows(len(rows), len(columns), *as_ints)


def pooling(
    height: int,
    width: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    ceil: bool = False,
) -> Windows:
    """Return the windows of MaxPool and AvgPool; one dimension is a grid of height 1."""
    rows = _axis(height, kernel[0], stride[0], padding[0], dilation[0], ceil)
    columns = _axis(width, kernel[1], stride[1], padding[1], dilation[1], ceil)
    return _product(rows, columns, width)


def adaptive(height: int, width: int, out_height: int, out_width: int) -> Windows:
    """Return the windows of AdaptiveAvgPool and AdaptiveMaxPool."""

    def axis(size: int, out: int) -> list[tuple[list[int], int]]:
        spans = [(w * size // out, -(-(w + 1) * size // out)) for w in range(out)]
        return [(list(range(begin, end)), end - begin) for begin, end in spans]

    return _product(axis(height, out_height), axis(width, out_width), width)
