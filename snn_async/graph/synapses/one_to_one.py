"""Synapses from each unit to the unit of the same number."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from snn_async.graph.grids import Grid, to_units
from snn_async.graph.synapses.base import Normalization, Packing, Synapses, Table, check_shape, module_of


@dataclass(frozen=True)
class OneToOne(Synapses):
    """Each unit to the unit of the same number: identity, or the weights of a BatchNorm or of an `owner`, not both.

    Packed weights: none for the identity, one per channel of a BatchNorm, one of an owner or one per unit
    (`per_unit`); that of unit n is n % weight_count.
    """

    source: Grid
    norm: Normalization | None = None
    owner: nn.Module | None = None  # whose `parameter` the weights are
    parameter: str = ""
    per_unit: bool = False  # whether the owner has one for each unit

    def __post_init__(self) -> None:
        assert self.norm is None or self.owner is None

    @property
    def target(self) -> Grid:  # type: ignore[override]
        return self.source

    @property
    def weighted(self) -> bool:  # type: ignore[override]
        return self.owner is not None

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return module_of(self.norm) if self.owner is None else (self.owner,)

    @property
    def weight_count(self) -> int:
        if self.owner is None:
            return 0 if self.norm is None else self.source[0]
        return self.fan_in if self.per_unit else 1

    def _weight(self) -> Tensor | None:
        """Return the live weights (weight_count,), None for the identity."""
        if self.owner is None:
            return None if self.norm is None else self.norm.scale()
        weight = getattr(self.owner, self.parameter).reshape(-1)
        check_shape(weight, (self.weight_count,), self)
        return to_units(weight, self.source) if self.per_unit else weight

    def pack(self) -> Packing | None:
        weight = self._weight()
        return None if weight is None else Packing(weight, (self.weight_count,), (0,))

    def bias(self) -> Tensor | None:
        return None if self.norm is None else self.norm.shift().repeat(self.fan_in // self.source[0])

    def apply(self, x: Tensor) -> Tensor:
        weight = self._weight()
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
