"""What a graph consists of: populations of neurons, junctions, and projections between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from snn_async.graph.grids import Grid, from_units, size_of, to_units
from snn_async.graph.live import Live
from snn_async.graph.synapses import Rows, Synapses
from snn_async.graph.windows import Windows

if TYPE_CHECKING:  # neurons use grids; a graph only keeps them
    from snn_async.neurons import Neuron

INPUT = "input"
JunctionKind = Literal["sum", "max", "and", "iand", "wait"]


@dataclass(frozen=True)
class Population:
    """One layer of `size` neurons of one model; `name` is its module's path in the source model.

    `grid` says how they are numbered (`snn_async.graph.grids`); `shape` is that of one sample in the source model.
    `detached`: it cuts the gradient of its state between timesteps (`mem.detach()`).
    """

    name: str
    size: int
    neuron: "Neuron"
    grid: Grid = (0, 1, 1)
    shape: tuple[int, ...] = ()
    detached: bool = False

    def __post_init__(self) -> None:
        if self.grid == (0, 1, 1):
            object.__setattr__(self, "grid", (self.size, 1, 1))
        if self.shape == ():
            object.__setattr__(self, "shape", (self.size,))


@dataclass(frozen=True)
class Junction:
    """Where projections meet without a neuron: what reaches its cells, its units pass on (docs/design.md, section 3).

    - "sum": a unit passes its cell's current on at once (a residual ADD, average pooling before a convolution);
    - "max": a unit passes the increase of the largest cell of its window on, at once;
    - "wait": the units' values are a function of all cells; they wait until nothing upstream can change any more, and
      then become pending like spikes. "and" and "iand": a * b and a * (1 - b) of a unit's two cells, ports 0 and 1.

    Attributes:
        grid: of the units.
        cells: grid of the cells; that of the units unless "max" or "wait".
        windows: of a "max": the cell positions of every unit position.
        function: of a "wait": takes the ports' cells, one port after another, and gives units, each in torch's flat
            order; it also gets the values of `live`.
        ports: grids of the cells, one after another; two of `cells` of an "and" or "iand", `cells` if none are given.
    """

    name: str
    kind: JunctionKind
    grid: Grid
    cells: Grid
    windows: Windows | None = None
    function: Rows | None = None
    live: tuple[Live, ...] = ()
    ports: tuple[Grid, ...] = ()

    def __post_init__(self) -> None:
        if not self.ports:
            pair = self.kind in ("and", "iand")
            object.__setattr__(self, "ports", (self.cells,) * (2 if pair else 1))

    @property
    def size(self) -> int:
        """Number of units."""
        return size_of(self.grid)

    @property
    def cell_count(self) -> int:
        """Number of cells, all ports' together."""
        return sum(map(size_of, self.ports))

    def first_cell(self, port: int) -> int:
        """Number of a port's first cell."""
        return sum(map(size_of, self.ports[:port]))

    @property
    def waits(self) -> bool:
        """Whether it holds back what reaches it until everything upstream has been decided."""
        return self.kind in ("and", "iand", "wait")

    def value(self, cells: Tensor, live: Sequence[Tensor]) -> Tensor:
        """Return the values (R, units) of one that waits, given its cells (R, cell_count) and the values of `live`."""
        parts = cells.split([size_of(port) for port in self.ports], 1)
        if self.kind == "and":
            return parts[0] * parts[1]
        if self.kind == "iand":
            return parts[0] * (1 - parts[1])
        assert self.function is not None
        flat = [from_units(part, port) for part, port in zip(parts, self.ports, strict=True)]
        return to_units(self.function(torch.cat(flat, 1), live), self.grid)


@dataclass(frozen=True)
class Projection:
    """The synapses from `source` (a population's, junction's or input's name) to `target`.

    Attributes:
        source_gain: gains of the run (a dropout, a mask), by number, that multiply events before the synapses.
        target_gain: those that multiply currents after them.
        delayed: a recurrent edge: it delivers the spikes of the last timestep, at its target's turn.
        port: the operand that it brings to a junction that waits.
        constant: (fan_out,) in torch's flat order, added to the bias.
        biased: whether it brings its bias; not where another projection of the same layer does.
    """

    name: str
    source: str
    target: str
    synapses: Synapses
    source_gain: tuple[int, ...] = ()
    target_gain: tuple[int, ...] = ()
    delayed: bool = False
    port: int = 0
    constant: Live | None = None
    biased: bool = True

    @property
    def fan_in(self) -> int:
        return self.synapses.fan_in

    @property
    def fan_out(self) -> int:
        return self.synapses.fan_out
