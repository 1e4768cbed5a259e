"""Synapses from each unit to the unit of the same number."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from snn_async.graph.grids import Grid, to_units
from snn_async.graph.live import Found, Live
from snn_async.graph.synapses.base import Normalization, Packing, Synapses, Table, check_shape


@dataclass(frozen=True)
class OneToOne(Synapses):
    """Each unit to the unit of the same number: identity, a BatchNorm or a gain, not both.

    Packed weights: none for the identity, one per channel of a BatchNorm, `count` of a gain; that of unit n is
    n % weight_count.

    Attributes:
        gain: `count` values: one, one per channel, or one per unit in torch's flat order.
    """

    source: Grid
    norm: Normalization | None = None
    gain: Live | None = None
    count: int = 0

    def __post_init__(self) -> None:
        assert self.norm is None or self.gain is None
        assert (self.gain is None and not self.count) or self.count in (1, self.source[0], self.fan_in)

    @property
    def target(self) -> Grid:  # type: ignore[override]
        return self.source

    @property
    def weighted(self) -> bool:  # type: ignore[override]
        return self.gain is not None

    @property
    def weight_count(self) -> int:
        return self.count if self.norm is None else self.source[0]

    def _weight(self, found: Found) -> Tensor | None:
        """Return the live weights (weight_count,), None for the identity."""
        if self.gain is None:
            return None if self.norm is None else self.norm.scale(found)
        gain = self.gain(found).reshape(-1)
        check_shape(gain, (self.count,), self)
        return to_units(gain, self.source) if self.count == self.fan_in else gain

    def pack(self, found: Found) -> Packing | None:
        weight = self._weight(found)
        return None if weight is None else Packing(weight, (self.weight_count,), (0,))

    @property
    def biased(self) -> bool:  # type: ignore[override]
        return self.norm is not None

    def constant(self, found: Found, like: Tensor) -> Tensor | None:
        return None if self.norm is None else self.norm.shift(found).repeat(self.fan_in // self.source[0])

    def apply(self, x: Tensor, found: Found) -> Tensor:
        weight = self._weight(found)
        return x if weight is None else x * weight.to(x).repeat(self.fan_in // self.weight_count)

    def table(self) -> Table:
        coefficient = np.eye(self.fan_in)
        if self.weight_count == 0:
            return Table(None, coefficient)
        return Table(np.tile(np.arange(self.fan_in) % self.weight_count, (self.fan_in, 1)), coefficient)

    def describe(self) -> str:
        if self.norm is not None:
            return f"BatchNorm {self.fan_in}"
        return f"one to one {self.fan_in}" if self.weighted else f"identity {self.fan_in}"
