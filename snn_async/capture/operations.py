"""Functions and methods in a traced forward: which are known, and what they do to a value."""

import operator
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.nn import functional

from snn_async.capture.expressions import (
    Applied,
    Argument,
    Complement,
    Constant,
    Delayed,
    Expression,
    Fired,
    Potential,
    Product,
    Recording,
    Shape,
    Size,
    Sum,
    operands,
)
from snn_async.capture.layers import BAD_SETTINGS, FlattenLayer
from snn_async.errors import SnnAsyncError, UnsupportedModelError
from snn_async.frameworks.libraries import UnreadError, describe

_OPERATIONS: dict[Any, str] = {
    operator.getitem: "item",
    getattr: "attribute",
    torch.flatten: "flatten",
    "flatten": "flatten",
    torch.reshape: "reshape",
    "reshape": "reshape",
    "view": "reshape",
    "size": "size",
    "contiguous": "unchanged",
    "float": "unchanged",
    torch.stack: "stack",
    torch.zeros_like: "zeros",
    torch.zeros: "zeros",
    "new_zeros": "zeros",
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), "add"),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_", "rsub", torch.rsub), "sub"),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), "mul"),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), "div"),
    functional.max_pool1d: "max_pool1d",
    functional.max_pool2d: "max_pool2d",
    torch.max_pool1d: "max_pool1d",
    torch.max_pool2d: "max_pool2d",
    functional.avg_pool1d: "avg_pool1d",
    functional.avg_pool2d: "avg_pool2d",
    functional.adaptive_avg_pool1d: "adaptive_avg_pool1d",
    functional.adaptive_avg_pool2d: "adaptive_avg_pool2d",
    functional.adaptive_max_pool1d: "adaptive_max_pool1d",
    functional.adaptive_max_pool2d: "adaptive_max_pool2d",
    functional.interpolate: "interpolate",
}
_ADD_UP = "it is not linear: currents of events must add up; put a spiking neuron there"
_FINAL = {
    **dict.fromkeys(
        ("relu", "sigmoid", "tanh", "gelu", "silu", "softmax", "softplus", "clamp", "abs", "exp", "where"),
        _ADD_UP,
    ),
    **dict.fromkeys(
        ("max", "min", "argmax", "maximum", "gt", "ge", "lt", "le", "eq", "sign", "heaviside"), _ADD_UP
    ),
    **dict.fromkeys(
        ("rand", "rand_like", "randn", "randn_like", "bernoulli"),
        "it draws random numbers; draw them before the network, or use nn.Dropout",
    ),
}
_WAYS_OUT = {
    "cat": "populations are not joined side by side; give each a layer of its own and add the results",
    "stack": "populations are not joined side by side; give each a layer of its own and add the results",
    "dropout": "use an nn.Dropout module",
    "linear": "use an nn.Linear module",
    "batch_norm": "use an nn.BatchNorm1d or nn.BatchNorm2d module",
    "norm": "fold it into the layer before it, as w * g / sqrt(var + eps)",
    "conv": "use an nn.Conv1d or nn.Conv2d module",
    "pool": "use nn.MaxPool2d, nn.AvgPool2d or their adaptive and 1d forms",
    "mean": "return every timestep and take net(x).mean(0)",
    "sum": "return every timestep and take net(x).sum(0)",
}


_VIEWS = {"flatten", "reshape", "unchanged", "item"}  # operations that may share their operand's memory
_IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv}


