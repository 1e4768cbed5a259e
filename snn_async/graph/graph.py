"""Populations, projections and the graph they form: checked once, immutable (docs/design.md, section 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.graph.grids import Grid, size_of
from snn_async.graph.synapses import Synapses
from snn_async.graph.windows import Windows
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
    neuron: Neuron
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


class Graph:
    """Populations and junctions in topological order, projections, one output population.

    Args:
        populations, junctions, projections: in any order; names unique.
        output: name of the output population.
        input_shape: of one sample; (n,) of the projections' size if None.
        flatten: whether the input may come in any shape per sample and is flattened first.
        reads: what the source model returns of the output; a population that never spikes is always read by
            its potentials.

    Raises:
        UnsupportedModelError: for names that do not exist, sizes that do not fit, a cycle without delay,
            a population that the input does not reach or that does not reach the output.
    """

    def __init__(
        self,
        populations: Sequence[Population],
        projections: Sequence[Projection],
        output: str,
        *,
        junctions: Sequence[Junction] = (),
        input_shape: tuple[int, ...] | None = None,
        flatten: bool = False,
        reads: Literal["spikes", "potentials"] = "spikes",
    ) -> None:
        nodes = _topological([*populations, *junctions], projections)
        self.order = tuple(node.name for node in nodes)  # of all nodes
        self.populations = tuple(node for node in nodes if isinstance(node, Population))
        self.junctions = tuple(node for node in nodes if isinstance(node, Junction))
        self.projections = tuple(projections)
        self.output = output
        self.flatten = flatten
        self._given_shape = input_shape
        self._check()
        spiking = self.populations[self.index[output]].neuron.spiking
        self.reads: Literal["spikes", "potentials"] = reads if spiking else "potentials"

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of every population in `populations`."""
        return {population.name: i for i, population in enumerate(self.populations)}

    @cached_property
    def nodes(self) -> dict[str, Population | Junction]:
        """Every population, then every junction, by name."""
        found: list[Population | Junction] = [*self.populations, *self.junctions]
        return {node.name: node for node in found}

    @cached_property
    def node_index(self) -> dict[str, int]:
        """Number of every node: -1 for the input, then the populations, then the junctions."""
        names = [INPUT, *self.index, *(junction.name for junction in self.junctions)]
        return {name: i - 1 for i, name in enumerate(names)}

    @cached_property
    def input_grid(self) -> Grid:
        """How the input's features are numbered."""
        return next(p.synapses.source for p in self.projections if p.source == INPUT)

    @property
    def input_size(self) -> int:
        """Features of one input frame."""
        return size_of(self.input_grid)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input frame of one sample."""
        return (self.input_size,) if self._given_shape is None else self._given_shape

    @cached_property
    def size(self) -> int:
        """Number of neurons."""
        return sum(population.size for population in self.populations)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each population's neurons lie among all neurons."""
        slices, start = {}, 0
        for population in self.populations:
            slices[population.name] = slice(start, start + population.size)
            start += population.size
        return slices

    @property
    def phase_length(self) -> int:
        """Turns are numbered anew after each level of waiting junctions, from multiples of this number."""
        return len(self.populations) + 2

    @cached_property
    def node_turns(self) -> dict[str, int]:
        """Fewest hops from the input to each node: 0 where the input arrives.

        A junction that passes on at once is as far as its nearest source. One that waits comes after everything
        upstream of it: with `level` waiting junctions before and including it on the longest way, its number is
        `level * phase_length - 1`.
        """
        turns, levels = {INPUT: -1}, {INPUT: 0}
        waiting = {junction.name for junction in self.junctions if junction.waits}
        instant = {junction.name for junction in self.junctions} - waiting
        for name in self.order:
            sources = [p.source for p in self.into(name) if not p.delayed]
            levels[name] = max(levels[source] for source in sources) + (name in waiting)
            nearest = min(turns[source] for source in sources)
            turns[name] = nearest if name in instant else nearest + 1
            if name in waiting:
                turns[name] = levels[name] * self.phase_length - 1
        return turns

    @cached_property
    def turns(self) -> tuple[int, ...]:
        """Turn of each population."""
        return tuple(self.node_turns[population.name] for population in self.populations)

    def into(self, name: str) -> list[Projection]:
        """Return the projections into a node."""
        return [p for p in self.projections if p.target == name]

    def out_of(self, name: str) -> list[Projection]:
        """Return the projections out of a node or the input."""
        return [p for p in self.projections if p.source == name]

    def reaches(self, source: str) -> set[str]:
        """Return the populations and waiting junctions that an event of `source` reaches in one forward step."""
        reached: set[str] = set()
        for projection in self.out_of(source):
            target = self.nodes[projection.target]
            if projection.delayed:
                continue
            passes_on = isinstance(target, Junction) and not target.waits
            reached |= self.reaches(target.name) if passes_on else {target.name}
        return reached

    @cached_property
    def modules(self) -> tuple[tuple[str, nn.Module], ...]:
        """The source model's modules that this graph reads, each with the name of its population or projection."""
        parts = [(p.name, p.neuron.module) for p in self.populations]
        return (*parts, *((p.name, module) for p in self.projections for module in p.synapses.modules))

    def describe(self) -> str:
        """Return the graph as lines of text: populations, junctions, projections, neuron models."""
        lines = [f"{INPUT} ({_shape(self.input_shape)})"]
        for name in self.order:
            for projection in self.into(name):
                lines.append(f"  {projection.source} -> {name}: {_describe(projection)}")
            node = self.nodes[name]
            if isinstance(node, Junction):
                lines.append(f"{name} ({_JUNCTIONS[node.kind]}, {_shape(node.grid)})")
                continue
            neuron = node.neuron
            kind = type(neuron.module).__name__ + ("" if neuron.spiking else " (readout)")
            end = f"  <- output, read by its {self.reads}" if name == self.output else ""
            lines.append(f"{name} ({_shape(node.shape)} x {kind}: {_dynamics(neuron)}){end}")
        return "\n".join(lines)

    def _check(self) -> None:
        names = self.order
        if INPUT in names or len(set(names)) != len(names):
            raise UnsupportedModelError(f"node names must be unique and not {INPUT!r}: {list(names)}")
        if self.output not in self.index:
            raise UnsupportedModelError(
                f"the output {self.output!r} is no population; there are {list(self.index)}"
            )
        if not self.out_of(INPUT):
            raise UnsupportedModelError(
                "no projection leaves the input: the model has no Linear or convolution on its input"
            )
        for name in names:
            if name != self.output and not any(not p.delayed for p in self.out_of(name)):
                raise UnsupportedModelError(
                    f"population {name!r} leads nowhere: only the output {self.output!r} may"
                )
        for population in self.populations:
            if not population.neuron.spiking and population.name != self.output:
                raise UnsupportedModelError(
                    f"population {population.name!r} never spikes, so it can only be the output"
                )
        grids = {INPUT: self.input_grid} | {name: node.grid for name, node in self.nodes.items()}
        takes = {p.name: p.grid for p in self.populations} | {j.name: j.cells for j in self.junctions}
        for projection in self.projections:
            synapses = projection.synapses
            if (synapses.source, synapses.target) != (grids[projection.source], takes[projection.target]):
                raise UnsupportedModelError(
                    f"projection {projection.name!r} maps {_shape(synapses.source)} to {_shape(synapses.target)}, but "
                    f"{projection.source!r} has {_shape(grids[projection.source])} and {projection.target!r} takes "
                    f"{_shape(takes[projection.target])}"
                )


