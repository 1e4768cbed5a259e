"""All timesteps of a recording as one: what a cell gets must be the same expression in every timestep.

An expression leads from operators down to spikes of cells in this timestep or the last one, to values that are encoded
from the input, and to parameters. Its tensors hold one timestep, (B, ...), or all of them, (T, B, ...) or (T * B, ...);
stacking timesteps and taking the t-th lead from one to the other.
"""

import math
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from snn_async.capture.cells import SAME, Cell, changed_in_place, timesteps_of
from snn_async.capture.kinds import (
    ZEROS,
    Dependencies,
    Kind,
    is_dropout,
    name_of,
    shape_of,
    tensors_in,
    value_of,
)
from snn_async.capture.operators import ADDITIONS, carries_weights, data_of, plain_name
from snn_async.capture.recording import FUNCTION, Recording
from snn_async.errors import UnsupportedModelError

Time = int | None  # a timestep, or None for all of them


class Sent(NamedTuple):
    """What a node is that a cell gave: how many timesteps ago, and 0 for its spikes or k for its state k - 1."""

    cell: Cell
    ago: int
    what: int


class Fold:
    """One timestep that stands for all: the last, in which what comes from the timestep before is seen.

    Attributes:
        cells: the populations.
        steps, samples: T and B.
        last: the timestep that stands for all.
        where: per call, its cell and timestep.
        times: of every node of the core, the timestep it holds, None for all.
        leaves: per encoded value that enters the core, its node in every timestep; one node if it holds all of them.
        varying: per expression of parameters that is another one in each timestep, its node in every one.
        dropouts: the same for dropouts within the core.
        memories: values that the model carries from one timestep to the next outside of neurons (a synaptic current
            that decays), by the node that holds the one before: the node of the new one.
    """

    def __init__(self, recording: Recording, dependencies: Dependencies, cells: list[Cell]) -> None:
        self.recording, self.dependencies, self.cells = recording, dependencies, cells
        self.steps = timesteps_of(recording, cells)
        self.last = self.steps - 1
        shape = shape_of(cells[0].calls[0].args[0])
        self.samples = shape[1] if cells[0].sequence else shape[0]
        self.where = {call: (cell, t) for cell in cells for t, call in enumerate(cell.calls)}
        self._without_gradient = all(call.meta["no_grad"] for cell in cells for call in cell.calls)
        self._sequences = {self.current(cell) for cell in cells if cell.sequence}
        self._sequences |= {n for n in recording.graph.nodes if (s := self.sent(n, None)) and s.cell.sequence}
        self.memories: dict[Node, Node] = {}
        while (found := self._fold()) is not None:
            self.memories[found[0]] = found[1]

    def _fold(self) -> tuple[Node, Node] | None:
        """Compare all timesteps; return a memory that was found, before and after, and is to be known first."""
        self.times: dict[Node, Time] = {}
        self.leaves: dict[Node, list[Node]] = {}
        self.varying: dict[Node, list[Node]] = {}
        self.dropouts: dict[Node, list[Node]] = {}
        self._held: dict[Node, list[Node | None]] = {}  # per new memory, its node in every timestep
        for after in self.memories.values():
            self._held[after] = [None] * self.last + [after]
        starts = [(cell, self.current(cell), None if cell.sequence else self.last) for cell in self.cells]
        starts += [(self.cells[0], after, self.last) for after in self.memories.values()]
        for cell, node, time in starts:
            found = self._walk(cell, node, time)
            if found is not None:
                return found
        for t in self._earlier():
            for cell in self.cells:
                if not cell.sequence:
                    found = self._compare(cell, cell.calls[t].args[0], t, self.current(cell))
                    if found is not None:
                        return found
        for before, after in self.memories.items():
            steps = self._held[after]
            if steps[self.last - 1] is not before:
                raise self._differ(self.cells[0], self.last - 1, before, after)
        return None

    # -- what nodes are --------------------------------------------------------------------------------

    def current(self, cell: Cell) -> Node:
        """Return what a cell gets."""
        return cell.calls[-1].args[0]

    def slots(self, node: Node) -> int:
        """Return how many rows a node of the core holds, one for each sample in each of its timesteps."""
        return self.samples * (self.steps if self.times[node] is None else 1)

    def sample_shape(self, node: Node) -> tuple[int, ...]:
        """Return the shape of one sample in one timestep of a node of the core.

        Raises:
            UnsupportedModelError: for a tensor that does not hold so many samples.
        """
        shape, slots = shape_of(node), self.slots(node)
        whole = self.times[node] is None and shape[:2] == (self.steps, self.samples)
        if whole and (self.samples > 1 or node in self._sequences):
            return shape[2:] or (1,)
        if shape[:1] == (slots,):
            return shape[1:] or (1,)
        if whole:
            return shape[2:] or (1,)
        if math.prod(shape) % slots:
            raise UnsupportedModelError(
                f"{self.recording.place(node)}: a tensor of shape {shape} between neurons does not hold {slots} "
                "samples and timesteps each by itself; keep the batch (and time) in front"
            )
        return (math.prod(shape) // slots,)

    def sent(self, node: Node, time: Time) -> Sent | None:
        """Return what a node is that a cell gave, if it is."""
        if node.target is not getitem or node.args[0] not in self.where:
            return None
        cell, at = self.where[node.args[0]]
        return Sent(cell, 0 if time is None else time - at, int(node.args[1]))

    def is_leaf(self, node: Node, time: Time) -> bool:
        """Return whether the core begins at a node: what cells send, encoded values, parameters."""
        kind = self.dependencies.kinds[node]
        if kind == Kind.CORE:
            return node in self.memories or self.sent(node, time) is not None
        return kind == Kind.LIVE or not (
            self._holds_rows(node, time) and carries_weights(node, self.dependencies)
        )

    def _holds_rows(self, node: Node, time: Time) -> bool:
        """Return whether an encoded node, and what it is made of, have their samples and timesteps in front."""

        def holds(node: Node) -> bool:
            if not isinstance(value_of(node), Tensor):
                return True
            shape, steps = shape_of(node), 1 if time is not None else self.steps
            return shape[:1] == (steps * self.samples,) or (
                time is None and shape[:2] == (steps, self.samples)
            )

        data = data_of(node, self.dependencies)
        return all(holds(n) for n in (node, *data) if self.crossing(node, time) is None or n is node)

    def crossing(self, node: Node, time: Time) -> tuple[Node, Time] | None:
        """Return the operand, and its timestep, of a node that takes one timestep of all, or stacks them."""
        name, args = plain_name(node), node.args
        if time is not None:
            if name == "select" and args[1] == 0 and args[2] == time:
                return self._sequence(args[0])
            if node.target is getitem and args[1] == time and name_of(args[0]) == "unbind":
                source, *dim = args[0].args
                return self._sequence(source) if dim in ([], [0]) else None
            return None
        if (
            name not in ("stack", "cat", "concat")
            or (args[1:] and args[1] != 0)
            or len(args[0]) != self.steps
        ):
            return None
        parts = list(args[0])
        if name != "stack":
            if any(plain_name(part) != "unsqueeze" or part.args[1] != 0 for part in parts):
                return None
            return parts[-1].args[0], self.last
        return parts[-1], self.last

    def _sequence(self, node: Any) -> tuple[Node, Time] | None:
        """Return a node of the core that holds all timesteps, None for any other."""
        holds_all = shape_of(node)[:2] == (self.steps, self.samples)
        return (node, None) if holds_all and self.dependencies.kinds[node] != Kind.LIVE else None

    def _parts(self, node: Node) -> list[Node]:
        """Return what a stack is made of, timestep by timestep."""
        parts: Any = list(node.args[0])
        return parts if plain_name(node) == "stack" else [part.args[0] for part in parts]

    # -- walking ---------------------------------------------------------------------------------------

    def _walk(self, cell: Cell, node: Node, time: Time) -> tuple[Node, Node] | None:
        """Visit an expression of a cell, down to the leaves; the result is that of `_compare`."""
        stack: list[tuple[Node, Time]] = [(node, time)]
        stacks: list[list[Node]] = []
        while stack:
            node, time = stack.pop()
            if node in self.times:
                continue
            self.times[node] = time
            if self.is_leaf(node, time):
                if self.dependencies.kinds[node] == Kind.ENCODE:
                    self.leaves[node] = [node] if time is None else [node] * self.steps
                continue
            if node in self.dependencies.changed:
                raise changed_in_place(self.recording, self.dependencies.changed[node])
            self._check_gradient(node)
            if is_dropout(node):
                self.dropouts[node] = [node] if time is None else [node] * self.steps
            crossing = self.crossing(node, time)
            if time is None:
                self._check_constant(node)
            if crossing is None:
                stack += [(operand, time) for operand in reversed(tensors_in((node.args, node.kwargs)))]
                continue
            stack.append(crossing)
            if time is None:
                stacks.append(self._parts(node))
        for parts in stacks:
            for t in self._earlier():
                found = self._compare(cell, parts[t], t, parts[-1])
                if found is not None:
                    return found
        return None

    def _check_gradient(self, node: Node) -> None:
        """Raise UnsupportedModelError for a node of the core that cuts the gradient."""
        if name_of(node) == "detach" or (node.meta["no_grad"] and not self._without_gradient):
            raise UnsupportedModelError(
                f"{self.recording.place(node)}: {'detach' if not node.meta['no_grad'] else 'no_grad'} between neurons "
                "cuts the gradient of events; detach states or the result instead, or take parameters' gradients away"
            )

    def _check_constant(self, node: Node) -> None:
        """Raise UnsupportedModelError for an operator on all timesteps with a weight of its own for each of them."""
        shape = shape_of(node) if isinstance(value_of(node), Tensor) else ()
        if plain_name(node) not in ADDITIONS | {"mul", "multiply", "div", "divide", "true_divide"}:
            return
        for operand in tensors_in(node.args):
            own = shape_of(operand)
            live = self.dependencies.kinds[operand] == Kind.LIVE and len(own) == len(shape)
            if live and own[0] == self.steps > 1 and shape[:2] == (self.steps, self.samples):
                raise UnsupportedModelError(
                    f"{self.recording.place(node)}: {plain_name(node)} takes a tensor of shape {own}, with a value for "
                    "each timestep, on all of them at once; do it in a time loop (step_mode 's'), where timesteps may "
                    "differ in their parameters' values"
                )

    def _earlier(self) -> list[int]:
        """Return the timesteps before the last one, the one in which memories are found first."""
        return [self.last - 1, *range(self.last - 1)] if self.steps > 1 else []

    def _compare(self, cell: Cell, first: Node, t: int, last: Node) -> tuple[Node, Node] | None:
        """Raise UnsupportedModelError unless a cell gets the same in timestep t as in the last one.

        Returns:
            A memory, before and after, whose comparison has no end unless it is known.
        """
        seen: set[tuple[Node, Node]] = set()
        stack = [(first, last)]
        while stack:
            now, then = stack.pop()
            if (now, then) in seen:
                continue
            seen.add((now, then))
            if t == self.last - 1 and self._is_before(now, then):
                return now, then
            if then in self._held:
                self._held[then][t] = now
            if then in self.memories:
                steps = self._held[self.memories[then]]
                if not (self._is_rest(now) if t == 0 else steps[t - 1] in (now, None)):
                    raise self._differ(cell, t, now, then)
                continue
            stack += self._same(cell, t, now, then)
        return None

    def _is_before(self, now: Node, then: Node) -> bool:
        """Return whether a node of the last timestep is made of its own value one timestep before."""
        if now is then or self.dependencies.kinds[now] != Kind.CORE or then in self.memories:
            return False
        return self.times.get(now, None) is not None and not self.is_leaf(now, self.last)

    def _same(self, cell: Cell, t: int, now: Node, then: Node) -> list[tuple[Node, Node]]:
        """Return the operands that must be the same as well."""
        kinds = self.dependencies.kinds
        sent, sent_then = self.sent(now, t), self.sent(then, self.last)
        if sent_then is not None:
            at_start = (
                sent_then.ago > t and kinds[now] != Kind.CORE
            )  # what stands for spikes before the first ones
            if sent == sent_then or (at_start and self._is_rest(now)):
                return []
            raise self._differ(cell, t, now, then)
        if kinds[then] == Kind.ENCODE and self.is_leaf(then, self.last):
            if kinds[now] == Kind.CORE or value_of(now).shape != value_of(then).shape:
                raise self._differ(cell, t, now, then)
            self.leaves.setdefault(then, [then] * self.steps)[t] = now
            return []
        crossing = self.crossing(then, self.last)
        if crossing is not None:
            if self.crossing(now, t) != crossing:
                raise self._differ(cell, t, now, then)
            return []
        if now is then:
            return []
        if kinds[now] == kinds[then] == Kind.LIVE:
            if not self._equal(now, then):
                if value_of(now).shape != value_of(then).shape or not value_of(then).is_floating_point():
                    raise self._differ(cell, t, now, then)
                self.varying.setdefault(then, [then] * self.steps)[t] = now
            return []
        if is_dropout(then):
            self.dropouts.setdefault(then, [then] * self.steps)[t] = now
        pairs = _pairs(now, then, self.recording.constants)
        if pairs is None:
            raise self._differ(cell, t, now, then)
        return pairs

    def _equal(self, now: Node, then: Node) -> bool:
        """Return whether two nodes of parameters alone are the same expression."""
        if now is then:
            return True
        pairs = _pairs(now, then, self.recording.constants)
        return pairs is not None and all(self._equal(a, b) for a, b in pairs)

    def _is_rest(self, node: Node) -> bool:
        while name_of(node) in SAME and node.args:
            node = node.args[0]
        filled = name_of(node) in ("full", "full_like", "new_full") and node.args[-1] == 0
        return name_of(node) in ZEROS or filled

    def _differ(self, cell: Cell, t: int, now: Node, then: Node) -> UnsupportedModelError:
        places = " and ".join(dict.fromkeys((self._words(now), self._words(then))))
        weights = self.dependencies.kinds[now] == self.dependencies.kinds[then] == Kind.LIVE
        layers = (
            f" (if {cell.name!r} serves several layers, give each a neuron of its own)" if weights else ""
        )
        return UnsupportedModelError(
            f"timesteps {t} and {self.last} differ in what reaches {cell.name!r}: {places}; every timestep must be the "
            f"same{layers}, and take from other neurons only what they sent in this timestep or the last one"
        )

    def _words(self, node: Node) -> str:
        sent = self.sent(node, None)
        what = f"{sent.cell.name!r}" if sent is not None else name_of(node) or self._given(node)
        return f"{what} at {self.recording.place(node)}"

    def _given(self, node: Node) -> str:
        names = dict(zip(self.recording.graph.nodes, self.recording.parameters, strict=False))
        return names.get(node, node.name)


def _pairs(now: Node, then: Node, constants: dict[str, Any]) -> list[tuple[Node, Node]] | None:
    """Return the operands of two nodes side by side, None if the operators or their settings differ."""
    if now.op == then.op == "get_attr":
        a, b = constants[now.target], constants[then.target]
        return [] if a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)) else None
    if now.target is not then.target or now.op != then.op or now.op == "placeholder":
        return None
    own, own_spec = pytree.tree_flatten(_settings(now))
    others, other_spec = pytree.tree_flatten(_settings(then))
    if own_spec != other_spec:
        return None
    pairs = []
    for a, b in zip(own, others, strict=True):
        if isinstance(a, Node) and isinstance(b, Node):
            pairs.append((a, b))
        elif type(a) is not type(b) or a != b:
            return None
    return pairs


def _settings(node: Node) -> Any:
    """Return what an operator is called with."""
    if node.target is FUNCTION:
        return node.args[0], node.meta["function"].kind
    return node.args, node.kwargs
