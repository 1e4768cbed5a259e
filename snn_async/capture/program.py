"""What runs before the events and after them: the recorded operators, with values of a run.

The nodes that no neuron reaches run first (encode), with the parameters as they are now and new random numbers; those
that lead from neurons to the result run last (decode). What lies between is the graph that engines run.
"""

from collections.abc import Mapping, Sequence
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from snn_async.capture.assembling import Assembly
from snn_async.capture.expression import Values, run_node
from snn_async.capture.folding import Fold
from snn_async.capture.kinds import Kind, is_dropout, name_of, shape_of, storage_of, value_of
from snn_async.capture.recording import NEURON
from snn_async.capture.remembering import Memories
from snn_async.graph.grids import from_units, to_units
from snn_async.graph.live import Found

Shown = tuple[str, str | int]  # a population, "spikes" or the number of a state


class Encoded(NamedTuple):
    """What a run begins with.

    Attributes:
        values: of nodes.
        x: (T, B, S), the network's inputs one after another, in unit order.
        gains: (T, B, n) factors, in unit order.
        states: per population, the states that the model gives it, in unit order; () to start from rest.
        found: live values, one for all timesteps or one for each.
        memories: what is carried on besides neurons' states; they are the last of the inputs, and not in `x`.
    """

    values: Values
    x: Tensor
    gains: tuple[Tensor, ...]
    states: dict[str, tuple[Tensor, ...]]
    found: tuple[Found, ...]
    memories: Memories | None


