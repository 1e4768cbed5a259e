"""What a traced forward computes: calls of neurons, and which of their results it returns."""

import operator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import torch
from torch import fx, nn

from snn_async.adapters.libraries import adapter_of, describe
from snn_async.adapters.signals import (
    Argument,
    Call,
    Constant,
    Fired,
    Potential,
    Recording,
    Shape,
    Signal,
    Size,
)
from snn_async.errors import UnsupportedModelError
from snn_async.graph import Dropout

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
    "add": "sums of spikes or currents (skip or recurrent connections) are not supported; count or average "
    "spikes on the result of net(x)",
    "cat": "joined populations are not supported",
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


@dataclass
class Interpretation:
    """Calls per neuron module, in the order of their first call, and the values that forward returns."""

    multi_step: bool
    calls: dict[str, list[Call]] = field(default_factory=dict)
    returned: list[Any] = field(default_factory=list)


def interpret(model: nn.Module, graph: fx.Graph) -> Interpretation:
    """Follow the input through a traced forward.

    Raises:
        UnsupportedModelError: for an operation that a graph cannot hold, with its name, place and way out.
    """
    return _Interpreter(model, graph).run()


class _Interpreter:
    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.graph = graph
        self.model = model
        self.modules = dict(model.named_modules())
        self.values: dict[fx.Node, Any] = {}
        self.result = Interpretation(self._is_multi_step())
        self.states: dict[Argument, str] = {}

    def run(self) -> Interpretation:
        for node in self.graph.nodes:
            args = fx.node.map_aggregate(node.args, self._value)
            kwargs = fx.node.map_aggregate(node.kwargs, self._value)
            self.values[node] = getattr(self, f"_{node.op}")(node, *args, **kwargs)
        return self.result

    def _value(self, argument: Any) -> Any:
        return self.values[argument] if isinstance(argument, fx.Node) else argument

    def _is_multi_step(self) -> bool:
        """Whether the model takes (T, B, ...); every neuron must agree."""
        modes: dict[str, str] = {}
        for node in self.graph.nodes:
            module = self.modules.get(str(node.target)) if node.op == "call_module" else None
            adapter = adapter_of(module) if module is not None else None
            if module is None or adapter is None or not adapter.is_neuron(module):
                continue
            if node.meta["container"] == "frames":
                self._refuse(node, "a neuron in a container of stateless layers; use MultiStepContainer")
            mode = "m" if node.meta["container"] else adapter.step_mode(module)
            modes[mode] = describe(str(node.target), module)
        if len(modes) > 1:
            raise UnsupportedModelError(
                f"neurons disagree on the step mode: {modes['m']} takes [T, N, ...], {modes['s']} one "
                "step [N, ...]; use one of them throughout, with functional.set_step_mode(model, 'm')"
            )
        return "m" in modes

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
            node, "is not supported: " + (way_out or "rewrite the model without it, or apply it to net(x)")
        )

    # --- inputs and constants

    def _placeholder(self, node: fx.Node, *default: Any) -> Argument:
        return Argument(str(node.target).lstrip("*"))

    def _get_attr(self, node: fx.Node) -> Constant:
        value: Any = self.model
        for name in str(node.target).split("."):
            value = getattr(value, name)
        return Constant(str(node.target), value)

    def _output(self, node: fx.Node, value: Any) -> None:
        fx.node.map_aggregate((value,), self.result.returned.append)

    # --- functions and methods

    def _call_function(self, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
        operation = _OPERATIONS.get(node.target)
        if operation is None:
            self._unsupported(node, getattr(node.target, "__name__", str(node.target)))
        return getattr(self, f"_op_{operation}")(node, *args, **kwargs)

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
        indexed = len(argument.path) if isinstance(argument, Argument) else int(self.result.multi_step)
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
        if isinstance(values, Potential) and dim == 0 and self.result.multi_step:
            return Recording((values,))
        self._refuse(node, "only lists of one value per step are stacked, time first (dim=0)")

    def _op_flatten(self, node: fx.Node, value: Any, start_dim: int = 0, end_dim: int = -1) -> Signal:
        if end_dim != -1:
            self._refuse(node, f"end_dim={end_dim}: only all features are flattened, end_dim=-1")
        return self._flatten(node, value, start_dim + (node.meta["container"] is not None))

    def _op_reshape(self, node: fx.Node, value: Any, *shape: Any) -> Signal:
        if len(shape) == 1 and isinstance(shape[0], tuple | list):
            shape = tuple(shape[0])
        multi = self.result.multi_step and node.meta["container"] is None
        leading, last = shape[:-1], shape[-1] if shape else None
        signal = self._signal(node, value)
        indexed = len(signal.source.path) if isinstance(signal.source, Argument) else 0
        sizes = [size.dimension - indexed if isinstance(size, Size) else i for i, size in enumerate(leading)]
        if len(leading) == 1 + multi and sizes == list(range(len(leading))):
            if last == -1 and all(isinstance(size, Size | int) and size != -1 for size in leading):
                return self._flatten(node, signal, len(leading))
            if leading == (-1,) and isinstance(last, int) and last > 0:
                return replace(self._flatten(node, signal, 1), features=last)
        self._refuse(node, "only (batch, -1) is supported, which flattens each sample")

    def _flatten(self, node: fx.Node, value: Any, start: int) -> Signal:
        signal = self._signal(node, value)
        timed = self.result.multi_step
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

    # --- modules

    def _call_module(self, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
        path = str(node.target)
        module = self.modules[path]
        adapter = adapter_of(module)
        if adapter is not None and adapter.is_neuron(module):
            return self._neuron(node, module, adapter, *args, **kwargs)
        if len(args) != 1 or kwargs:
            self._refuse(node, "call it with one tensor")
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
            return self._linear(node, path, module, *args)
        if type(module) is nn.Flatten:
            return self._op_flatten(node, *args, start_dim=module.start_dim, end_dim=module.end_dim)
        if type(module) is nn.Identity:
            return args[0]
        if type(module) is nn.Dropout or (adapter is not None and adapter.is_run_dropout(module)):
            return self._dropout(node, Dropout(module, per_run=type(module) is not nn.Dropout), *args)
        start = adapter.flatten_start(module) if adapter is not None else None
        if start is None:
            self._unsupported(node, type(module).__name__)
        return self._flatten(node, args[0], start + (node.meta["container"] is not None))

    def _linear(self, node: fx.Node, path: str, module: nn.Linear, value: Any) -> Signal:
        signal = self._signal(node, value)
        if signal.layers and signal.target_dropout:
            self._refuse(node, "a dropout between two Linears without a neuron is not supported; remove it")
        before = self.modules[signal.layers[-1]].out_features if signal.layers else signal.features
        if before not in (None, module.in_features):
            self._refuse(node, f"it takes {module.in_features} features, but gets {before}")
        return replace(signal, layers=(*signal.layers, path), features=None)

    def _dropout(self, node: fx.Node, dropout: Dropout, value: Any) -> Signal:
        signal = self._signal(node, value)
        if signal.layers:
            return replace(signal, target_dropout=(*signal.target_dropout, dropout))
        return replace(signal, source_dropout=(*signal.source_dropout, dropout))

    def _neuron(
        self, node: fx.Node, module: nn.Module, adapter: Any, value: Any, *state: Any, **kwargs: Any
    ) -> Any:
        path = str(node.target)
        adapter.check_class(path, module)
        signal = self._signal(node, value)
        if not signal.layers:
            source = (
                "the input" if isinstance(signal.source, Argument) else f"neuron {signal.source.neuron!r}"
            )
            self._refuse(node, f"it follows {source} without a Linear between; put an nn.Linear before it")
        calls = self.result.calls.setdefault(path, [])
        given = (*state, *kwargs.values())
        if given and (len(given) > 1 or not set(kwargs) <= {"mem"}):
            self._refuse(node, "call it with a current and at most one state")
        if given and given[0] is not None:
            if getattr(module, "init_hidden", True):
                self._refuse(node, "a state is passed to it although it keeps its own; use init_hidden=False")
            self._state(node, path, len(calls), given[0])
        calls.append(Call(signal, self._name(node) + node.meta["line"]))
        fired, potential = Signal(Fired(path, len(calls) - 1)), Potential(path, len(calls) - 1)
        return {"spikes": fired, "potentials": potential, "both": (fired, potential)}[adapter.returns(module)]

    def _state(self, node: fx.Node, path: str, step: int, state: Any) -> None:
        """Check that a state passed in is the neuron's own, of its call before."""
        if isinstance(state, Argument) and self.states.setdefault(state, path) != path:
            self._refuse(
                node, f"state {state.name!r} is also passed to {self.states[state]!r}; pass one state each"
            )
        if step == 0:
            if isinstance(state, Argument) or (isinstance(state, Constant) and state.is_rest(path)):
                return
            self._refuse(node, "its first state must be an argument of forward, reset_mem(), or zeros")
        if state != Potential(path, step - 1):
            self._refuse(
                node,
                f"steps differ: call {step} does not continue the state of call {step - 1}. Call each neuron "
                "once per step with its last state, or pass the single step",
            )

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
