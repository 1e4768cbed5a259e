"""Synapses that are not known one by one: any affine function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from snn_async.graph.grids import Grid, from_units, to_units
from snn_async.graph.live import Found, Live
from snn_async.graph.synapses.base import Synapses, Table

# Rows (R, n) and live tensors to rows (R, m), any R, each row by itself, differentiable in both.
Rows = Callable[[Tensor, Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Affine(Synapses):
    """Any affine function of rows (a transposed convolution, a layer of one's own).

    An event's current is `function(event) - function(0)`; `function(0)` is the bias. The function takes and gives
    features in torch's flat order. An event reaches every target. No packed weights.
    """

    function: Rows
    live: tuple[Live, ...] = field()  # no default, unlike the other kinds
    source: Grid
    target: Grid
    name: str

    biased = True

    def call(self, x: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Return function(x) for x (R, fan_in) and the values of `live`, as (R, fan_out), both in unit order."""
        return to_units(self.function(from_units(x, self.source), values), self.target)

    def current(self, x: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Return what events bring: `call` without the bias."""
        return self.call(x, values) - self.call(torch.zeros_like(x[:1]), values)

    def constant(self, found: Found, like: Tensor) -> Tensor:
        return self.call(like.new_zeros((1, self.fan_in)), values_of(self.live, found, like))[0]

    def apply(self, x: Tensor, found: Found) -> Tensor:
        return self.current(x, values_of(self.live, found, x))

    def table(self) -> Table:
        """Return that everybody is reached; how strongly, `current` tells."""
        return Table(None, np.ones((self.fan_in, self.fan_out)))

    def describe(self) -> str:
        return f"{self.name} {self.fan_in} to {self.fan_out}"


def values_of(live: Sequence[Live], found: Found, like: Tensor) -> tuple[Tensor, ...]:
    """Return live tensors, floating ones with the dtype and device of `like`."""
    values = [one(found) for one in live]
    return tuple(value.to(like) if value.is_floating_point() else value for value in values)
