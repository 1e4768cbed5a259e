"""A model's forward, run once on fake tensors: every operator that it calls, as a graph, its neurons as opaque ones."""

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import FunctionCtx
from torch.func import functional_call
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode, make_fx
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from snn_async.errors import SnnAsyncError, UnsupportedModelError
from snn_async.frameworks.calls import replaced, settings_of

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

_TO_VALUES = {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__float__, Tensor.__int__, Tensor.__bool__}
_FACTORIES = {torch.ones, torch.zeros, torch.arange, torch.full, torch.tensor}


_NOT_OWN = ("/torch/", "/snn_async/", "/snntorch/", "/spikingjelly/activation_based/")


class CallError(UnsupportedModelError):
    """A forward failed on what it was given."""


class Place(NamedTuple):
    """Where an operator was called.

    Attributes:
        module: path of the innermost module, "" for the model itself.
        line: "file:line" of the model's own code.
    """

    module: str
    line: str

    def __str__(self) -> str:
        return f"{self.line} (in {self.module!r})" if self.module else self.line


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
        UnsupportedModelError: if the forward fails, or depends on the values of tensors.
    """
    leaves, spec = pytree.tree_flatten(arguments)
    inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    paths = {id(module): path for path, module in model.named_modules()}
    calls: list[Call] = []
    places: dict[Node, Place] = {}
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
        with _Watching(paths, places):
            given_now.update({f"model.{name}": value for name, value in zip(named, tensors, strict=True)})
            result = functional_call(_Calling(model, call), given_now, pytree.tree_unflatten(filled, spec))
        results.append(result)
        return [value for value in pytree.tree_leaves(result) if isinstance(value, Tensor)]

    with (
        replaced(model, emit_for),
        _quiet(),
        _functions_whole(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(_device(inputs), enabled=False),
    ):
        named = tensors_of(model)  # with states at rest
        settings = {module: settings_of(module) for module in model.modules()}
        for part in model.modules():
            if isinstance(part, _BatchNorm):
                part.training = False  # it uses its running statistics (`Options.batch_norm`)
        try:
            module = make_fx(run, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)(
                list(named.values()), [x.clone() if x.is_inference() else x for x in inputs]
            )
        except SnnAsyncError:
            raise
        except Exception as error:
            raise _failed(model, error) from error
    _note_grad_mode(module.graph)
    for node in module.graph.nodes:
        if node.target is FUNCTION:
            node.meta["function"] = _FUNCTIONS[node.args[1]]
    constants = {n.target: getattr(module, n.target) for n in module.graph.nodes if n.op == "get_attr"}
    trained = frozenset(name for name, _ in model.named_parameters())
    return Recording(module.graph, tuple(named), trained, tuple(calls), places, constants, results[0])


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


def _note_grad_mode(graph: Graph) -> None:
    """Note which nodes run without gradient, in their `meta["no_grad"]`."""
    enabled = True
    for node in graph.nodes:
        if node.target is torch._C._set_grad_enabled:
            enabled = bool(node.args[0])
        node.meta["no_grad"] = not enabled


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


class _Watching(TorchFunctionMode):
    """Notes where operators are called, and computes what depends on no input at once.

    Integers that a model makes for itself (`torch.ones(n, dtype=int).tolist()`) are numbers to it, not data.
    """

    def __init__(self, paths: dict[int, str], places: dict[Node, Place]) -> None:
        self._paths, self._places, self._last = paths, places, None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _TO_VALUES and any(isinstance(value, FakeTensor) for value in args):
            raise _needs_values(str(self._place()))
        if func is Tensor.register_hook:
            raise UnsupportedModelError(
                f"{self._place()}: a hook on the gradient of a tensor would not be called; remove it"
            )
        given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if not any(isinstance(value, FakeTensor) for value in given) and (given or func in _FACTORIES):
            with _disable_current_modes():
                result = func(*args, **kwargs)
            if given or not result.is_floating_point():
                return result
        result = func(*args, **kwargs)
        self._note()
        return result

    def _note(self) -> None:
        mode = get_proxy_mode()
        if mode is None:
            return
        place = None
        for node in reversed(mode.tracer.graph.nodes):
            if node is self._last:
                break
            place = place or self._place()
            self._places.setdefault(node, place)
        self._last = next(iter(reversed(mode.tracer.graph.nodes)))

    def _place(self) -> Place:
        frame: FrameType | None = sys._getframe(2)
        path = None
        while frame is not None:
            own = frame.f_locals.get("self")
            if path is None and id(own) in self._paths:
                path = self._paths[id(own)]
            name = frame.f_code.co_filename
            if path is not None and not any(part in name for part in _NOT_OWN):
                return Place(path, f"{name.rsplit('/', 1)[-1]}:{frame.f_lineno}")
            frame = frame.f_back
        return Place(path or "", "the model")


def _device(inputs: Sequence[Tensor]) -> str:
    kind = inputs[0].device.type if inputs else "cpu"
    return kind if kind in ("cpu", "cuda") else "cpu"


def _failed(model: nn.Module, error: Exception) -> UnsupportedModelError:
    line = _own_line(error)
    text = str(error).splitlines()[0] if str(error) else ""
    if type(error).__name__ in ("GuardOnDataDependentSymNode", "DataDependentOutputException"):
        return _needs_values(line)
    return CallError(f"{line}: {type(model).__name__} fails on this input: {type(error).__name__}: {text}")


def _needs_values(line: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{line}: the forward needs the values of a tensor there (a branch on spikes, `.item()`, indexing by a mask), "
        "and what runs event by event has none yet: use torch.where or a product"
    )


def _own_line(error: BaseException) -> str:
    trace, found = error.__traceback__, "the model"
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not any(part in name for part in _NOT_OWN):
            found = f"{name.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found
