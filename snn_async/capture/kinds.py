"""What the nodes of a recording depend on: parameters alone, inputs, or neurons."""

from enum import IntEnum
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from snn_async.capture.recording import NEURON, Recording


class Kind(IntEnum):
    """What a node's value follows from; the largest of its operands'."""

    LIVE = 0  # parameters, buffers and constants alone
    ENCODE = 1  # inputs or random numbers
    CORE = 2  # what neurons send or hold


SHAPE_ONLY = {  # of their tensor operand only its shape, dtype and device are used
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "sym_size", "size"),
}
_RANDOM = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "bernoulli_", "uniform_", "normal_"),
    *("rand_like", "randn_like", "randint_like", "poisson", "multinomial", "exponential_", "random_"),
}
ZEROS = {"zeros", "zeros_like", "new_zeros"}


def name_of(node: Node) -> str:
    """Return the name of a node's operator without namespace and overload; "" for what is none."""
    packet = getattr(node.target, "overloadpacket", None)
    return "" if packet is None else packet.__name__


def value_of(node: Node) -> Any:
    """Return the fake value of a node: its shape and dtype."""
    return node.meta.get("val")


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's tensor."""
    return tuple(value_of(node).shape)


def writes(node: Node) -> Node | None:
    """Return the operand that an operator changes in place, if it does."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or name_of(node) == "detach_":
        return None
    for argument, given in zip(schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(given, Node):
            return given
    return None


class Dependencies:
    """What every node depends on, through tensors that are changed in place too.

    Attributes:
        kinds: of every node.
        needs: of every node, the nodes that must have run before it: its operands, and what wrote where it reads.
        writers: per memory (`storage_of`), what writes there, in order.
        changed: of nodes with an operand that was changed through another tensor after it was made: what changed it.
    """

    def __init__(self, recording: Recording) -> None:
        self.kinds: dict[Node, Kind] = {}
        self.needs: dict[Node, list[Node]] = {}
        first_input = len(recording.parameters)
        number = 0
        self.writers: dict[int, list[Node]] = {}
        self.changed: dict[Node, Node] = {}
        order = {node: i for i, node in enumerate(recording.graph.nodes)}
        for node in recording.graph.nodes:
            operands = node.all_input_nodes
            self.needs[node] = [] if name_of(node) in SHAPE_ONLY else [*operands]
            kind = Kind.LIVE
            if node.op == "placeholder":
                kind = Kind.LIVE if number < first_input else Kind.ENCODE
                number += 1
            elif name_of(node) not in SHAPE_ONLY:
                for operand in operands:
                    before = self.writers.get(storage_of(operand), ())
                    self.needs[node] += before
                    for writer in before:
                        if order[writer] > order[operand]:
                            self.changed[node] = writer
                    kind = max([kind, self.kinds[operand], *(self.kinds[w] for w in before)])
            if node.target is NEURON:
                kind = Kind.CORE
            if kind == Kind.LIVE and is_random(node):
                kind = Kind.ENCODE
            self.kinds[node] = kind
            written = writes(node)
            if written is not None:
                self.writers.setdefault(storage_of(written), []).append(node)

    def closure(self, wanted: list[Node]) -> set[Node]:
        """Return the nodes that must run for `wanted`, these included."""
        found: set[Node] = set()
        stack = [*wanted]
        while stack:
            node = stack.pop()
            if node not in found:
                found.add(node)
                stack += self.needs[node]
        return found


def is_random(node: Node) -> bool:
    """Return whether a node draws random numbers."""
    name = name_of(node)
    return name in _RANDOM or is_dropout(node)


def is_dropout(node: Node) -> bool:
    """Return whether a node drops values at random: a dropout in training."""
    if name_of(node).rstrip("_") not in ("dropout", "feature_dropout"):
        return False
    rate, training = node.args[1:3]
    return bool(training) and rate != 0


def storage_of(node: Node) -> int:
    """Return which memory a node's tensor lies in."""
    value = value_of(node)
    if not isinstance(value, Tensor):
        return -1 - id(node)
    return int(value.untyped_storage()._cdata)


def tensors_in(arguments: Any) -> list[Node]:
    """Return the nodes among a node's arguments."""
    return [
        leaf
        for leaf in pytree.tree_leaves(arguments, is_leaf=lambda v: isinstance(v, Node))
        if isinstance(leaf, Node)
    ]