_JUNCTIONS = {
    "sum": "sum, passed on at once",
    "max": "max pooling, a window passes each increase of its maximum on at once",
    "and": "AND, waits until nothing upstream can change in the timestep",
    "iand": "IAND, waits until nothing upstream can change in the timestep",
}


def _topological(
    nodes: Sequence[Population | Junction], projections: Sequence[Projection]
) -> tuple[Population | Junction, ...]:
    names = {node.name for node in nodes} | {INPUT}
    for projection in projections:
        for end in (projection.source, projection.target):
            if end not in names:
                raise UnsupportedModelError(
                    f"projection {projection.name!r} refers to {end!r}, which is not there"
                )
    done, ordered, waiting = {INPUT}, [], list(nodes)
    sources = {
        node.name: [p.source for p in projections if p.target == node.name and not p.delayed]
        for node in nodes
    }
    while waiting:
        for node in waiting:
            if sources[node.name] and all(source in done for source in sources[node.name]):
                break
        else:
            stuck = [node.name for node in waiting]
            raise UnsupportedModelError(
                f"the input does not reach {stuck}, or they form a cycle without delay; remove the cycle"
            )
        waiting.remove(node)
        done.add(node.name)
        ordered.append(node)
    return tuple(ordered)


def _shape(shape: tuple[int, ...]) -> str:
    """Return (2, 34, 34) as "2x34x34" and (64, 1, 1) as "64"."""
    sides = shape[:1] if len(shape) == 3 and shape[1:] == (1, 1) else shape
    return "x".join(map(str, sides))


def _dynamics(neuron: Neuron) -> str:
    leak, gain, offset, threshold = (_range(value) for value in neuron.parameters())
    parts = (
        [f"leak {leak}"]
        + ([f"gain {gain}"] if gain != "1" else [])
        + ([f"offset {offset}"] if offset != "0" else [])
    )
    if not neuron.spiking:
        return ", ".join(parts)
    reset = {
        "none": "no reset",
        "subtract": "reset by subtraction",
        "value": f"reset to {neuron.reset_value:g}",
    }
    when = "" if neuron.reset == "none" else " at the next timestep" if neuron.delayed_reset else " at once"
    fires = "at" if neuron.inclusive else "above"
    return ", ".join([*parts, f"fires {fires} {threshold}", reset[neuron.reset] + when])


def _range(value: Tensor) -> str:
    low, high = float(value.detach().min()), float(value.detach().max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _describe(projection: Projection) -> str:
    parts = [projection.synapses.describe()]
    if projection.delayed:
        parts.append("last timestep's spikes")
    if projection.synapses.bias() is not None:
        parts.append("bias once per timestep")
    if projection.source_dropout or projection.target_dropout:
        parts.append("dropout in training")
    return ", ".join(parts)
