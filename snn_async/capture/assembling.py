"""From a folded recording to a graph: populations, junctions, and a projection for every way between two of them."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.fx import Node

from snn_async.capture.cells import Cell
from snn_async.capture.folding import Fold
from snn_async.capture.kinds import Kind, tensors_in, value_of
from snn_async.capture.linking import Linker, Lives, Segment
from snn_async.capture.operators import (
    ADDITIONS,
    MAXIMA,
    MOVES,
    RESHAPES,
    data_of,
    has_gradient,
    is_linear,
    plain_name,
)
from snn_async.capture.remembering import Memory, Part
from snn_async.capture.wires import Link, Wires, max_windows, synapses_of
from snn_async.errors import UnsupportedModelError
from snn_async.frameworks.libraries import adapter_of
from snn_async.graph import INPUT, Graph, Junction, Population, Projection
from snn_async.graph.grids import Grid, size_of
from snn_async.graph.synapses import Synapses, wiring


class Term(NamedTuple):
    """One way to a node: what `source` sends, through `links`.

    Attributes:
        node: the node whose value the source sends.
        biased: whether constants on the way are brought here; not where another way brings them.
    """

    source: str
    node: Node
    grid: Grid
    delayed: bool
    links: tuple[Link, ...]
    biased: bool = True

    def through(self, *links: Link) -> "Term":
        return self._replace(links=(*self.links, *links))


class Assembly:
    """The graph of a fold.

    Attributes:
        graph: the network.
        inputs: encoded values that enter it, one after another, with their names.
        memories: of the last inputs, how they are carried on.
        gains: nodes of masks and the grids that they act on, by the number that projections call them.
        lives: nodes of parameters that are read in every run.
    """

    def __init__(self, fold: Fold, values: Mapping[Node, Any]) -> None:
        self._fold, self._recording = fold, fold.recording
        self.lives = Lives()
        self._linker = Linker(fold, self.lives, values)
        self.inputs: dict[Node, str] = {}
        self.input_grids: dict[str, Grid] = {}
        self.gains: dict[tuple[Node, Grid], int] = {}
        self._populations: list[Population] = []
        self._junctions: list[Junction] = []
        self._passed: dict[Node, Term] = {}  # what junctions pass on, by the node whose value it is
        self._projections: list[Projection] = []
        self._names: Counter[str] = Counter(cell.name for cell in fold.cells)
        self._terms: dict[Node, list[Term]] = {}
        self._uses = self._count_uses()
        for cell in fold.cells:
            self._populate(cell)
        for cell in fold.cells:
            self._connect(self._terms_of(fold.current(cell)), cell.name, self._grids[cell.name])
        made = {after: self._sources(after) for after in fold.memories.values()}
        for node in dict.fromkeys(n for nodes in made.values() for n in nodes):
            if node in fold.leaves:
                self._from_input(node)
        for before in fold.memories:
            self._from_input(before)
            self.inputs[before] = self.inputs.pop(before)  # after all others
        for cell in fold.cells:
            self._start(cell.name)
        self.graph = Graph(
            self._populations,
            self._projections,
            self._output(),
            junctions=self._junctions,
            inputs={name: self.input_grids[name] for name in self.inputs.values()},
        )
        self.memories = [self._remember(after, nodes) for after, nodes in made.items()]

    # -- populations -----------------------------------------------------------------------------------

    def _populate(self, cell: Cell) -> None:
        current = self._fold.current(cell)
        shape = self._fold.sample_shape(current)
        adapter: Any = adapter_of(cell.module)
        neuron = adapter.make_neuron(cell.name, cell.module, shape)
        grid = self._linker.grid(current)
        self._populations.append(
            Population(cell.name, size_of(grid), neuron, grid, shape, detached=cell.detached)
        )

    def _start(self, name: str) -> None:
        """Let a population that gets last timestep's spikes alone take its turn when the input arrives."""
        delays = {projection.delayed for projection in self._projections if projection.target == name}
        if delays == {True} and self.inputs:
            source = next(iter(self.inputs.values()))
            grids = self.input_grids[source], self._grids[name]
            nothing = np.zeros(0, np.int64)
            synapses = wiring("start", *grids, 1, nothing, nothing, np.zeros(0))
            self._add(source, name, Segment(synapses, None, (), ()), [], False, 0, False)

    @property
    def _grids(self) -> dict[str, Grid]:
        return {population.name: population.grid for population in self._populations}

    def _output(self) -> str:
        """Return the population that nobody listens to; of several, the last that is called."""
        heard = {p.source for p in self._projections if not p.delayed}
        silent = [cell.name for cell in self._fold.cells if cell.name not in heard]
        return silent[-1] if silent else self._fold.cells[-1].name

    def _remember(self, after: Node, nodes: list[Node]) -> Memory:
        """Return how a value that is made of `nodes` is carried on."""
        expression = self._linker.expression(after, nodes)
        live = tuple(self.lives(n) for n in expression.lives)
        return Memory(self._linker.grid(after), expression, tuple(self._part(n) for n in nodes), live)

    def _part(self, node: Node) -> Part:
        fold, grid = self._fold, self._linker.grid(node)
        crossing = fold.crossing(node, fold.times[node])
        origin = node if crossing is None else crossing[0]
        sent = fold.sent(origin, fold.times[origin])
        if sent is not None:
            name, delayed = self._from_cell(node, *sent).source, sent.ago == 1
            return Part("last spikes" if delayed else "spikes", self.graph.slices[name], grid)
        if crossing is not None:
            raise UnsupportedModelError(
                f"{self._recording.place(node)}: a value that is carried over in time is made of what whole sequences "
                "give; use one step_mode for all modules"
            )
        return Part("inputs", self.graph.input_slices[self.inputs[node]], grid)

    def _sources(self, node: Node, passed: Container[Node] = ()) -> list[Node]:
        """Return what a value begins with that follows from inputs or neurons, or that junctions have `passed` on."""
        found: list[Node] = []
        seen: set[Node] = set()
        stack = [node]
        while stack:
            n = stack.pop()
            if n in seen:
                continue
            seen.add(n)
            crosses = self._fold.crossing(n, self._fold.times[n]) is not None
            if n is node or not (n in passed or self._is_leaf(n) or crosses):
                stack += reversed(self._data(n))
            elif self._fold.dependencies.kinds[n] != Kind.LIVE:
                found.append(n)
        return found

    # -- expressions -----------------------------------------------------------------------------------

    def _count_uses(self) -> Counter[Node]:
        """Return how often each node is an operand within the core."""
        uses: Counter[Node] = Counter()
        seen: set[Node] = set()
        stack = [self._fold.current(cell) for cell in self._fold.cells]
        uses.update(stack)
        while stack:
            node = stack.pop()
            if node in seen or self._is_leaf(node):
                continue
            seen.add(node)
            operands = self._data(node)
            uses.update(operands)
            stack += operands
        return uses

    def _is_leaf(self, node: Node) -> bool:
        return self._fold.is_leaf(node, self._fold.times[node])

    def _data(self, node: Node) -> list[Node]:
        """Return the operands that follow from inputs or neurons; a list of several results is looked through."""
        crossing = self._fold.crossing(node, self._fold.times[node])
        if crossing is not None:
            return [crossing[0]]
        found = []
        for operand in data_of(node, self._fold.dependencies):
            if isinstance(value_of(operand), Tensor):
                found.append(operand)
            else:
                found += self._data(operand)
        return found

    def _terms_of(self, node: Node) -> list[Term]:
        """Return the ways by which a node gets its value, but for what follows from parameters alone."""
        if node not in self._terms:
            terms = self._compute(node)
            plain = len(terms) == 1 and all(self._is_plain(link) for link in terms[0].links)
            self._terms[node] = terms
            if self._uses[node] > 1 and not plain:
                now = [term for term in terms if not term.delayed]
                gathered = [self._gathered(node, now)] if now else []
                self._terms[node] = [*gathered, *(term for term in terms if term.delayed)]
        return self._terms[node]

    def _is_plain(self, link: Link) -> bool:
        piece = self._linker.piece(link)
        return piece is None or piece.kind in ("mask", "wires")

    def _compute(self, node: Node) -> list[Term]:
        fold = self._fold
        sent = fold.sent(node, fold.times[node])
        if sent is not None:
            return [self._from_cell(node, *sent)]
        if self._is_leaf(node):
            if fold.dependencies.kinds[node] == Kind.LIVE:
                return []
            return [self._from_input(node)]
        name, data = plain_name(node), self._data(node)
        if fold.times[data[0]] != fold.times[node]:
            return [term.through(Link(node, data[0])) for term in self._terms_of(data[0])]
        if name in MAXIMA:
            return [self._largest(node, data[0])]
        mask = self._mask_operand(node, data)
        if mask is None and not is_linear(node, fold.dependencies):
            return [self._waiting(node)]
        if name in ADDITIONS and len(data) == 2:
            return self._sum(node, data)
        if name in ("cat", "concat", "stack", "hstack", "vstack"):
            return [
                term.through(Link(node, part)) for part in dict.fromkeys(data) for term in self._single(part)
            ]
        through = next((n for n in tensors_in(node.args) if not isinstance(value_of(n), Tensor)), None)
        if through is not None:
            return [t.through(Link(node, data[0], through)) for t in self._terms_of(data[0])]
        if name in RESHAPES | MOVES:
            return [t.through(Link(node, data[0])) for t in self._terms_of(data[0])]
        operand = data[0] if mask is None else next(n for n in data if n is not mask)
        return [term.through(Link(node, operand)) for term in self._single(operand)]

    def _mask_operand(self, node: Node, data: Sequence[Node]) -> Node | None:
        """Return the factor of a product that no neuron reaches and no gradient: one that is drawn at random."""
        if plain_name(node) not in ("mul", "multiply") or len(data) != 2:
            return None
        kinds = self._fold.dependencies.kinds
        encoded = [n for n in data if kinds[n] == Kind.ENCODE and self._is_leaf(n) and not has_gradient(n)]
        return encoded[0] if len(encoded) == 1 and kinds[node] == Kind.CORE else None

    def _from_input(self, node: Node) -> Term:
        """Return what an encoded value, or one that is carried on, sends."""
        name = "memory" if node in self._fold.memories else INPUT
        if node not in self.inputs:
            number = sum(other.startswith(name) for other in self.inputs.values()) + 1
            self.inputs[node] = self._unique(name if number == 1 else f"{name} {number}")
            self.input_grids[self.inputs[node]] = self._linker.grid(node)
        return Term(self.inputs[node], node, self._linker.grid(node), False, ())

    def _from_cell(self, node: Node, cell: Cell, ago: int, what: int) -> Term:
        if what:
            raise UnsupportedModelError(
                f"{self._recording.place(node)}: a potential of {cell.name!r} reaches another neuron; it changes with "
                "every event and is not sent. Send spikes, or put what needs the potential behind the last neuron"
            )
        if ago not in (0, 1):
            raise UnsupportedModelError(
                f"{self._recording.place(node)}: spikes of {cell.name!r} are taken {ago} timesteps later; only those "
                "of this timestep and the last one can be delivered"
            )
        return Term(cell.name, node, self._grids[cell.name], ago == 1, ())

    def _sum(self, node: Node, data: Sequence[Node]) -> list[Term]:
        first, second = node.args[:2]
        name, alpha = plain_name(node), node.kwargs.get("alpha", 1)
        terms = []
        for operand in (first, second):
            assert isinstance(operand, Node)
            negative = (operand is second and name in ("sub", "subtract")) or (
                operand is first and name == "rsub"
            )
            if (
                negative
                or (operand is second and alpha != 1)
                or value_of(operand).shape != value_of(node).shape
            ):
                terms += [term.through(Link(node, operand)) for term in self._single(operand)]
            else:
                terms += self._terms_of(operand)
        return terms

    def _single(self, node: Node) -> list[Term]:
        """Return the ways to a node as one, or none, and those of last timestep's spikes, which end at neurons only."""
        terms = self._terms_of(node)
        now = [term for term in terms if not term.delayed]
        if len(now) > 1:
            now = [self._gathered(node, now)]
        delayed = [term for term in terms if term.delayed]
        bringing = now[0] if now else delayed[0] if delayed else None
        self._terms[node] = [
            term._replace(biased=term is bringing and term.biased) for term in (*now, *delayed)
        ]
        return self._terms[node]

    # -- junctions -------------------------------------------------------------------------------------

    def _gathered(self, node: Node, terms: list[Term]) -> Term:
        """Return what a node passes on, as a junction."""
        grid = self._linker.grid(node)
        return self._join(node, Junction(self._unique(self._label(node)), "sum", grid, grid), [terms])

    def _join(self, node: Node, junction: Junction, ports: Sequence[list[Term]]) -> Term:
        term = Term(junction.name, node, junction.grid, False, ())
        self._junctions.append(junction)
        self._passed[node] = term
        for port, terms in enumerate(ports):
            self._connect(terms, junction.name, junction.ports[port], port)
        return term

    def _largest(self, node: Node, operand: Node) -> Term:
        windows = max_windows(node, self._fold.slots(node))
        terms = self._terms_of(operand)
        grid = self._linker.grid(operand)
        if windows is None or any(self._has_own_constants(term) for term in terms):
            return self._waiting(node)
        junction = Junction(self._unique(self._label(node)), "max", self._linker.grid(node), grid, windows)
        return self._join(node, junction, [terms])

    def _has_own_constants(self, term: Term) -> bool:
        """Return whether what is added on the way may differ within a window."""
        pieces = [piece for link in term.links if (piece := self._linker.piece(link)) is not None]
        return any(piece.kind in ("constant", "dense", "other") for piece in pieces)

    def _waiting(self, node: Node) -> Term:
        """Return an operator that is not linear in events as a junction that waits for all of them."""
        joined = self._joined_spikes(node)
        if joined is not None:
            return joined
        sources = self._sources(node, self._passed)
        for source in sources:
            self._single(source)
        if not sources:
            raise UnsupportedModelError(f"{self._recording.place(node)}: no neuron or input reaches it")
        expression = self._linker.expression(node, sources)
        grids = tuple(self._linker.grid(source) for source in sources)
        cells = (sum(expression.sizes), 1, 1)
        junction = Junction(
            self._unique(self._label(node)),
            "wait",
            self._linker.grid(node),
            cells,
            function=expression,
            live=tuple(self.lives(n) for n in expression.lives),
            ports=grids,
        )
        return self._join(node, junction, [self._terms_of(source) for source in sources])

    def _joined_spikes(self, node: Node) -> Term | None:
        """Return a product of two streams of spikes, AND, or of one and the complement of another, IAND."""
        if plain_name(node) not in ("mul", "multiply"):
            return None
        first, second = node.args[:2]
        shape = value_of(node).shape
        parts: list[tuple[Node, bool]] = []
        for operand in (first, second):
            if not isinstance(operand, Node) or value_of(operand).shape != shape:
                return None
            inverted = _complement(operand)
            parts.append((operand if inverted is None else inverted, inverted is not None))
        inversions = [inverted for _, inverted in parts]
        if all(inversions):
            return None
        if inversions[0]:
            parts.reverse()
        ports = [self._terms_of(part) for part, _ in parts]
        links = [link for terms in ports for term in terms for link in term.links]
        if not all(ports) or not all(self._is_plain(link) for link in links):
            return None
        grid = self._linker.grid(node)
        kind: Any = "iand" if any(inversions) else "and"
        return self._join(node, Junction(self._unique(self._label(node)), kind, grid, grid), ports)

    # -- projections -----------------------------------------------------------------------------------

    def _connect(self, terms: Sequence[Term], target: str, grid: Grid, port: int = 0) -> None:
        for term in terms:
            self._route(term, target, grid, port)

    def _route(self, term: Term, target: str, grid: Grid, port: int) -> None:
        """Add the projections that bring a term to a target, over junctions where one projection cannot."""
        source, start, at, delayed, links = term.source, term.node, term.grid, term.delayed, list(term.links)
        biased = term.biased
        while True:
            done, segment = self._longest(start, at, links)
            rest = links[done:]
            if rest and not done and segment.synapses.target == at:
                raise UnsupportedModelError(
                    f"{self._recording.place(rest[0].node)}: {plain_name(rest[0].node)} cannot be run on events of "
                    f"{source!r}"
                )
            if not rest and segment.synapses.target == grid:
                self._add(source, target, segment, links[:done], delayed, port, biased)
                return
            end = links[done - 1].node if done else start
            middle_grid = segment.synapses.target
            if not rest and (not done or middle_grid == self._linker.grid(end)):
                # the values are there, but numbered otherwise
                renumbering = self._renumbering(middle_grid, grid)
                if not done:
                    self._add(source, target, Segment(renumbering, None, (), ()), [], delayed, port, biased)
                    return
            junction = Junction(
                self._unique(self._label(end) if done else f"{source} renumbered"),
                "sum",
                middle_grid,
                middle_grid,
            )
            self._junctions.append(junction)
            self._add(source, junction.name, segment, links[:done], delayed, 0, biased)
            source, start, at, delayed, links = junction.name, end, middle_grid, False, rest

    def _longest(self, start: Node, grid: Grid, links: list[Link]) -> tuple[int, Segment]:
        """Return how many of the links one projection can do, the most there are, and the projection."""
        for count in range(len(links), -1, -1):
            segment = self._linker.segment(start, grid, links[:count])
            if segment is not None:
                return count, segment
        raise AssertionError("no links are the identity")

    def _renumbering(self, source: Grid, target: Grid) -> Synapses:
        return synapses_of(Wires.identity(size_of(source)), source, target, "renumbering")

    def _add(
        self,
        source: str,
        target: str,
        segment: Segment,
        links: Sequence[Link],
        delayed: bool,
        port: int,
        biased: bool,
    ) -> None:
        label = self._layer_name(links) or f"{source} to {target}"
        self._projections.append(
            Projection(
                self._unique(label) if label in self._projection_names else label,
                source,
                target,
                segment.synapses,
                constant=segment.constant,
                biased=biased,
                source_gain=tuple(self._gain(node, segment.synapses.source) for node in segment.before),
                target_gain=tuple(self._gain(node, segment.synapses.target) for node in segment.after),
                delayed=delayed,
                port=port,
            )
        )

    @property
    def _projection_names(self) -> set[str]:
        return {projection.name for projection in self._projections}

    def _gain(self, node: Node, grid: Grid) -> int:
        return self.gains.setdefault((node, grid), len(self.gains))

    # -- names -----------------------------------------------------------------------------------------

    def _layer_name(self, links: Sequence[Link]) -> str:
        for link in links:
            piece = self._linker.piece(link)
            if piece is not None and piece.kind not in ("mask", "constant"):
                return self._recording.places[link.node].module if link.node in self._recording.places else ""
        return ""

    def _label(self, node: Node) -> str:
        place = self._recording.places.get(node)
        name = plain_name(node)
        return f"{place.module}.{name}" if place is not None and place.module else name

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name} ({self._names[name]})"


def _complement(node: Node) -> Node | None:
    """Return x of 1 - x, None for anything else."""
    name, args = plain_name(node), node.args
    if name == "rsub" and args[1] == 1 and not node.kwargs:
        return args[0]
    if name in ("sub", "subtract") and args[0] == 1:
        return args[1]
    return None
