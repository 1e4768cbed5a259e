"""Functions and methods in a traced forward: which are known, and what they do to a signal."""

import operator
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import fx, nn

from snn_async.adapters.libraries import describe
from snn_async.adapters.signals import Argument, Constant, Fired, Potential, Recording, Shape, Signal, Size
from snn_async.errors import UnsupportedModelError

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
}
_WAYS_OUT = {
    "add": "no sums of spikes or currents (skip or recurrent connections) yet; count or average spikes "
    "on the result of net(x)",
    "cat": "no joined populations yet",
    "dropout": "use an nn.Dropout module",
    "linear": "use an nn.Linear module",
    "norm": "fold it into the Linear before it, as w * g / sqrt(var + eps)",
    "conv": "only fully connected layers are supported",
    "pool": "only fully connected layers are supported",
    "softmax": "apply it to the result of net(x)",
    "sum": "apply it to the result of net(x)",
    "mean": "apply it to the result of net(x)",
    "div": "apply it to the result of net(x)",
}


class Operations:
    """The functions and methods of one traced forward; a node's values are those of `signals`.

    Attributes:
        multi_step: whether the model's tensors are (T, B, ...) rather than (B, ...).
    """

    multi_step = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = dict(model.named_modules())

    def _refuse(self, node: fx.Node, reason: str) -> NoReturn:
        raise UnsupportedModelError(f"{self._name(node)}{node.meta['line']}: {reason}")

    def _name(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"module {describe(str(node.target), self.modules[str(node.target)])}"
        kind = "method" if node.op == "call_method" else "function"
        name = getattr(node.target, "__name__", str(node.target))
        inside = node.meta["inside"]
        return f"{kind} {name!r} in {describe(inside, self.modules.get(inside, self.model))}"

    def _unsupported(self, node: fx.Node, name: str) -> NoReturn:
        way_out = next((text for key, text in _WAYS_OUT.items() if key in name.lower()), None)
        self._refuse(
            node, "not supported; " + (way_out or "rewrite the model without it, or apply it to net(x)")
        )

    def _call_function(self, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
        operation = _OPERATIONS.get(node.target)
        if operation is None:
            self._unsupported(node, getattr(node.target, "__name__", str(node.target)))
        try:
            return getattr(self, f"_op_{operation}")(node, *args, **kwargs)
        except UnsupportedModelError:
            raise
        except TypeError as error:
            self._refuse(node, f"not supported with these arguments ({error})")

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
        if isinstance(value, Signal) and isinstance(value.source, Argument) and isinstance(index, int):
            if value.flat == 2 and not value.layers:
                return replace(value, flat=1, source=self._op_item(node, value.source, index))
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
        argument = value.source if isinstance(value, Signal) else value
        indexed = len(argument.path) if isinstance(argument, Argument) else 0
        if dimension is not None and dimension < 0:
            self._refuse(node, "give the dimension from the front")
        return Shape(indexed) if dimension is None else Size(indexed + dimension)

    def _op_unchanged(self, node: fx.Node, value: Any) -> Any:
        if not isinstance(value, Argument | Signal):
            self._unsupported(node, str(node.target))
        return value

    def _op_zeros(self, node: fx.Node, *args: Any, **kwargs: Any) -> Constant:
        return Constant(str(node.target))

    def _op_stack(self, node: fx.Node, values: Any, dim: int = 0) -> Recording:
        if isinstance(values, list | tuple) and dim == 0:
            return Recording(tuple(values))
        if isinstance(values, Potential) and dim == 0 and self.multi_step:
            return Recording((values,))
        self._refuse(node, "only lists of one value per step are stacked, time first (dim=0)")

    def _op_flatten(self, node: fx.Node, value: Any, start_dim: int = 0, end_dim: int = -1) -> Signal:
        if end_dim != -1:
            self._refuse(node, f"end_dim={end_dim}: only all features are flattened, end_dim=-1")
        return self._flatten(node, value, start_dim + self._hidden_dimensions(node))

    def _op_reshape(self, node: fx.Node, value: Any, *shape: Any) -> Signal:
        if len(shape) == 1 and isinstance(shape[0], tuple | list):
            shape = tuple(shape[0])
        hidden = self._hidden_dimensions(node)
        leading, last = shape[:-1], shape[-1] if shape else None
        signal = self._signal(node, value)
        indexed = len(signal.source.path) if isinstance(signal.source, Argument) else 0
        sizes = [size.dimension - indexed if isinstance(size, Size) else i for i, size in enumerate(leading)]
        if len(leading) == 1 + self.multi_step - hidden and sizes == list(range(len(leading))):
            if last == -1 and all(isinstance(size, Size | int) and size != -1 for size in leading):
                return self._flatten(node, signal, len(leading) + hidden)
            if leading == (-1,) and isinstance(last, int) and last > 0:
                return replace(self._flatten(node, signal, 1 + hidden), features=last)
        self._refuse(node, "only (batch, -1) is supported, which flattens each sample")

    def _flatten(self, node: fx.Node, value: Any, start: int) -> Signal:
        signal = self._signal(node, value)
        timed = self.multi_step
        raw = isinstance(signal.source, Argument) and not signal.source.path and not signal.layers
        if start == 2 and not timed and raw:
            return replace(signal, flat=2)
        if start != 1 + timed:
            self._refuse(
                node,
                f"flattens from dimension {start}, but a sample's features begin at {1 + timed}: use "
                f"nn.Flatten({1 + timed})" + (", or layer.Flatten(step_mode='m')" if timed else ""),
            )
        features = isinstance(signal.source, Fired) or signal.layers
        return signal if features else replace(signal, flat=1)

    def _hidden_dimensions(self, node: fx.Node) -> int:
        """Return 1 inside a multi-step container, whose modules do not see the time dimension."""
        return int(node.meta["container"] is not None)

    def _signal(self, node: fx.Node, value: Any) -> Signal:
        if isinstance(value, Argument):
            return Signal(value)
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
        if not isinstance(value, Signal):
            self._refuse(node, f"it gets a {type(value).__name__.lower()}, not spikes or the input")
        return value
