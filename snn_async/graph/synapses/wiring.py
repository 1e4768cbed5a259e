"""Fixed synapses: pooling, upsampling, renumbering."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async.graph.grids import Grid, size_of
from snn_async.graph.live import Found
from snn_async.graph.synapses.base import Synapses, Table


@dataclass(frozen=True, eq=False)
class Wiring(Synapses):
    """Fixed synapses between positions, the same for every channel: average pooling, upsampling, voting.

    A source position p (units p * channels + c) reaches the positions `positions[offsets[p]:offsets[p + 1]]` with
    `values`. No packed weights.

    Attributes:
        channels: units per position, in source and target.
    """

    name: str
    source: Grid
    target: Grid
    channels: int
    offsets: NDArray[np.int64]
    positions: NDArray[np.int64]
    values: NDArray[np.float64]
    weighted = False

    def _entries(self) -> NDArray[np.int64]:
        """Return the source position of every entry."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def apply(self, x: Tensor, found: Found = ()) -> Tensor:
        frame = x.unflatten(-1, (-1, self.channels))
        entries, positions = (
            torch.from_numpy(index).to(x.device) for index in (self._entries(), self.positions)
        )
        parts = frame[:, entries] * torch.from_numpy(self.values).to(x)[:, None]
        total = x.new_zeros((len(x), self.fan_out // self.channels, self.channels))
        return total.index_add(1, positions, parts).flatten(1)

    def table(self) -> Table:
        return Table(None, self.apply(torch.eye(self.fan_in, dtype=torch.float64)).numpy())

    def describe(self) -> str:
        return f"{self.name} {self.fan_in} to {self.fan_out}"


def wiring(
    name: str,
    source: Grid,
    target: Grid,
    channels: int,
    of: NDArray[np.int64],
    to: NDArray[np.int64],
    values: NDArray[np.float64],
) -> Wiring:
    """Return the wiring of source positions `of` to target positions `to`, (E,) each, with `values`."""
    order = np.lexsort((to, of))
    counts = np.bincount(of, minlength=size_of(source) // channels)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    positions = to[order].astype(np.int64)
    return Wiring(name, source, target, channels, offsets, positions, values[order].astype(np.float64))
