"""What is put into a stack or a prepared tensor and taken out again, as itself."""

from operator import getitem
from typing import Any

from torch import Tensor
from torch.fx import Graph, Node

from snn_async.capture.kinds import name_of, shape_of, storage_of, value_of, writes
from snn_async.capture.operators import RESHAPES, plain_name


def simplify(graph: Graph) -> None:
    """Let whoever takes an entry of a stack, or of a tensor that was filled entry by entry, get what was put there."""
    filled: dict[tuple[int, tuple[int, ...], int, int], Node] = {}
    others = {
        storage_of(written) for node in graph.nodes if (written := _written_otherwise(node)) is not None
    }
    for node in list(graph.nodes):
        entry = _unchanged(node) or _stacked(node, others) or _filled(node, filled, others)
        if entry is not None:
            node.replace_all_uses_with(entry)
            continue
        written = writes(node)
        if written is None:
            continue
        place = _place(written)
        if place is not None and place[0] not in others:
            filled[place] = node.args[1]


def _unchanged(node: Node) -> Node | None:
    """Return the operand of an operator that gives it back as it is."""
    if plain_name(node) not in RESHAPES or not isinstance(node.args[0], Node):
        return None
    before, after = value_of(node.args[0]), value_of(node)
    same = isinstance(after, Tensor) and after.shape == before.shape and after.dtype == before.dtype
    return node.args[0] if same and storage_of(node) == storage_of(node.args[0]) else None


def _written_otherwise(node: Node) -> Node | None:
    """Return what a node changes in place, unless it fills one entry of a tensor with another tensor."""
    written = writes(node)
    fills = name_of(node) == "copy_" and written is not None and _place(written) is not None
    return None if fills and shape_of(written) == shape_of(node.args[1]) else written


def _stacked(node: Node, others: set[int]) -> Node | None:
    """Return the entry of a stack that a node takes."""
    if name_of(node) == "select" and not isinstance(node.args[2], Node):
        stack, dim, index = node.args[:3]
    elif node.target is getitem and isinstance(node.args[0], Node) and name_of(node.args[0]) == "unbind":
        stack, *rest = node.args[0].args
        dim, index = rest[0] if rest else 0, node.args[1]
    else:
        return None
    if not isinstance(stack, Node) or name_of(stack) != "stack":
        return None
    parts: Any = stack.args[0]
    ndim = len(shape_of(stack))
    along = stack.args[1] if len(stack.args) > 1 else 0
    changed = storage_of(stack) in others or storage_of(parts[index]) in others
    return parts[index] if dim % ndim == along % ndim and not changed else None


def _filled(
    node: Node, filled: dict[tuple[int, tuple[int, ...], int, int], Node], others: set[int]
) -> Node | None:
    place = _place(node)
    found = None if place is None or place[0] in others else filled.get(place)
    if found is None or shape_of(found) != shape_of(node) or storage_of(found) in others:
        return None
    return found


def _place(node: Node) -> tuple[int, tuple[int, ...], int, int] | None:
    """Return which entry of which tensor a node takes."""
    if name_of(node) != "select":
        return None
    base, dim, index = node.args[:3]
    return None if isinstance(index, Node) else (storage_of(base), shape_of(base), int(dim), int(index))
