"""Tensor operations of known size: on a GPU the host waits for the device in `to_host` and nowhere else."""

from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

MOST_STEPS = 1 << 32  # more than a timestep can have


def to_host(*parts: Tensor) -> list[list[int]]:
    """Return integers or truth values of any shape as flat lists: one synchronization for all of them."""
    values = iter(torch.cat([part.reshape(-1).long() for part in parts]).tolist())
    return [list(islice(values, part.numel())) for part in parts]


def places(mask: Tensor, size: int) -> tuple[Tensor, ...]:
    """Return the indices of the `size` places where a mask is set, in order, one tensor (size,) per dimension."""
    return torch.nonzero_static(mask, size=size).unbind(1)


def count_parts(mask: Tensor, bounds: Tensor) -> Tensor:
    """Return how many of (B, n) are set in each part `bounds[i]:bounds[i + 1]`, (B, parts)."""
    before = functional.pad(mask.cumsum(1), (1, 0))
    return before.index_select(1, bounds).diff(dim=1)


def rank(key: Tensor) -> Tensor:
    """Return how many earlier entries of (E,) are the same, (E,)."""
    ordered, order = key.sort(stable=True)
    place = torch.arange(len(key), device=key.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(order).scatter_(0, order, place)


class Distinct:
    """The different values of a key (E,).

    Attributes:
        index: (E,) which of them, in ascending order, each entry has.
        size: (,) how many there are.
    """

    def __init__(self, key: Tensor) -> None:
        self._ordered, order = key.sort()
        self._new = torch.ones_like(key, dtype=torch.bool)
        self._new[1:] = self._ordered[1:] != self._ordered[:-1]
        self._index = self._new.cumsum(0) - 1
        self.index = torch.empty_like(order).scatter_(0, order, self._index)
        self.size = self._new.sum()

    def values(self, size: int) -> Tensor:
        """Return them (size,), once their number is known."""
        return self._ordered[places(self._new, size)[0]]

    def below(self, bounds: Tensor) -> Tensor:
        """Return how many of them are less than each bound."""
        entries = torch.searchsorted(self._ordered, bounds)
        return functional.pad(self._index + 1, (1, 0))[entries]
