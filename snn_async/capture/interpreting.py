"""What a traced forward computes: calls of neurons, and which of their results it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import fx, nn

from snn_async.capture.arithmetic import Arithmetic
from snn_async.capture.expressions import (
    Applied,
    Argument,
    Call,
    Constant,
    Delayed,
    Expression,
    Fired,
    Potential,
)
from snn_async.capture.layers import (
    BAD_SETTING,
    BAD_SETTINGS,
    DropoutLayer,
    LinearLayer,
    NormLayer,
    Operation,
    Reference,
)
from snn_async.capture.modules import KINDS, kind_of, refusal
from snn_async.capture.opaque import OpaqueLayer
from snn_async.capture.tracing import feed_back, last_output, recurrent_linear
from snn_async.errors import SnnAsyncError, UnsupportedModelError
from snn_async.frameworks.libraries import OverriddenError, adapter_of, check_not_overridden, describe
from snn_async.graph import Dropout


@dataclass(frozen=True)
class Held:
    """A state, other than its potential, that call number `step` of a neuron module returned."""

    neuron: str
    step: int
    name: str


@dataclass
class Interpretation:
    """What a forward does.

    Attributes:
        multi_step: whether its tensors are (T, B, ...).
        calls: per neuron module, in the order of their first call.
        returned: the values that forward returns.
        feedback: what each recurrent container gives to its next timestep.
    """

    multi_step: bool
    calls: dict[str, list[Call]] = field(default_factory=dict)
    returned: list[Any] = field(default_factory=list)
    feedback: dict[str, Expression] = field(default_factory=dict)


def interpret(model: nn.Module, graph: fx.Graph, opaque: Mapping[str, str]) -> Interpretation:
    """Follow the input through a traced forward.

    Args:
        opaque: modules to take as they are, and why.

    Raises:
        UnsupportedModelError: for an operation that a graph cannot hold, with its name, place and way out.
    """
    return _Interpreter(model, graph, opaque).run()


class _Interpreter(Arithmetic):
    def __init__(self, model: nn.Module, graph: fx.Graph, opaque: Mapping[str, str]) -> None:
        super().__init__(model)
        self.graph, self.opaque = graph, opaque
        self.values: dict[fx.Node, Any] = {}
        self.multi_step = self._is_multi_step()
        self.result = Interpretation(self.multi_step)
        self.states: dict[Argument, str] = {}
        self.states_of: dict[str, dict[str, Any]] = {}  # after the last call of a neuron module, by name

    def run(self) -> Interpretation:
        self._check_in_place(self.graph)
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

    def _placeholder(self, node: fx.Node, *default: Any) -> Argument:
        return Argument(str(node.target).lstrip("*"))

    def _get_attr(self, node: fx.Node) -> Constant:
        value: Any = self.model
        for name in str(node.target).split("."):
            value = getattr(value, name)
        return Constant(str(node.target), value)

    def _output(self, node: fx.Node, value: Any) -> None:
        fx.node.map_aggregate((value,), self.result.returned.append)

    def _call_function(self, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
        if node.target is last_output:
            return Delayed(args[0])
        if node.target is feed_back:
            self.result.feedback[args[0]] = self._expression(node, args[1])
            return None
        if node.target is recurrent_linear:
            return self._recurrent_linear(node, *args)
        return super()._call_function(node, *args, **kwargs)

    def _recurrent_linear(self, node: fx.Node, path: str, value: Any, last: Delayed) -> Expression:
        """A Linear on the current input and the last output, side by side."""
        module: Any = self.modules[path]
        place = f"module {describe(path, module)}{node.meta['line']}"
        inputs = module.in_features - self.modules[path.rpartition(".")[0]].sub_module_out_features
        columns = ((0, inputs), (inputs, module.in_features))
        fresh, old = (LinearLayer(path, place, module, c, biased=c is columns[0]) for c in columns)
        return self._sum(node, Applied(fresh, self._expression(node, value)), Applied(old, last))

    def _call_module(self, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
        path = str(node.target)
        module: Any = self.modules[path]
        adapter = adapter_of(module)
        if adapter is not None and adapter.is_neuron(module):
            return self._neuron(node, module, adapter, *args, **kwargs)
        if len(args) != 1 or kwargs:
            self._refuse(node, "call it with one tensor")
        if type(module) is nn.Flatten:
            return self._op_flatten(node, *args, start_dim=module.start_dim, end_dim=module.end_dim)
        if type(module) is nn.Identity:
            return args[0]
        start = adapter.flatten_start(module) if adapter is not None else None
        if start is not None:
            return self._flatten(node, args[0], start + self._hidden_dimensions(node))
        return Applied(self._layer(node, path, module, adapter), self._expression(node, args[0]))

    def _layer(self, node: fx.Node, path: str, module: Any, adapter: Any) -> Operation:
        place = self._place(node)
        if path in self.opaque:
            return self._opaque(node, path, module, self.opaque[path])
        if type(module) is nn.Dropout:
            return DropoutLayer(path, place, Dropout(module))
        if adapter is not None and adapter.is_run_dropout(module):
            self._check_step_mode(node, module)
            return DropoutLayer(path, place, Dropout(module, per_run=node.meta["container"] != "frames"))
        kind, why = kind_of(module), ""
        reason = adapter.layer_refusal(module) if adapter is not None else None
        reason = refusal(module) if reason is None and kind is None else reason
        if reason is not None:
            self._refuse(node, f"not supported, {reason}")
        layer: Operation | None = adapter.read_layer(path, place, module) if adapter is not None else None
        if layer is None and kind is not None:
            base = (adapter.layer_base(module) if adapter is not None else None) or kind
            try:
                check_not_overridden(path, module, base)
                layer = self._read(kind, path, place, module)
            except OverriddenError as error:
                why = str(error)
        if layer is None:
            return self._opaque(node, path, module, why)
        if not isinstance(layer, LinearLayer):  # a Linear takes any leading dimensions
            self._check_step_mode(node, module)
        return layer

    def _read(self, kind: type, path: str, place: str, module: Any) -> Operation | None:
        """Read a layer of torch, with torch's own form of it for one timestep."""
        settings = module.extra_repr()
        try:
            layer = KINDS[kind](path, place, module)
        except BAD_SETTINGS as error:
            if isinstance(error, SnnAsyncError):
                raise
            raise UnsupportedModelError(
                f"{place}: {BAD_SETTING} ({settings}): {error}; correct them"
            ) from error
        if layer is None or isinstance(layer, NormLayer):
            return layer
        like = next((p for p in module.parameters() if p.is_floating_point()), None)
        return replace(layer, reference=Reference(partial(kind.forward, module), settings, like))  # type: ignore[attr-defined]

    def _opaque(self, node: fx.Node, path: str, module: nn.Module, why: str) -> Operation:
        timed = self.multi_step and node.meta["container"] is None
        return OpaqueLayer(path, self._place(node), module, timed, why)

    def _check_step_mode(self, node: fx.Node, module: nn.Module) -> None:
        takes = getattr(module, "step_mode", "s")
        gets = "m" if self.multi_step and node.meta["container"] is None else "s"
        if takes != gets:
            shapes = {"s": "(N, ...)", "m": "(T, N, ...)"}
            self._refuse(
                node,
                f"it takes {shapes[takes]}, but gets {shapes[gets]}; use the layer of spikingjelly.activation_based"
                f".layer and functional.set_step_mode(model, {gets!r})",
            )

    def _neuron(
        self, node: fx.Node, module: nn.Module, adapter: Any, value: Any, *state: Any, **kwargs: Any
    ) -> Any:
        path, place = str(node.target), self._place(node)
        adapter.make_neuron(path, module, None)
        current = self._expression(node, value)
        for layer in adapter.layers_before(path, place, module):
            current = Applied(layer, current)
        names = adapter.state_names(module)
        given = dict(zip(map(_keyword, names), state, strict=False)) | kwargs
        if len(state) > len(names) or not set(given) <= set(map(_keyword, names)):
            takes = ", ".join(map(_keyword, names))
            self._refuse(node, f"call it with a current and at most its state: {takes}")
        calls = self.result.calls.setdefault(path, [])
        before = self.states_of.get(path)
        for name, held in given.items():
            if held is None:
                continue
            if getattr(module, "init_hidden", True):
                self._refuse(node, "a state is passed to it although it keeps its own; use init_hidden=False")
            self._state(node, path, name, held, None if before is None else before[name])
        fired: Expression = Fired(path, len(calls))
        for layer in adapter.layers_after(path, place, module):
            fired = Applied(layer, fired)
        potential = Potential(path, len(calls))
        known = {"spk": fired, adapter.potential_name(module): potential}

        def after(name: str | tuple[str, ...]) -> Any:
            if isinstance(name, tuple):
                return tuple(map(after, name))
            return known.get(name) or Held(path, len(calls), name)

        states = {_keyword(name): after(name) for name in names}
        calls.append(Call(current, place))
        self.states_of[path] = states
        kept = [value for name, value in states.items() if name != "spk"]
        results = {"spikes": fired, "potentials": potential, "both": (fired, *kept)}
        return results[adapter.returns(module)]

    def _state(self, node: fx.Node, path: str, name: str, state: Any, before: Any) -> None:
        """Check that a state passed in is the neuron's own: `before`, of its call before, or none yet."""
        if isinstance(state, Argument):
            owner = self.states.setdefault(state, f"{path}.{name}")
            if owner != f"{path}.{name}":
                self._refuse(
                    node,
                    f"state {state.name!r} is also passed to {owner.rpartition('.')[0]!r}; pass one state each",
                )
        if before is None:
            parts = state if isinstance(state, tuple) else (state,)
            for part in parts:
                rests = isinstance(part, Constant) and part.is_rest(path)
                if not (part is None or rests or isinstance(part, Argument)):
                    self._refuse(
                        node, "its first state must be an argument of forward, reset_mem(), or zeros"
                    )
            return
        if state != before:
            step = len(self.result.calls[path])
            self._refuse(
                node,
                f"steps differ: call {step} does not continue the state of call {step - 1}. Call each neuron "
                "once per step with its last state, or pass the single step",
            )


def _keyword(name: str | tuple[str, ...]) -> str:
    """Return the argument by which a call takes a state, or those that go together."""
    return name if isinstance(name, str) else name[0]
