"""What junctions hold and pass on, the whole batch at once (docs/design.md, section 7)."""

import torch
from torch import Tensor

from snn_async.engines.contract import Values
from snn_async.engines.reference.junctions import members
from snn_async.graph import Graph, Junction
from snn_async.graph.layout import Layout
from snn_async.graph.parameters import dealt


class Windows:
    """The cells of the units of a "max", padded to the largest window with the number one past the last cell.

    Attributes:
        cells: (U, W) int64, in scanning order.
        first: (U,) each window's first cell.
    """

    def __init__(self, junction: Junction, device: torch.device) -> None:
        assert junction.windows is not None
        listed = [torch.as_tensor(cells) for cells in members(junction.windows, junction.cells[0])]
        padded = torch.nn.utils.rnn.pad_sequence(listed, batch_first=True, padding_value=junction.cell_count)
        self.cells = padded.to(device)
        self.first = self.cells[:, 0]

    def gather(self, values: Tensor, fill: float | bool) -> Tensor:
        """Return the values (B, U, W) of every window's cells, given those of all cells (B, C)."""
        beyond = values.new_full((len(values), 1), fill)
        return torch.cat((values, beyond), 1)[:, self.cells]


class Junctions:
    """The cells (B, C) of all junctions in one timestep; `waiting` and `instant` are nodes in topological order.

    Args:
        windows: of every "max", by node.
    """

    def __init__(self, graph: Graph, layout: Layout, windows: dict[int, Windows], values: Values) -> None:
        numbered, like, samples = (
            list(enumerate(graph.junctions, layout.populations)),
            values.x,
            len(values.x),
        )
        self.junctions = dict(numbered)
        self.live = dict(zip(self.junctions, dealt(graph, values.parameters)[1], strict=True))
        self.kinds = {node: junction.kind for node, junction in numbered}
        self.waiting = [node for node, junction in numbered if junction.waits]
        self.instant = [node for node, junction in numbered if not junction.waits]
        self.slices = {
            node: slice(int(first) - layout.neurons, int(first) - layout.neurons + junction.cell_count)
            for (node, junction), first in zip(
                numbered, layout.first_receiver[layout.populations :], strict=True
            )
        }
        self.cells = like.new_zeros((samples, layout.cells))
        self.windows = windows
        self.holders = {node: w.first.expand(samples, -1) for node, w in windows.items()}
        self.maxima = {node: like.new_zeros((samples, len(w.first))) for node, w in windows.items()}

    def pass_on(self, node: int, reached: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Let a sum or max pass on what reached it in this forward step.

        Args:
            reached: (B, C) bool.

        Returns:
            Which units pass something on (B, U), what (B, U), and the cells that hold the maxima (B, U) of a "max".
        """
        here = self.slices[node]
        cells, reached = self.cells[:, here], reached[:, here]
        if self.kinds[node] == "sum":
            amounts = cells.clone()
            cells.zero_()
            return reached.clone(), amounts, None
        windows, before, maxima = self.windows[node], self.holders[node], self.maxima[node]
        in_windows = windows.gather(cells, -torch.inf)
        largest, place = in_windows.amax(2), in_windows.argmax(2)  # the first of equal ones
        touched = windows.gather(reached, False).any(2)
        taken_over = touched & (cells.gather(1, before) < largest)
        now = windows.cells.expand(len(cells), -1, -1).gather(2, place[..., None])[..., 0]
        self.holders[node] = holders = torch.where(taken_over, now, before)
        passed = taken_over | (touched & reached.gather(1, before))
        self.maxima[node] = torch.where(passed, largest, maxima)
        return passed, torch.where(passed, largest - maxima, 0.0), holders

    def add(self, node: int, current: Tensor) -> None:
        """Add a current (B, C) to the cells of a node."""
        self.cells[:, self.slices[node]] += current

    def values(self, node: int) -> Tensor:
        """Return the values (B, U) of a junction that waits."""
        return self.junctions[node].value(self.cells[:, self.slices[node]], self.live[node])
