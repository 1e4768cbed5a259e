"""The graph that populations, junctions and projections form: checked once, immutable (docs/design.md, section 2)."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate

from snn_async.errors import UnsupportedModelError
from snn_async.graph.description import describe, shape_text
from snn_async.graph.grids import Grid, size_of
from snn_async.graph.nodes import INPUT, Junction, Population, Projection


class Graph:
    """Inputs, populations and junctions in topological order, projections, one output population.

    Args:
        populations, junctions, projections: in any order; names unique.
        output: name of the output population.
        inputs: grids by name; None for one, `INPUT`, on the grid that its projections take.

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
        inputs: Mapping[str, Grid] | None = None,
    ) -> None:
        if inputs is None:
            inputs = {p.source: p.synapses.source for p in reversed(projections) if p.source == INPUT}
        self.input_grids = dict(inputs)
        nodes = _topological([*populations, *junctions], projections, self.input_grids)
        self.order = tuple(node.name for node in nodes)  # of all nodes
        self.populations = tuple(node for node in nodes if isinstance(node, Population))
        self.junctions = tuple(node for node in nodes if isinstance(node, Junction))
        self.projections = tuple(projections)
        self.output = output
        self._check()

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
        """Number of every node: -1 for the inputs, then the populations, then the junctions."""
        names = [*self.index, *(junction.name for junction in self.junctions)]
        return dict.fromkeys(self.input_grids, -1) | {name: i for i, name in enumerate(names)}

    @cached_property
    def input_size(self) -> int:
        """Features of one frame of all inputs."""
        return sum(map(size_of, self.input_grids.values()))

    @cached_property
    def input_slices(self) -> dict[str, slice]:
        """Where each input's features lie among all features."""
        return _slices({name: size_of(grid) for name, grid in self.input_grids.items()})

    @cached_property
    def size(self) -> int:
        """Number of neurons."""
        return sum(population.size for population in self.populations)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each population's neurons lie among all neurons."""
        return _slices({population.name: population.size for population in self.populations})

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
        turns, levels = dict.fromkeys(self.input_grids, -1), dict.fromkeys(self.input_grids, 0)
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

    def takes_bias(self, name: str) -> bool:
        """Whether biases end at a node: through other junctions they are carried along."""
        node = self.nodes[name]
        return isinstance(node, Population) or node.kind == "wait"

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

    def describe(self) -> str:
        """Return the graph as lines of text: populations, junctions, projections, neuron models."""
        return describe(self)

    def _check(self) -> None:
        names = self.order
        if len({*names, *self.input_grids}) != len(names) + len(self.input_grids):
            raise UnsupportedModelError(
                f"node names must be unique and no input's: {[*self.input_grids, *names]}"
            )
        if self.output not in self.index:
            raise UnsupportedModelError(
                f"the output {self.output!r} is no population; there are {list(self.index)}"
            )
        for name in self.input_grids or (INPUT,):
            if not self.out_of(name):
                raise UnsupportedModelError(
                    f"no projection leaves the {name}: the model has no Linear or convolution on it"
                )
        for junction in self.junctions:
            if not self.out_of(junction.name):
                raise UnsupportedModelError(f"junction {junction.name!r} leads nowhere; leave it out")
        for population in self.populations:
            neuron, out = population.neuron, self.out_of(population.name)
            if not neuron.spiking and not neuron.analog and out:
                raise UnsupportedModelError(
                    f"population {population.name!r} never spikes, so no projection can leave it"
                )
            for projection in out if neuron.analog else ():
                target = self.nodes[projection.target]
                if not projection.delayed and not (isinstance(target, Junction) and target.waits):
                    raise UnsupportedModelError(
                        f"projection {projection.name!r} brings potentials of {population.name!r} into "
                        f"{target.name!r}, which does not wait for them"
                    )
        grids = self.input_grids | {name: node.grid for name, node in self.nodes.items()}
        takes = {p.name: (p.grid,) for p in self.populations} | {j.name: j.ports for j in self.junctions}
        for projection in self.projections:
            ports = takes[projection.target]
            if projection.port >= len(ports):
                raise UnsupportedModelError(
                    f"projection {projection.name!r} brings port {projection.port} of {projection.target!r}, which has "
                    f"{len(ports)}"
                )
            maps = (projection.synapses.source, projection.synapses.target)
            meets = (grids[projection.source], ports[projection.port])
            if projection.delayed and not self.takes_bias(projection.target):
                raise UnsupportedModelError(
                    f"projection {projection.name!r} brings last timestep's spikes into {projection.target!r}, which "
                    f"passes everything on at once or joins it; let it end at a population"
                )
            if maps != meets:
                given, taken, has, wants = (shape_text(grid) for grid in (*maps, *meets))
                raise UnsupportedModelError(
                    f"projection {projection.name!r} maps {given} to {taken}, but {projection.source!r} has {has} and "
                    f"{projection.target!r} takes {wants}"
                )


def _slices(sizes: Mapping[str, int]) -> dict[str, slice]:
    ends = list(accumulate(sizes.values()))
    return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def _topological(
    nodes: Sequence[Population | Junction], projections: Sequence[Projection], inputs: Iterable[str]
) -> tuple[Population | Junction, ...]:
    names = {node.name for node in nodes}.union(inputs)
    for projection in projections:
        for end in (projection.source, projection.target):
            if end not in names:
                raise UnsupportedModelError(
                    f"projection {projection.name!r} refers to {end!r}, which is not there"
                )
    done, ordered, waiting = set(inputs), [], list(nodes)
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
