"""What a batch did in a timestep, gathered on its device and put in the order of the event log at the end."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from snn_async.engines.contract import PendingEvents
from snn_async.engines.torch.device import entries, places, to_host
from snn_async.engines.torch.structure import Structure

Rows = list[tuple[Tensor, ...]]
EMISSION = ("number", "source", "amplitude", "step", "potential", "current", "cell")  # as in `EventLog`


@dataclass(frozen=True)
class Block:
    """Emissions, deliveries or both, at `mask` (B, n). The columns broadcast to (B, n)."""

    mask: Tensor
    emission: tuple[Tensor, ...] | None = None  # `EMISSION`
    delivery: tuple[Tensor, ...] | None = None  # number, group of projections (`Structure.edges`), step


@dataclass
class Recorder:
    """Collects blocks, and makes lists of them when it is known how long these are.

    Attributes:
        emissions, deliveries: sample, then a block's columns; the first emissions are what was pending before.
    """

    structure: Structure
    keep_log: bool
    emissions: Rows
    deliveries: Rows = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def add(self, block: Block) -> None:
        """Record a block; per sample, blocks come in order of time."""
        if self.keep_log:
            self.blocks.append(block)

    def sizes(self) -> Tensor:
        """Return how many events each new block has, (blocks,)."""
        empty = torch.zeros(0, dtype=torch.int64, device=self.structure.device)
        return torch.stack([block.mask.sum() for block in self.blocks]) if self.blocks else empty

    def settle(self, sizes: list[int]) -> None:
        """Make lists of the new blocks, given their `sizes`."""
        for block, size in zip(self.blocks, sizes, strict=True):
            if not size:
                continue
            sample, place = places(block.mask, size)
            for rows, columns in ((self.emissions, block.emission), (self.deliveries, block.delivery)):
                if columns is not None:
                    found = (entries(column, block.mask.shape, sample, place) for column in columns)
                    rows.append((sample, *found))
        self.blocks.clear()

    def columns(self, emitted: Tensor, left: PendingEvents, left_number: Tensor) -> dict[str, Tensor]:
        """Return the members of the log that are about events.

        Args:
            emitted: (B,) rows of each sample.
            left_number: (L,) of the events `left`.
        """
        (sizes,) = to_host(self.sizes())
        self.settle(sizes)
        offsets = torch.nn.functional.pad(emitted.cumsum(0), (1, 0))
        sample, number, *columns = (torch.cat(column) for column in zip(*self.emissions, strict=True))
        row = offsets.index_select(0, sample) + number
        ordered = [torch.empty_like(column).index_copy_(0, row, column) for column in columns]
        emissions = dict(zip(EMISSION[1:], ordered, strict=True))
        return (
            emissions
            | self._deliveries(offsets)
            | {"offsets": offsets, "left": offsets[left.sample] + left_number}
        )

    def _deliveries(self, offsets: Tensor) -> dict[str, Tensor]:
        """The deliveries, by sample, then in order of time."""
        nothing = (offsets[:0],) * 4
        rows = zip(nothing, *self.deliveries, strict=True)
        sample, number, group, step = (torch.cat(column) for column in rows)
        order = sample.argsort(stable=True)
        event = offsets.index_select(0, sample) + number
        event, group, step = (column.index_select(0, order) for column in (event, group, step))
        degree = self.structure.degree.index_select(0, group)
        ((total,),) = to_host(degree.sum())
        each = torch.arange(len(group), device=group.device).repeat_interleave(degree, output_size=total)
        first = self.structure.first_edge.index_select(0, group) - (degree.cumsum(0) - degree)
        edge = first.index_select(0, each) + torch.arange(total, device=group.device)
        projection = self.structure.edges.index_select(0, edge)
        event, step = event.index_select(0, each), step.index_select(0, each)
        return {"event": event, "projection": projection, "step_of_delivery": step}
