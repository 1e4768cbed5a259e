"""Layers without weights: pooling, upsampling, voting."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from snn_async.capture.layers import Form, Operation, Shape, unit_numbers
from snn_async.errors import UnsupportedModelError
from snn_async.graph.grids import Grid
from snn_async.graph.synapses import Synapses, wiring
from snn_async.graph.windows import Windows, adaptive, nearest, pooling

Pair = tuple[int, int]


@dataclass(frozen=True)
class WindowLayer(Operation):
    """A layer whose positions each draw from a window of positions, `sides` of 1 or 2 dimensions."""

    sides: int
    label: ClassVar[str] = "average pooling"

    @abstractmethod
    def windows(self, form: Form) -> Windows:
        """Return the windows; InputError if the sample does not fit."""

    def shape(self, form: Form) -> Shape:
        if len(form.shape) != 1 + self.sides:
            takes = "channels x width" if self.sides == 1 else "channels x height x width"
            raise self.misfit(takes, form, "pool before flattening")
        windows = self.windows(form)
        if min(windows.height, windows.width) < 1:
            raise self.misfit("maps at least as large as its window", form, "give a larger input")
        return (form.shape[0], *(windows.height, windows.width)[2 - self.sides :])

    def target(self, form: Form) -> Grid:
        """Return the grid of its positions."""
        windows = self.windows(form)
        return (form.grid[0], windows.height, windows.width)

    def _wiring(self, form: Form, windows: Windows, values: list[float]) -> Synapses:
        entries = [
            (int(p), w, value)
            for w, value in enumerate(values)
            for p in windows.positions[windows.offsets[w] : windows.offsets[w + 1]]
        ]
        return wiring(self.label, form.grid, self.target(form), form.grid[0], entries)


@dataclass(frozen=True)
class PoolLayer(WindowLayer):
    """MaxPool and AvgPool; kernel, stride, padding and dilation of height and width."""

    kind: Literal["max", "average"]
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil: bool = False
    include_padding: bool = True
    divisor: int | None = None

    def windows(self, form: Form) -> Windows:
        if min(self.stride) < 1:
            raise ValueError("strides are at least 1")
        _, height, width = form.grid
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        if height + 2 * self.padding[0] < spans[0] or width + 2 * self.padding[1] < spans[1]:
            kernel = "x".join(map(str, self.kernel[2 - self.sides :]))
            raise self.misfit(f"maps at least as large as its window {kernel}", form, "give a larger input")
        return pooling(height, width, self.kernel, self.stride, self.padding, self.dilation, self.ceil)

    def synapses(self, form: Form) -> Synapses:
        windows = self.windows(form)
        counts = (
            windows.area if self.include_padding else windows.offsets[1:] - windows.offsets[:-1]
        ).tolist()
        return self._wiring(form, windows, [1 / (self.divisor or count) for count in counts])


@dataclass(frozen=True)
class AdaptivePoolLayer(WindowLayer):
    """AdaptiveMaxPool and AdaptiveAvgPool; None in `output` keeps a side."""

    kind: Literal["max", "average"]
    output: tuple[int | None, int | None]

    def windows(self, form: Form) -> Windows:
        _, height, width = form.grid
        if 0 in self.output:
            raise UnsupportedModelError(f"{self.place}: an output size of 0 leaves nothing; give at least 1")
        return adaptive(
            height,
            width,
            *(
                side if wanted is None else wanted
                for wanted, side in zip(self.output, (height, width), strict=True)
            ),
        )

    def synapses(self, form: Form) -> Synapses:
        windows = self.windows(form)
        counts = (windows.offsets[1:] - windows.offsets[:-1]).tolist()
        return self._wiring(form, windows, [1 / count for count in counts])


@dataclass(frozen=True)
class UpsampleLayer(WindowLayer):
    """Nearest upsampling to a size, or by a whole factor."""

    size: Pair | None
    factor: Pair | None
    label = "nearest upsampling"

    def windows(self, form: Form) -> Windows:
        _, height, width = form.grid
        if self.size is not None:
            if self.size[0] % height or self.size[1] % width:
                takes = f"maps of which {self.size[0]}x{self.size[1]} is a multiple"
                raise self.misfit(takes, form, "use a whole scale_factor")
            return nearest(height, width, *self.size)
        assert self.factor is not None
        return nearest(height, width, height * self.factor[0], width * self.factor[1])

    def synapses(self, form: Form) -> Synapses:
        windows = self.windows(form)
        return self._wiring(form, windows, [1.0] * (windows.height * windows.width))


@dataclass(frozen=True)
class VotingLayer(Operation):
    """The mean of each group of `votes` features."""

    votes: int
    any_numbering = True

    def shape(self, form: Form) -> Shape:
        if self.votes < 1:
            raise UnsupportedModelError(f"{self.place}: voting_size={self.votes}; give at least 1")
        if len(form.shape) != 1 or form.shape[0] < self.votes:
            raise self.misfit(f"at least {self.votes} features", form, "flatten before it")
        return (form.shape[0] // self.votes,)

    def synapses(self, form: Form) -> Synapses:
        units, groups = unit_numbers(form.grid), form.shape[0] // self.votes
        entries = [
            (unit, i // self.votes, 1 / self.votes) for i, unit in enumerate(units[: groups * self.votes])
        ]
        return wiring("voting", form.grid, (groups, 1, 1), 1, entries)


def pair(value: Any, sides: int, first: int = 1) -> Pair:
    """Return a pooling setting for height and width; `first` is the height's in one dimension."""
    values = (value,) * sides if isinstance(value, int) else tuple(value)
    if len(values) == 1:
        values = values * sides
    return (first, int(values[0])) if sides == 1 else (int(values[0]), int(values[1]))
