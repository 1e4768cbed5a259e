"""What torch's operators are to events: linear in them, the largest of a window, or something that must wait."""

import torch
from torch import Tensor
from torch.fx import Node

from snn_async.capture.kinds import SHAPE_ONLY, Dependencies, Kind, name_of, tensors_in, value_of

RESHAPES = {  # leave values and their order as they are
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel"),
    *("view_as", "contiguous", "clone", "alias", "_to_copy", "to", "type_as", "double", "float"),
    *("reshape_as", "lift_fresh_copy", "expand_as", "expand"),
}
MOVES = {  # take values elsewhere, unchanged, or leave them out
    *("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "select", "slice", "narrow"),
    *("cat", "concat", "stack", "hstack", "vstack", "constant_pad_nd", "pad", "flip", "roll"),
    *("index_select", "expand", "repeat", "repeat_interleave", "split", "chunk"),
    *("split_with_sizes", "unbind", "getitem", "tile", "pixel_shuffle", "pixel_unshuffle"),
    *("channel_shuffle", "rot90", "unfold", "index", "mT", "numpy_T", "diagonal", "tril", "triu"),
    *("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
    *("replication_pad3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("gather", "im2col"),
}
SUMS = {  # add values up with fixed weights
    *("sum", "mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", "cumsum", "col2im", "trace"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d"),
    *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "neg"),
}
ADDITIONS = {"add", "sub", "subtract", "rsub"}
PRODUCTS = {  # linear in each of several operands
    *("mul", "multiply", "matmul", "mm", "bmm", "mv", "einsum", "linear", "addmm", "baddbmm"),
    *("tensordot", "inner", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"),
    *("conv_transpose3d", "convolution", "outer", "kron", "dot", "addmv", "addcmul"),
}
WEIGHTED = PRODUCTS - {"mul", "multiply", "addcmul"}
MAXIMA = {"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d"}


def plain_name(node: Node) -> str:
    """Return the name of a node's operator, whether it works in place or not."""
    return name_of(node).removesuffix("_") if name_of(node)[-3:] != "__" else name_of(node)


def data_of(node: Node, dependencies: Dependencies) -> list[Node]:
    """Return the operands of a node that follow from inputs or neurons."""
    return [
        operand
        for operand in tensors_in((node.args, node.kwargs))
        if dependencies.kinds[operand] != Kind.LIVE
    ]


def is_linear(node: Node, dependencies: Dependencies) -> bool:
    """Return whether a node's value is linear, or affine, in all of its operands that follow from inputs or neurons."""
    name, data = plain_name(node), data_of(node, dependencies)
    operands = tensors_in((node.args, node.kwargs))
    if name in RESHAPES | MOVES | SUMS:
        value = value_of(node)  # a list of tensors of a split
        return not isinstance(value, Tensor) or all(value.dtype == _dtype(operand) for operand in data)
    if name in ADDITIONS:
        return True
    if name in ("div", "divide", "true_divide"):
        return data == operands[:1] and node.kwargs.get("rounding_mode") is None
    if name in PRODUCTS:
        return len(data) == 1
    if name == "batch_norm":
        return data == operands[:1] and node.args[5] is False
    return name in ("dropout", "feature_dropout")


def _dtype(node: Node) -> torch.dtype | None:
    """Return the dtype of a node's tensor, or of the first of several."""
    value = value_of(node)
    first = value if isinstance(value, Tensor) or not value else value[0]
    return first.dtype if isinstance(first, Tensor) and first.is_floating_point() else None


def has_gradient(node: Node) -> bool:
    """Return whether a gradient may pass from a node to the model's parameters or inputs."""
    stack, seen = [node], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        value = value_of(node)
        floating = not isinstance(value, Tensor) or value.is_floating_point()
        if node.op == "placeholder" and floating:
            return True
        if (
            floating
            and not node.meta["no_grad"]
            and name_of(node) not in SHAPE_ONLY | {"bernoulli", "detach"}
        ):
            stack += tensors_in((node.args, node.kwargs))
    return False


def carries_weights(node: Node, dependencies: Dependencies) -> bool:
    """Return whether an encoded value is a linear function of others with weights in it: their events are its."""
    stack = [node]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if dependencies.kinds[node] != Kind.ENCODE or not _passes(node, dependencies):
            continue
        if plain_name(node) in WEIGHTED:
            return True
        stack += data_of(node, dependencies)
    return False


def _passes(node: Node, dependencies: Dependencies) -> bool:
    """Return whether a node is a linear operator on events, or the largest of a window, with gradients."""
    if node.meta["no_grad"]:
        return False
    return is_linear(node, dependencies) or plain_name(node) in MAXIMA
