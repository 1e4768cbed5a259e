"""Modules whose synapses are not known one by one."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.graph.grids import Grid, from_units, to_units
from snn_async.graph.synapses.base import Synapses, Table


@dataclass(frozen=True)
class Opaque(Synapses):
    """Any other affine module (a ConvTranspose2d, a layer of one's own): the torch engine calls it.

    An event's current is `module(event) - module(0)`; `module(0)` is the bias. `shape` is what the module takes of a
    sample, `result` what it gives. An event reaches every target. No packed weights.
    """

    module: nn.Module
    source: Grid
    target: Grid
    shape: tuple[int, ...]
    result: tuple[int, ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.module,)

    def call(self, x: Tensor) -> Tensor:
        """Return module(x) for x (N, fan_in), as (N, fan_out) in unit order."""
        frame = from_units(x, self.source).reshape(-1, *self.shape)
        return to_units(self.module(frame).flatten(1), self.target)

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
