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


def numbers(mask: Tensor, like: Tensor) -> Tensor:
    """Return 1 where a mask is set, else 0, of the type of `like`; faster than torch's conversion of truth values."""
    return mask.view(torch.uint8).to(like.dtype)


def any_of(mask: Tensor, dim: int) -> Tensor:
    """Return `mask.any(dim)`, faster; False for a side of no entries."""
    if not mask.shape[dim]:
        return mask.any(dim)
    return mask.view(torch.uint8).amax(dim).view(torch.bool)


def places(mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return row and column, each (size,), of the `size` places where a mask (rows, columns) is set, in order."""
    flat = mask.reshape(-1)
    place = flat.cumsum(0) - 1
    place = size + (place - size) * flat.long()  # the others go where nobody looks
    found = torch.empty(size + 1, dtype=torch.int64, device=mask.device)
    found.scatter_(0, place, torch.arange(len(flat), device=mask.device))
    rows = found[:size] // mask.shape[1]
    return rows, found[:size] - rows * mask.shape[1]


def count_parts(mask: Tensor, bounds: Tensor) -> Tensor:
    """Return how many of (B, n) are set in each part `bounds[i]:bounds[i + 1]`, (B, parts)."""
    before = functional.pad(mask.cumsum(1, dtype=torch.int32), (1, 0))
    return before.index_select(1, bounds).diff(dim=1).long()


def rank(key: Tensor) -> Tensor:
    """Return how many earlier entries of (E,) are the same, (E,)."""
    ordered, order = key.sort(stable=True)
    place = torch.arange(len(key), device=key.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(order).scatter_(0, order, place)
