"""What a traced forward computes: calls of neurons, and which of their results it returns."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from snn_async.adapters.libraries import adapter_of, describe
from snn_async.adapters.operations import Operations
from snn_async.adapters.signals import Argument, Call, Constant, Fired, Potential, Signal
from snn_async.errors import UnsupportedModelError
from snn_async.graph import Dropout


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


class _Interpreter(Operations):
    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model)
        self.graph = graph
        self.values: dict[fx.Node, Any] = {}
        self.multi_step = self._is_multi_step()
        self.result = Interpretation(self.multi_step)
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

    def _placeholder(self, node: fx.Node, *default: Any) -> Argument:
        return Argument(str(node.target).lstrip("*"))

    def _get_attr(self, node: fx.Node) -> Constant:
        value: Any = self.model
        for name in str(node.target).split("."):
            value = getattr(value, name)
        return Constant(str(node.target), value)

    def _output(self, node: fx.Node, value: Any) -> None:
        fx.node.map_aggregate((value,), self.result.returned.append)

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
        return self._flatten(node, args[0], start + self._hidden_dimensions(node))

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
