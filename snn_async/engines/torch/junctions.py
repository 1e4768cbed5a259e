"""What junctions hold and pass on, the whole batch at once (docs/design.md, section 7)."""

import torch
from torch import Tensor

from snn_async.engines.reference.junctions import members
from snn_async.graph import Graph, Junction
from snn_async.graph.layout import Layout


class Windows:
    """The cells of the units of a "max", padded to the largest window with the number one past the last cell.

    Attributes:
        cells: (U, W) int64, in scanning order.
        first: (U,) each window's first cell.
    """

    def __init__(self, junction: Junction, device: torch.device) -> None:
        assert junction.windows is not None
        listed = [torch.from_numpy(cells) for cells in members(junction.windows, junction.cells[0])]
        padded = torch.nn.utils.rnn.pad_sequence(listed, batch_first=True, padding_value=junction.cell_count)
        self.cells = padded.to(device)
        self.first = self.cells[:, 0]

    def gather(self, values: Tensor, fill: float | bool) -> Tensor:
        """Return the values (B, U, W) of every window's cells, given those of all cells (B, C)."""
        beyond = values.new_full((len(values), 1), fill)
        return torch.cat((values, beyond), 1)[:, self.cells]


class Junctions:
    """The cells (B, C) of all junctions; `waiting` and `instant` are node numbers in topological order."""

    def __init__(self, graph: Graph, layout: Layout, samples: int, like: Tensor) -> None:
        first = layout.populations
        numbered = list(enumerate(graph.junctions, first))
        self.kinds = {node: junction.kind for node, junction in numbered}
        self.waiting = [node for node, junction in numbered if junction.waits]
        self.instant = [node for node, junction in numbered if not junction.waits]
        start = [int(r) - layout.neurons for r in layout.first_receiver[first:]]
        self.slices = {
            node: slice(begin, begin + junction.cell_count)
            for begin, (node, junction) in zip(start, numbered, strict=True)
        }
        self.windows = {n: Windows(j, like.device) for n, j in numbered if j.kind == "max"}
        self.cells = like.new_zeros((samples, layout.cells))
        self.begin()

    def begin(self) -> None:
        """Empty all cells, at the start of a timestep."""
        self.cells.zero_()
        samples = len(self.cells)
        self.holders = {n: w.first.expand(samples, -1).clone() for n, w in self.windows.items()}
        self.maxima = {n: self.cells.new_zeros((samples, len(w.first))) for n, w in self.windows.items()}

    def pass_on(self, node: int, reached: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Let a sum or max pass on what reached it in this forward step.

        Args:
            reached: (B, cells of the node) bool.

        Returns:
            Which units pass something on (B, U), what (B, U), and the cells that hold the maxima (B, U) of a "max".
        """
        here = self.slices[node]
        cells = self.cells[:, here]
        if self.kinds[node] == "sum":
            amounts = cells.clone()
            cells.zero_()
            return reached, amounts, None
        windows, before, maxima = self.windows[node], self.holders[node], self.maxima[node]
        in_windows = windows.gather(cells, -torch.inf)
        largest, place = in_windows.amax(2), in_windows.argmax(2)  # the first of equal ones
        touched = windows.gather(reached, False).any(2)
        taken_over = touched & (cells.gather(1, before) < largest)
        now = windows.cells.expand(len(cells), -1, -1).gather(2, place[..., None])[..., 0]
        self.holders[node] = holders = torch.where(taken_over, now, before)
        passed = taken_over | (touched & reached.gather(1, before))
        self.maxima[node] = torch.where(passed, largest, maxima)
        return passed, largest - maxima, holders

    def values(self, node: int) -> Tensor:
        """Return the values (B, U) of an "and" or "iand"."""
        a, b = self.cells[:, self.slices[node]].chunk(2, 1)
        return a * b if self.kinds[node] == "and" else a * (1 - b)