class Operations:
    """The functions and methods of one traced forward; a node's values are `expressions`.

    Attributes:
        multi_step: whether the model's tensors are (T, B, ...) rather than (B, ...).
    """

    multi_step = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules())

    def _refuse(self, node: fx.Node, reason: str) -> NoReturn:
        raise UnsupportedModelError(f"{self._place(node)}: {reason}")

    def _place(self, node: fx.Node) -> str:
        return self._name(node) + str(node.meta["line"])

    def _label(self, node: fx.Node, name: str) -> str:
        """Return the name of what a function makes: its module's path, then its own name."""
        inside = node.meta["inside"]
        return f"{inside}.{name}" if inside else name

    def _name(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"module {describe(str(node.target), self.modules[str(node.target)])}"
        kind = "method" if node.op == "call_method" else "function"
        name = getattr(node.target, "__name__", str(node.target))
        inside = node.meta["inside"]
        return f"{kind} {name!r} in {describe(inside, self.modules.get(inside, self.model))}"

    def _check_in_place(self, graph: fx.Graph) -> None:
        """Refuse a change in place of a value that is read again: the graph's operations make new values."""
        before: set[fx.Node] = set()
        owners: dict[fx.Node, fx.Node] = {}
        places = {node: place for place, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            value = next((argument for argument in node.all_input_nodes), None)
            changes = value is not None and self._changes_in_place(node)
            if value is not None and (changes or self._is_view(node)):
                owners[node] = owners.get(value, value)
            if changes and value is not None:
                owner = owners[node]
                same = [other for other in before if owners.get(other, other) is owner]
                again = any(places[user] > places[node] for other in same for user in other.users)
                if again or not node.users:
                    way_out = (
                        "use inplace=False" if node.op == "call_module" else "write a = a * 3, a = a + x"
                    )
                    self._refuse(node, f"changes a value in place that is read again; {way_out}")
            before.add(node)

    def _changes_in_place(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self.modules[str(node.target)], "inplace", False))
        name = str(getattr(node.target, "__name__", node.target))
        method = name.endswith("_") and not name.endswith("__") and node.op != "placeholder"
        called = node.op in ("call_method", "call_function")
        return called and (method or node.target in _IN_PLACE or bool(node.kwargs.get("inplace")))

    def _is_view(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return type(self.modules[str(node.target)]).__name__ in ("Flatten", "Identity")
        return node.op in ("call_method", "call_function") and _OPERATIONS.get(node.target) in _VIEWS

    def _unsupported(self, node: fx.Node, name: str) -> NoReturn:
        """Refuse a function; a module of the user's that calls it may still be affine as a whole."""
        final = _FINAL.get(name.lower().rstrip("_"))
        way_out = (
            final
            or _way_out_of_reduction(node, name)
            or next((text for key, text in _WAYS_OUT.items() if key in name.lower()), None)
        )
        text = f"not supported; {way_out or 'rewrite the model without it, or apply it to net(x)'}"
        raise UnreadError(f"{self._place(node)}: {text}", None if final else node.meta["inside"])

    def _call_function(self, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
        operation = _OPERATIONS.get(node.target)
        if operation is None:
            self._unsupported(node, getattr(node.target, "__name__", str(node.target)))
        try:
            return getattr(self, f"_op_{operation}")(node, *args, **kwargs)
        except BAD_SETTINGS as error:
            if isinstance(error, SnnAsyncError):
                raise
            self._refuse(node, f"not supported with these arguments ({error}); correct them")

    _call_method = _call_function

    def _op_item(self, node: fx.Node, value: Any, index: Any) -> Any:
        if isinstance(value, tuple | list) and isinstance(index, int):
            return value[index]
        if isinstance(value, Shape) and isinstance(index, int) and index >= 0:
            return Size(value.indexed + index)
        if isinstance(index, tuple) and index and all(i in (slice(None), ...) for i in index[1:]):
            index = index[0]
        if isinstance(value, Argument) and isinstance(index, int | str):
            return replace(value, path=(*value.path, index))
        if isinstance(value, Applied) and root(value) is not None and isinstance(index, int):
            layer = value.operation
            if isinstance(layer, FlattenLayer) and layer.timed:
                return Applied(replace(layer, timed=False), self._op_item(node, value.operand, index))
            self._refuse(
                node, "indexes a frame, not a timestep; index time first, then flatten: x[step].flatten(1)"
            )
        self._refuse(
            node, "only x[step] of an input (T, B, ...) and items of states and results are supported"
        )

    def _op_attribute(self, node: fx.Node, value: Any, name: str) -> Any:
        if name != "shape":
            self._refuse(node, f"attribute {name!r} is not supported; pass the tensors themselves")
        return self._op_size(node, value)

    def _op_size(self, node: fx.Node, value: Any, dimension: int | None = None) -> Any:
        indexed = self._indexed(value)
        if dimension is not None and dimension < 0:
            self._refuse(node, "give the dimension from the front")
        return Shape(indexed) if dimension is None else Size(indexed + dimension)

    def _op_unchanged(self, node: fx.Node, value: Any) -> Any:
        return self._expression(node, value)

    def _op_zeros(self, node: fx.Node, *args: Any, **kwargs: Any) -> Constant:
        return Constant(str(node.target))

    def _op_stack(self, node: fx.Node, values: Any, dim: int = 0) -> Recording:
        if isinstance(values, list | tuple) and dim == 0:
            return Recording(tuple(values))
        if isinstance(values, Potential) and dim == 0 and self.multi_step:
            return Recording((values,))
        self._refuse(node, "only lists of one value per step are stacked, time first (dim=0)")

    def _op_flatten(self, node: fx.Node, value: Any, start_dim: int = 0, end_dim: int = -1) -> Expression:
        if end_dim != -1:
            self._refuse(node, f"end_dim={end_dim}: only all features are flattened, end_dim=-1")
        return self._flatten(node, value, start_dim + self._hidden_dimensions(node))

    def _op_reshape(self, node: fx.Node, value: Any, *shape: Any) -> Expression:
        if len(shape) == 1 and isinstance(shape[0], tuple | list):
            shape = tuple(shape[0])
        hidden = self._hidden_dimensions(node)
        leading, last = shape[:-1], shape[-1] if shape else None
        value = self._expression(node, value)
        indexed = self._indexed(value)
        sizes = [size.dimension - indexed if isinstance(size, Size) else i for i, size in enumerate(leading)]
        if len(leading) == 1 + self.multi_step - hidden and sizes == list(range(len(leading))):
            if last == -1 and all(isinstance(size, Size | int) and size != -1 for size in leading):
                return self._flatten(node, value, len(leading) + hidden)
            if leading == (-1,) and isinstance(last, int) and last > 0:
                return self._flatten(node, value, 1 + hidden, features=last)
        self._refuse(node, "only (batch, -1) is supported, which flattens each sample")

    def _flatten(self, node: fx.Node, value: Any, start: int, features: int | None = None) -> Expression:
        value = self._expression(node, value)
        timed = self.multi_step
        name = self._label(node, "flatten") if node.op != "call_module" else str(node.target)
        layer = FlattenLayer(name, self._place(node), features)
        if start == 2 and not timed and isinstance(value, Argument) and not value.path:
            return Applied(replace(layer, timed=True), value)
        if start != 1 + timed:
            self._refuse(
                node,
                f"flattens from dimension {start}, but a sample's features begin at {1 + timed}: use "
                f"nn.Flatten({1 + timed})" + (", or layer.Flatten(step_mode='m')" if timed else ""),
            )
        return Applied(layer, value)

    def _hidden_dimensions(self, node: fx.Node) -> int:
        """Return 1 inside a multi-step container, whose modules do not see the time dimension."""
        return int(node.meta["container"] is not None)

    def _indexed(self, value: Any) -> int:
        """Return how many leading dimensions of the input were indexed away."""
        argument = root(value) if isinstance(value, Expression) else None
        return 0 if argument is None else len(argument.path)

    def _expression(self, node: fx.Node, value: Any) -> Expression:
        if isinstance(value, tuple):
            self._refuse(
                node,
                "it gets a pair (spikes, potential); use init_hidden=True and output=False on the neuron "
                "before it, or unpack: spk, mem = lif(cur, mem)",
            )
        if isinstance(value, Potential):
            self._refuse(
                node, f"it gets the potential of {value.neuron!r}; only spikes go from neuron to neuron"
            )
        if isinstance(value, Complement):
            self._refuse(node, "it gets 1 - spikes, which only a product can hold: x * (1 - y)")
        if not isinstance(value, Argument | Fired | Delayed | Applied | Sum | Product):
            kind = "list" if isinstance(value, Recording) else type(value).__name__.lower()
            self._refuse(node, f"it gets a {kind}, not spikes or the input")
        return value


def _way_out_of_reduction(node: fx.Node, name: str) -> str | None:
    """Return what to use for a mean or sum that is not over time, None for others."""
    if name not in ("mean", "sum") or not node.args:
        return None
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    dims = tuple(dims) if isinstance(dims, tuple | list) else (dims,)
    value = node.args[0]
    if dims == (0,) and isinstance(value, fx.Node) and value.target is torch.stack:
        parts = value.args[0]
        if isinstance(parts, tuple | list) and len({_maker(part) for part in parts}) > 1:
            return "write a + b" if name == "sum" else "write (a + b) / 2"
        return None
    if dims in ((None,), (0,)):
        return None
    if len(dims) > 1:
        return "use nn.AdaptiveAvgPool2d(1)" + (", times the number of positions" if name == "sum" else "")
    return "use nn.AdaptiveAvgPool1d(1) for positions, or an nn.Linear with fixed weights for features"


def _maker(value: Any) -> Any:
    """Return the module or function that a node's value, or the pair that it is an item of, is made by."""
    while isinstance(value, fx.Node) and value.target is operator.getitem:
        value = value.args[0]
    return value.target if isinstance(value, fx.Node) else None


def root(value: Expression) -> Argument | None:
    """Return the argument that a value is made of alone, by layers one after another."""
    while isinstance(value, Applied):
        (value,) = operands(value)
    return value if isinstance(value, Argument) else None
