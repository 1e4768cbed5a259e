"""A model's forward, run once on fake tensors: every operator that it calls, as a graph, its neurons as opaque ones."""

import copy
import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import FunctionCtx
from torch.func import functional_call
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from snn_async.capture.arguments import check_plain
from snn_async.capture.tracing import NOT_OWN, Place, line_of, needs_values, trace
from snn_async.errors import SnnAsyncError, UnsupportedModelError
from snn_async.frameworks.calls import held_between_calls, replaced, settings_of

_LIBRARY = torch.library.Library("snn_async", "DEF")
_LIBRARY.define("neuron(Tensor current, Tensor[] states, int call, int count) -> Tensor[]")


def _like_current(current: Tensor, states: list[Tensor], call: int, count: int) -> list[Tensor]:
    return [torch.empty_like(current) for _ in range(count)]


_LIBRARY.impl("neuron", _like_current, "CompositeExplicitAutograd")
torch.library.register_fake("snn_async::neuron", _like_current, lib=_LIBRARY)
NEURON = torch.ops.snn_async.neuron.default

# A `torch.autograd.Function`, whose backward is its own: it is in `Node.meta["function"]`.
_LIBRARY.define("function(Tensor[] tensors, int call) -> Tensor[]")
FUNCTION = torch.ops.snn_async.function.default
_FUNCTIONS: dict[int, "_Function"] = {}  # of the recording that is being made


class _Function(NamedTuple):
    """One call of a `torch.autograd.Function`.

    Attributes:
        kind: its class, and what it is called with besides tensors.
        apply: takes the call's tensors, returns what it gives, in pytree's order.
        gives: what it gave, on fake tensors.
    """

    kind: tuple[Any, ...]
    apply: Callable[[Sequence[Tensor]], list[Any]]
    gives: list[Tensor]


def _like_given(tensors: list[Tensor], call: int) -> list[Tensor]:
    return [torch.empty_like(value) for value in _FUNCTIONS[call].gives]


_LIBRARY.impl("function", _like_given, "CompositeExplicitAutograd")
torch.library.register_fake("snn_async::function", _like_given, lib=_LIBRARY)


class CallError(UnsupportedModelError):
    """A forward failed on what it was given, at a line with a reason."""

    def __init__(self, line: str, reason: str) -> None:
        super().__init__(f"{line}: {reason}")
        self.line, self.reason = line, reason

    def or_else(self, other: "CallError") -> "CallError":
        """Return the error for a forward that failed on the whole sequence, and on one timestep for another reason."""
        if other.reason == self.reason:
            return self
        place = "" if other.line == self.line else f"{other.line}: "
        return CallError(self.line, f"{self.reason}; called with one timestep: {place}{other.reason}")


class Call(NamedTuple):
    """One call of a neuron module.

    Attributes:
        sequence: whether it was given (T, B, ...) rather than (B, ...).
    """

    path: str
    module: nn.Module
    sequence: bool


@dataclass(frozen=True)
class Recording:
    """What a model's forward called for inputs of certain shapes.

    Attributes:
        graph: of torch operators and `NEURON`; its placeholders are `parameters`, then `inputs`.
        parameters: names of parameters and buffers; trained: those of parameters.
        calls: of neurons, by the number that the operator `NEURON` has.
        places: of the graph's nodes.
        constants: tensors that the model holds besides parameters and buffers, by attribute of the graph's module.
        result: what the model returned; tensors, in pytree's order, are the graph's outputs.
    """

    graph: Graph
    parameters: tuple[str, ...]
    trained: frozenset[str]
    calls: tuple[Call, ...]
    places: dict[Node, Place]
    constants: dict[str, Any]
    result: Any

    def place(self, node: Node) -> str:
        """Return where a node was called, as messages say it."""
        return str(self.places.get(node, "the model"))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; what is shared, once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def record(model: nn.Module, call: Callable[..., Any], arguments: Any) -> Recording:
    """Record `call(model, *arguments)`; the model is left as it was.

    Args:
        call: applies the model to its arguments.
        arguments: (args, kwargs), of which tensors are inputs in the order in which pytree flattens them.

    Raises:
        UnsupportedModelError: if the forward fails, or depends on the values of tensors, or on how often it was called.
    """
    recording, changed = _record(model, call, arguments)
    if changed:  # the next call is another one
        before = [vars(module)[name] for module, name in changed]
        try:
            for (module, name), value in changed.items():
                vars(module)[name] = value
            again, _ = _record(model, call, arguments)
        finally:
            for (module, name), value in zip(changed, before, strict=True):
                vars(module)[name] = value
        if not _alike(recording, again):
            names = sorted({name for _, name in changed})
            raise UnsupportedModelError(
                f"the forward of {type(model).__name__} changes {names} and computes something else in its next call; "
                "here every call is the first one: give what changes as an argument of the forward, or set it outside"
            )
    return recording


