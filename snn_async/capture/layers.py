"""Layers between neurons: what shape they give a sample, and what synapses they are."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from snn_async.errors import InputError, SnnAsyncError, UnsupportedModelError
from snn_async.graph import Dropout
from snn_async.graph.grids import Grid, grid_of
from snn_async.graph.synapses import Convolution, Dense, Normalization, OneToOne, Synapses, wiring

Shape = tuple[int, ...]


class Form(NamedTuple):
    """How a value's features lie: numbered on `grid`, of `shape` per sample in the source model.

    Flattened features keep the numbering of the grid they had.
    """

    grid: Grid
    shape: Shape


def form_of(shape: Shape) -> Form | None:
    """Return the form of features that were not flattened, None for those no grid can hold."""
    grid = grid_of(shape)
    return None if grid is None else Form(grid, shape)


BAD_SETTING = "torch cannot run it with its settings"
BAD_SETTINGS = (ArithmeticError, IndexError, TypeError, ValueError)


@dataclass(frozen=True)
class Reference:
    """How torch itself computes a layer.

    Attributes:
        call: takes a batch of frames.
        settings: for messages.
        like: of the dtype and device that it takes.
    """

    call: Callable[[Tensor], Tensor]
    settings: str
    like: Tensor | None = None

    def shape(self, place: str, shape: Shape) -> Shape | None:
        """Return what it makes of samples of `shape`, None if that cannot be tried in this dtype here.

        Raises:
            UnsupportedModelError: if torch refuses, with its message.
        """
        frame = torch.zeros(()) if self.like is None else self.like.detach()
        try:
            with torch.no_grad():
                return tuple(self.call(frame.new_zeros((1, *shape))).shape[1:])
        except Exception as error:
            if frame.dtype not in (
                torch.float32,
                torch.float64,
            ):  # not every operator is there for every other one
                return None
            message = (str(error).splitlines() or [""])[0]
            raise UnsupportedModelError(
                f"{place}: {BAD_SETTING} ({self.settings}) on samples of shape {shape}: {type(error).__name__}: "
                f"{message}; correct them"
            ) from error


@dataclass(frozen=True)
class Operation(ABC):
    """A layer or function without neurons.

    Attributes:
        name: path of its module, or of the module whose forward calls the function, with the function's name.
        place: how messages name it.
        any_numbering: whether it takes flattened features numbered on the grid they had before.
        reference: torch's own form of it, where there is one.
    """

    name: str = field(compare=False)
    place: str = field(compare=False)
    any_numbering: ClassVar[bool] = False
    reference: "Reference | None" = field(default=None, compare=False, kw_only=True)

    @abstractmethod
    def shape(self, form: Form) -> Shape:
        """Return the shape it makes of a sample.

        Raises:
            InputError: if the sample does not fit, naming the layer and the sizes.
        """

    @abstractmethod
    def synapses(self, form: Form) -> Synapses:
        """Return its synapses from features of a form that fits."""

    def checked_form(self, form: Form) -> Form:
        """Return the form it makes of another, after torch's own form has shown to take it and to make the same.

        Raises:
            InputError: as for `shape`.
            UnsupportedModelError: for settings that torch refuses, or with which it makes another shape.
        """
        settings = "" if self.reference is None else f" ({self.reference.settings})"
        try:
            shape: Shape | None = self.shape(form)
        except BAD_SETTINGS as error:
            if isinstance(error, SnnAsyncError):
                raise
            if self.reference is None:
                raise UnsupportedModelError(f"{self.place}: {BAD_SETTING} ({error})") from error
            shape = None
        if self.reference is not None:
            theirs = self.reference.shape(self.place, form.shape)
            if theirs is not None and theirs != shape:
                raise UnsupportedModelError(
                    f"{self.place}: its settings{settings} give samples of shape {theirs} in torch, which is not "
                    "supported; correct them"
                )
        if shape is None:
            raise UnsupportedModelError(f"{self.place}: {BAD_SETTING}{settings}; correct them")
        return self.form(form)

    def form(self, form: Form) -> Form:
        """Return the form it makes of another; InputError as for `shape`."""
        result = form_of(self.shape(form))
        assert result is not None
        return result

    def misfit(self, takes: str, form: Form, way_out: str) -> InputError:
        """Return the error for a sample that does not fit."""
        shape = "x".join(map(str, form.shape))
        return InputError(f"{self.place}: it takes {takes}, but gets {shape}; {way_out}")


@dataclass(frozen=True)
class LinearLayer(Operation):
    """A Linear; `columns` and `biased` are those of `Dense`."""

    module: Any
    columns: tuple[int, int] | None = None
    biased: bool = True
    any_numbering = True

    def shape(self, form: Form) -> Shape:
        begin, end = self.columns or (0, self.module.in_features)
        if form.shape != (end - begin,):
            way_out = (
                "give the Linear as many, or the input another shape"
                if len(form.shape) == 1
                else "put nn.Flatten() before it"
            )
            raise self.misfit(f"{end - begin} features", form, way_out)
        return (self.module.out_features,)

    def synapses(self, form: Form) -> Synapses:
        return self.dense((self.module,), form, None)

    def dense(self, modules: tuple[Any, ...], form: Form, norm: Normalization | None) -> Synapses:
        """Return the synapses of several Linears, of which this is the first."""
        return Dense(modules, form.grid, norm, self.columns, self.biased)


@dataclass(frozen=True)
class ConvolutionLayer(Operation):
    """A Conv1d or Conv2d."""

    module: Any

    def shape(self, form: Form) -> Shape:
        channels, sides = self.module.in_channels, len(self.module.kernel_size)
        if len(form.shape) != 1 + sides or form.shape[0] != channels:
            takes = f"{channels} channels of {'width' if sides == 1 else 'height and width'}"
            raise self.misfit(takes, form, "give the input another shape, or the layer other channels")
        if min(self.module.stride) < 1:
            raise ValueError("strides are at least 1")
        shape = Convolution(self.module, form.grid).target
        if min(shape) < 1:
            kernel = "x".join(map(str, self.module.kernel_size))
            raise self.misfit(f"maps at least as large as its kernel {kernel}", form, "give a larger input")
        return shape if sides == 2 else (shape[0], shape[2])

    def synapses(self, form: Form) -> Synapses:
        return Convolution(self.module, form.grid)


@dataclass(frozen=True)
class NormLayer(Operation):
    """A BatchNorm with its running statistics."""

    module: Any

    def shape(self, form: Form) -> Shape:
        images = isinstance(self.module, nn.BatchNorm2d)
        if (len(form.shape) == 3) != images:
            takes, other = ("(C, H, W)", "1d") if images else ("features or (C, L)", "2d")
            raise self.misfit(takes, form, f"use BatchNorm{other}")
        if form.shape[0] != self.module.num_features:
            raise self.misfit(f"{self.module.num_features} channels", form, "give it as many")
        return form.shape

    def synapses(self, form: Form) -> Synapses:
        return OneToOne(form.grid, norm=Normalization(self.module))


@dataclass(frozen=True)
class FlattenLayer(Operation):
    """A sample's features in one dimension, and their number if the model says it.

    `timed`: every frame of an input (T, B, ...) was flattened that has yet to be indexed by time.
    """

    features: int | None = None
    timed: bool = False
    any_numbering = True

    def shape(self, form: Form) -> Shape:
        count = math.prod(form.shape)
        if self.features not in (None, count):
            raise self.misfit(f"{self.features} features", form, f"flatten to {count}")
        return (count,)

    def form(self, form: Form) -> Form:
        return Form(form.grid, self.shape(form))

    def synapses(self, form: Form) -> Synapses:
        return OneToOne(form.grid)


class Unitwise(Operation):
    """What acts on each unit by itself and leaves the sample's shape as it is."""

    any_numbering = True

    def shape(self, form: Form) -> Shape:
        return form.shape

    def form(self, form: Form) -> Form:
        return form


@dataclass(frozen=True)
class DropoutLayer(Unitwise):
    """A dropout."""

    dropout: Dropout

    def synapses(self, form: Form) -> Synapses:
        return OneToOne(form.grid)


@dataclass(frozen=True)
class ScaleLayer(Unitwise):
    """A multiplication by a number."""

    factor: float

    def synapses(self, form: Form) -> Synapses:
        channels, height, width = form.grid
        entries = ((p, p, self.factor) for p in range(height * width))
        return wiring(f"times {self.factor:g}", form.grid, form.grid, channels, entries)


def renumbering(source: Form, target: Grid) -> Synapses:
    """Return the wiring from flattened features to the same ones numbered on another grid."""
    places = [unit_numbers(grid) for grid in (source.grid, target)]
    entries = ((int(s), int(t), 1.0) for s, t in zip(*places, strict=True))
    return wiring("flatten", source.grid, target, 1, entries)


def unit_numbers(grid: Grid) -> list[int]:
    """Return the unit of every feature, in the order in which the source model flattens them."""
    channels, height, width = grid
    return [p * channels + c for c in range(channels) for p in range(height * width)]
