"""What junctions hold and pass on, one sample at a time (docs/design.md, section 7)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async.engines.contract import Values
from snn_async.graph import Graph
from snn_async.graph.layout import Layout
from snn_async.graph.parameters import dealt
from snn_async.graph.windows import Windows


class Junctions:
    """The cells of all junctions in one timestep; `waiting` and `instant` are node numbers in topological order."""

    def __init__(self, graph: Graph, layout: Layout, values: Values) -> None:
        self.layout, self.populations, dtype = layout, layout.populations, values.x.dtype
        self.junctions, self.live = graph.junctions, dealt(graph, values.parameters)[1]
        self.kinds = [junction.kind for junction in graph.junctions]
        nodes = range(layout.populations, layout.populations + len(graph.junctions))
        self.waiting = [j for j, junction in zip(nodes, graph.junctions, strict=True) if junction.waits]
        self.instant = [j for j, junction in zip(nodes, graph.junctions, strict=True) if not junction.waits]
        self.cells = torch.zeros(layout.cells, dtype=dtype)
        self.windows = [
            None if j.windows is None else members(j.windows, j.cells[0]) for j in graph.junctions
        ]
        self.holders = [None if w is None else [int(cells[0]) for cells in w] for w in self.windows]
        self.maxima = [None if w is None else torch.zeros(len(w), dtype=dtype) for w in self.windows]

    def add(self, receivers: slice, current: Tensor) -> None:
        """Add a current to cells, given as receivers."""
        first = self.layout.neurons
        self.cells[receivers.start - first : receivers.stop - first] += current

    def _cells(self, node: int) -> slice:
        first = int(self.layout.first_receiver[node]) - self.layout.neurons
        after = self.layout.first_receiver[node + 1 :]
        return slice(first, int(after[0]) - self.layout.neurons if len(after) else self.layout.cells)

    def pass_on(self, node: int, reached: Tensor) -> list[tuple[int, float, int]]:
        """Return (source, amount, holder) of the units of a sum or max that pass something on now."""
        here, j = self._cells(node), node - self.populations
        cells, touched = self.cells[here], reached[self.layout.neurons :][here]
        source = int(self.layout.first_unit[node])
        if self.kinds[j] == "sum":
            passed = [(source + u, float(cells[u]), -1) for u in touched.nonzero().flatten().tolist()]
            cells[:] = 0
            return passed
        passed, windows, holders, maxima = [], self.windows[j], self.holders[j], self.maxima[j]
        assert windows is not None and holders is not None and maxima is not None
        for unit, window in enumerate(windows):
            if not touched[window].any():
                continue
            before, largest = holders[unit], cells[window].max()
            if cells[before] < largest:
                holders[unit] = int(window[cells[window].argmax()])  # the first of equal ones
            if holders[unit] != before or touched[before]:
                passed.append((source + unit, float(largest - maxima[unit]), holders[unit]))
                maxima[unit] = largest
        return passed

    def values(self, node: int) -> list[tuple[int, float]]:
        """Return (source, value) of the units of a junction that waits that are not 0."""
        j, source = node - self.populations, int(self.layout.first_unit[node])
        value = self.junctions[j].value(self.cells[None, self._cells(node)], self.live[j])[0]
        return [(source + u, float(value[u])) for u in value.nonzero().flatten().tolist()]


def members(windows: Windows, channels: int) -> list[NDArray[np.int64]]:
    """Return the cells of every unit of a "max" with `channels`, in scanning order."""
    spans = list(zip(windows.offsets[:-1], windows.offsets[1:], strict=True))
    return [windows.positions[a:z] * channels + c for a, z in spans for c in range(channels)]
