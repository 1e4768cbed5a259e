"""What a graph consists of: populations of neurons, junctions, and projections between them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

from snn_async.graph.grids import Grid, size_of
from snn_async.graph.synapses import Synapses
from snn_async.graph.windows import Windows

if TYPE_CHECKING:  # neurons use grids; a graph only keeps them
    from snn_async.neurons import Neuron

INPUT = "input"
JunctionKind = Literal["sum", "max", "and", "iand"]


@dataclass(frozen=True)
class Population:
    """One layer of `size` neurons of one model; `name` is its module's path in the source model.

    `grid` says how they are numbered (`snn_async.graph.grids`); `shape` is that of one sample in the source model.
    """

    name: str
    size: int
    neuron: "Neuron"
    grid: Grid = (0, 1, 1)
    shape: tuple[int, ...] = ()

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
    - "and", "iand": the units' values are a * b and a * (1 - b) of their two cells, ports 0 and 1; they wait until
      nothing upstream can change any more, and then become pending like spikes.

    Attributes:
        grid: of the units.
        cells: grid of the cells; that of the units unless "max". An "and" or "iand" has two such grids, one a port.
        windows: of a "max": the cell positions of every unit position.
    """

    name: str
    kind: JunctionKind
    grid: Grid
    cells: Grid
    windows: Windows | None = None

    @property
    def size(self) -> int:
        """Number of units."""
        return size_of(self.grid)

    @property
    def cell_count(self) -> int:
        """Number of cells, both ports' together."""
        return size_of(self.cells) * (2 if self.waits else 1)

    @property
    def waits(self) -> bool:
        """Whether it holds back what reaches it until everything upstream has been decided."""
        return self.kind in ("and", "iand")


@dataclass(frozen=True)
class Dropout:
    """A dropout module; its mask is drawn anew in every timestep, or once per run if `per_run`."""

    module: nn.Module
    per_run: bool = False

    @property
    def rate(self) -> float:
        """The live probability of dropping, 0 in evaluation."""
        return float(self.module.p) if self.module.training else 0.0  # type: ignore[arg-type]


@dataclass(frozen=True)
class Projection:
    """The synapses from `source` (a population's or junction's name, or `INPUT`) to `target`.

    `source_dropout` acts on the spikes before the synapses, `target_dropout` on the currents after them. A `delayed`
    projection (a recurrent edge) delivers the spikes of the last timestep, at its target's turn. `port` is the
    operand that it brings to an "and" or "iand".
    """

    name: str
    source: str
    target: str
    synapses: Synapses
    source_dropout: tuple[Dropout, ...] = ()
    target_dropout: tuple[Dropout, ...] = ()
    delayed: bool = False
    port: int = 0

    @property
    def fan_in(self) -> int:
        return self.synapses.fan_in

    @property
    def fan_out(self) -> int:
        return self.synapses.fan_out
