"""The graph that populations, junctions and projections form: checked once, immutable (docs/design.md, section 2)."""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from torch import nn

from snn_async.errors import UnsupportedModelError
from snn_async.graph.description import describe, shape_text
from snn_async.graph.grids import Grid, size_of
from snn_async.graph.nodes import INPUT, Junction, Population, Projection


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
        return describe(self)

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
            maps = (projection.synapses.source, projection.synapses.target)
            meets = (grids[projection.source], takes[projection.target])
            if maps != meets:
                given, taken, has, wants = (shape_text(grid) for grid in (*maps, *meets))
                raise UnsupportedModelError(
                    f"projection {projection.name!r} maps {given} to {taken}, but {projection.source!r} has {has} and "
                    f"{projection.target!r} takes {wants}"
                )


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