class Program:
    """A recording's operators before and after the events.

    Attributes:
        shown: what decode needs of the run.
        steps, samples: T and B.
    """

    def __init__(self, fold: Fold, assembly: Assembly) -> None:
        self._fold, self._assembly = fold, assembly
        recording, dependencies = fold.recording, fold.dependencies
        self.steps, self.samples = fold.steps, fold.samples
        self._dtype = value_of(fold.current(fold.cells[0])).dtype
        nodes = list(recording.graph.nodes)
        placeholders = [node for node in nodes if node.op == "placeholder"]
        count = len(recording.parameters)
        self._parameters, self._inputs = placeholders[:count], placeholders[count:]
        self._outputs = [n for n in pytree.tree_leaves(nodes[-1].args) if isinstance(n, Node)]
        written = [w for n in self._outputs for w in dependencies.writers.get(storage_of(n), ())]
        self._wanted = [*self._outputs, *written]
        self._sent = self._sent_to_result()
        self.shown: tuple[Shown, ...] = tuple(dict.fromkeys(what for _, what, _ in self._sent))
        self._gains = {node: _Column(self._over_time(node), False) for node, _ in assembly.gains}
        self._leaves = [_Column(fold.leaves[node], True) for node in assembly.inputs if node in fold.leaves]
        self._initial = {cell.name: cell.initial for cell in fold.cells if cell.initial is not None}
        stops = {node for node, _, _ in self._sent}
        needed = self._closure(self._wanted, stops)
        self._after = [
            n for n in nodes if n in needed and n not in stops and dependencies.kinds[n] == Kind.CORE
        ]
        wanted = [n for n in needed if dependencies.kinds[n] != Kind.CORE]
        wanted += [n for column in self._leaves for n in column.nodes]
        wanted += [n for states in self._initial.values() for n in states]
        wanted += [n for node, column in self._gains.items() for n in column.nodes if not is_dropout(node)]
        wanted += [n for node in assembly.lives.nodes for n in fold.varying.get(node, [node])]
        self._run_before = before = dependencies.closure(wanted)
        self._drawn = {
            n: node for node, column in self._gains.items() if is_dropout(node) for n in column.nodes
        }
        self._before = [n for n in nodes if (n in before or n in self._drawn) and n.op == "call_function"]
        self._constants = {n: recording.constants[n.target] for n in nodes if n.op == "get_attr"}

    def _sent_to_result(self) -> list[tuple[Node, Shown, int | None]]:
        """Return what neurons send or hold that the result is made of: node, which, and in which call."""
        reached = self._closure(self._wanted, set(), through_neurons=False)
        found = []
        for node in self._fold.recording.graph.nodes:
            if node in reached and node.target is getitem and node.args[0] in self._fold.where:
                cell, t = self._fold.where[node.args[0]]
                what = int(node.args[1])
                found.append(
                    (node, (cell.name, what - 1 if what else "spikes"), None if cell.sequence else t)
                )
        return found

    def _closure(self, wanted: Sequence[Node], stops: set[Node], through_neurons: bool = True) -> set[Node]:
        found: set[Node] = set()
        stack = [*wanted]
        while stack:
            node = stack.pop()
            if node in found:
                continue
            found.add(node)
            if node not in stops and (through_neurons or node.target is not NEURON):
                stack += self._fold.dependencies.needs[node]
        return found

    def _over_time(self, node: Node) -> list[Node]:
        """Return the nodes of a factor in every timestep."""
        fold = self._fold
        if is_dropout(node):
            return fold.dropouts[node]
        operand = next(n for n in node.args[:2] if isinstance(n, Node) and n in fold.leaves)
        return fold.leaves[operand]

    # -- before ----------------------------------------------------------------------------------------

    def encode(self, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Encoded:
        """Run what no neuron reaches.

        Args:
            tensors: the model's parameters and buffers by name.
            inputs: the tensors among its arguments.
        """
        values: Values = dict(self._constants)
        names = self._fold.recording.parameters
        values |= {node: tensors[name] for node, name in zip(self._parameters, names, strict=True)}
        values |= dict(zip(self._inputs, inputs, strict=True))
        drawn: Values = {}  # masks, in the order in which the model draws them
        for node in self._before:
            if node in self._drawn:
                drawn[node] = self._mask(node, inputs)
            if node in self._run_before:
                values[node] = run_node(node, values)
        grids = self._assembly.graph.input_grids
        parts = [
            to_units(self._stacked(column, [values[n] for n in column.nodes]), grid).to(self._dtype)
            for column, grid in zip(self._leaves, grids.values(), strict=False)
        ]
        found = self._found(values)
        factors = {
            node: self._stacked(
                column,
                [
                    drawn[n] if is_dropout(node) else values[n].detach().expand(shape_of(node))
                    for n in column.nodes
                ],
            )
            for node, column in self._gains.items()
        }
        return Encoded(
            values=values,
            x=torch.cat(parts, 2) if len(parts) != 1 else parts[0],
            gains=tuple(to_units(factors[node], grid) for node, grid in self._assembly.gains),
            states={
                name: tuple(to_units(values[n].reshape(self.samples, -1), self._grid(name)) for n in nodes)
                for name, nodes in self._initial.items()
            },
            found=found,
            memories=Memories(self._assembly.memories, found) if self._assembly.memories else None,
        )

    def _found(self, values: Values) -> tuple[Found, ...]:
        """Return the live values, in every timestep if some are others in each."""
        lives, varying = self._assembly.lives.nodes, self._fold.varying
        steps = range(self.steps) if not varying.keys().isdisjoint(lives) else [self.steps - 1]
        return tuple(tuple(values[varying[n][t] if n in varying else n] for n in lives) for t in steps)

    def _mask(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Return what a dropout makes of ones."""
        like = next((v for v in inputs if v.is_floating_point()), torch.zeros(()))
        mask: Tensor = node.target(like.new_ones(shape_of(node)), *node.args[1:], **node.kwargs)
        return mask

    def _stacked(self, column: "_Column", values: Sequence[Tensor]) -> Tensor:
        """Return (T, B, n) of a value in every timestep."""
        if column.along is not None:
            return values[0].movedim(column.along, 0).reshape(self.steps, self.samples, -1)
        if len(values) == 1:
            return values[0].reshape(self.steps, self.samples, -1)
        if all(value is values[0] for value in values):
            return values[0].reshape(1, self.samples, -1).expand(self.steps, -1, -1)
        return torch.stack([value.reshape(self.samples, -1) for value in values])

    def _grid(self, name: str) -> Any:
        return self._assembly.graph.nodes[name].grid

    # -- after -----------------------------------------------------------------------------------------

    def decode(self, encoded: Encoded, shown: Mapping[Shown, Tensor]) -> Any:
        """Return what the model returns, given what neurons sent and held, (T, B, size) in unit order each."""
        values = dict(encoded.values)
        for node, what, t in self._sent:
            found = from_units(shown[what] if t is None else shown[what][t], self._grid(what[0]))
            values[node] = found.reshape(shape_of(node))
        for node in self._after:
            values[node] = run_node(node, values)
        outputs = iter([values[node] for node in self._outputs])
        leaves, spec = pytree.tree_flatten(self._fold.recording.result)
        return pytree.tree_unflatten([next(outputs) if isinstance(v, Tensor) else v for v in leaves], spec)


class _Column:
    """A value in every timestep.

    Attributes:
        nodes: one for each timestep, or one of all of them.
        along: if the timesteps are all that a tensor holds, its side of time; `nodes` is then that tensor.

    Args:
        whole: whether to look for such a tensor.
    """

    def __init__(self, nodes: Sequence[Node], whole: bool) -> None:
        self.nodes, self.along = nodes, None
        first = nodes[0]
        if not whole or name_of(first) != "select":
            return
        base, along = first.args[:2]
        slices = [(n.args[0], *n.args[1:3]) if name_of(n) == "select" else None for n in nodes]
        if shape_of(base)[along] == len(nodes) and slices == [(base, along, t) for t in range(len(nodes))]:
            self.nodes, self.along = [base], along