_PLAIN = (bool, int, float, str)


def _plain_values(model: nn.Module) -> dict[tuple[nn.Module, str], Any]:
    """Return the numbers and strings that modules hold, alone or in a list or dictionary, but for neurons' states."""
    found: dict[tuple[nn.Module, str], Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            inner = (
                [*value.values()]
                if isinstance(value, dict)
                else value
                if isinstance(value, list)
                else [value]
            )
            if name[0] != "_" and name != "training" and all(isinstance(v, _PLAIN) for v in inner):
                found[module, name] = copy.copy(value)
        for name in held_between_calls(module):
            found.pop((module, name), None)
    return found


def _alike(first: Recording, second: Recording) -> bool:
    """Return whether two recordings of a model compute the same."""

    def words(recording: Recording) -> list[Any]:
        number = {node: i for i, node in enumerate(recording.graph.nodes)}
        found = [leaf for leaf in pytree.tree_leaves(recording.result) if not isinstance(leaf, Tensor)]
        for node in recording.graph.nodes:
            settings = node.meta["function"].kind if node.target is FUNCTION else None
            found += pytree.tree_leaves(
                (node.op != "get_attr" and node.target, node.args, node.kwargs, settings)
            )
        return [number[leaf] if isinstance(leaf, Node) else leaf for leaf in found]

    constants = zip(first.constants.values(), second.constants.values(), strict=False)
    return words(first) == words(second) and all(torch.equal(a, b) for a, b in constants)


def _record(
    model: nn.Module, call: Callable[..., Any], arguments: Any
) -> tuple[Recording, dict[tuple[nn.Module, str], Any]]:
    """Return a recording, and which plain values of modules the forward changed, as it left them."""
    leaves, spec = pytree.tree_flatten(arguments)
    inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    paths = {id(module): path for path, module in model.named_modules()}
    calls: list[Call] = []
    results: list[Any] = []
    given_now: dict[str, Tensor] = {}

    def emit_for(path: str, module: nn.Module) -> Any:
        def emit(
            current: Tensor, states: tuple[Tensor, ...], sequence: bool, count: int
        ) -> tuple[Tensor, tuple[Tensor, ...]]:
            _check_settings(path, module, settings[module], given_now)
            calls.append(Call(path, module, sequence))
            spikes, *after = NEURON(current, list(states), len(calls) - 1, 1 + count)
            return spikes, tuple(after)

        return emit

    def run(tensors: list[Tensor], given: list[Tensor]) -> list[Tensor]:
        tensor = iter(given)
        filled = [next(tensor) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        given_now.update({f"model.{name}": value for name, value in zip(named, tensors, strict=True)})
        result = functional_call(_Calling(model, call), given_now, pytree.tree_unflatten(filled, spec))
        results.append(result)
        return [value for value in pytree.tree_leaves(result) if isinstance(value, Tensor)]

    with (
        _inner_tables_kept(model),
        replaced(model, emit_for),
        _quiet(),
        _functions_whole(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(_device(inputs), enabled=False),
    ):
        named = tensors_of(model)  # with states at rest
        settings = {module: settings_of(module) for module in model.modules()}
        plain = _plain_values(model)
        for part in model.modules():
            if isinstance(part, _BatchNorm):
                part.training = False  # it uses its running statistics (`Options.batch_norm`)
        try:
            inputs = [x.clone() if x.is_inference() else x for x in inputs]
            traced = trace(run, list(named.values()), inputs, paths=paths)
        except SnnAsyncError:
            raise
        except Exception as error:
            raise _failed(model, error) from error
        now = _plain_values(model)
    check_plain(results[0], "the result of the forward", UnsupportedModelError)
    for node in traced.graph.nodes:
        if node.target is FUNCTION:
            node.meta["function"] = _FUNCTIONS[node.args[1]]
    trained = frozenset(name for name, _ in model.named_parameters())
    changed = {key: now[key] for key in plain.keys() & now.keys() if plain[key] != now[key]}
    return Recording(
        traced.graph, tuple(named), trained, tuple(calls), traced.places, traced.constants, results[0]
    ), changed


@contextmanager
def _functions_whole() -> Iterator[None]:
    """Record every `torch.autograd.Function` as one operator rather than by what its forward calls."""
    _FUNCTIONS.clear()
    own = [cls for cls in _subclasses(torch.autograd.Function) if "forward" in vars(cls)]
    forwards = [vars(cls)["forward"] for cls in own]
    for cls in own:
        cls.forward = staticmethod(functools.partial(_forward, cls, cls.forward))
    try:
        yield
    finally:
        for cls, forward in zip(own, forwards, strict=True):
            cls.forward = forward


def _subclasses(base: Any) -> Iterator[Any]:
    for cls in base.__subclasses__():
        if not cls.__module__.startswith("torch."):
            yield cls
        yield from _subclasses(cls)


def _forward(cls: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Stand in for the forward of a `torch.autograd.Function` while a model is recorded."""
    given = args[1:] if args and isinstance(args[0], FunctionCtx) else args
    leaves, spec = pytree.tree_flatten((given, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if get_proxy_mode() is None or not any(isinstance(tensor, FakeTensor) for tensor in tensors):
        return forward(*args, **kwargs)

    def apply(values: Sequence[Tensor]) -> list[Any]:
        rest = iter(values)
        filled = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        own, named = pytree.tree_unflatten(filled, spec)
        return pytree.tree_leaves(cls.apply(*own, **named))

    with disable_proxy_modes_tracing():
        gives, shape = pytree.tree_flatten(forward(*args, **kwargs))
    call = len(_FUNCTIONS)
    others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
    _FUNCTIONS[call] = _Function((cls, str(spec), *others), apply, gives)
    return pytree.tree_unflatten(FUNCTION(tensors, call), shape)


@contextmanager
def _inner_tables_kept(model: nn.Module) -> Iterator[None]:
    """Put back what the forward changes in lists and dictionaries within those that modules hold."""
    tables: dict[int, Any] = {}
    stack = [value for module in model.modules() for value in vars(module).values()]
    while stack:
        value = stack.pop()
        if isinstance(value, dict | list) and id(value) not in tables:
            tables[id(value)] = (value, copy.copy(value))
            stack += value.values() if isinstance(value, dict) else value
    try:
        yield
    finally:
        for table, kept in tables.values():
            table.clear()
            (table.update if isinstance(table, dict) else table.extend)(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging operators that fail; the error says it."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():  # of gradients of tensors that are no leaves
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def _check_settings(path: str, module: nn.Module, settings: dict[str, Any], given: dict[str, Tensor]) -> None:
    """Raise UnsupportedModelError if a neuron module is not as it was before the forward."""
    now = settings_of(module)
    for name in settings.keys() | now.keys():
        before, value = (
            given.get(f"model.{path}.{name}".replace("..", "."), settings.get(name)),
            now.get(name),
        )
        same = before is value or (
            not isinstance(value, Tensor) and type(before) is type(value) and before == value
        )
        if not same:
            raise UnsupportedModelError(
                f"{name!r} of {path!r} is set within the forward, but a neuron has one value for all timesteps: "
                "set it outside, or give a learnable parameter"
            )


class _Calling(nn.Module):
    """A way of calling a model, as a module, so that its parameters can be exchanged."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self._call = model, call

    def forward(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return self._call(self.model, *args, **kwargs)


def _device(inputs: Sequence[Tensor]) -> str:
    kind = inputs[0].device.type if inputs else "cpu"
    return kind if kind in ("cpu", "cuda") else "cpu"


def _failed(model: nn.Module, error: Exception) -> UnsupportedModelError:
    line = _own_line(error)
    text = str(error).splitlines()[0] if str(error) else ""
    if type(error).__name__ in ("GuardOnDataDependentSymNode", "DataDependentOutputException"):
        return needs_values(line, branch=True)
    return CallError(line, f"{type(model).__name__} fails on this input: {type(error).__name__}: {text}")


def _own_line(error: BaseException) -> str:
    trace, found = error.__traceback__, "the model"
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not any(part in name for part in NOT_OWN):
            found = line_of(name, trace.tb_lineno)
        trace = trace.tb_next
    return found
