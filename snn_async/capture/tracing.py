"""A model as a torch.fx graph whose nodes know their place; neurons and stateless layers are its leaves."""

import operator
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from snn_async.capture.modules import kind_of
from snn_async.errors import UnsupportedModelError
from snn_async.frameworks.libraries import UnreadError, adapter_of, describe

_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
_LIBRARIES = {"torch", "snntorch", "spikingjelly", "snn_async"}


def last_output(container: str) -> Any:
    """In a graph: what a recurrent container gave in the timestep before."""


def feed_back(container: str, output: Any) -> None:
    """In a graph: what a recurrent container gives to the next timestep."""


def recurrent_linear(layer: str, x: Any, last: Any) -> Any:
    """In a graph: a Linear on the input and the last output, side by side."""


class _Proxy(fx.Proxy):
    """Records a += b as the change in place that it is."""

    def __iadd__(self, other: Any) -> Any:
        return self._changed(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._changed(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._changed(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._changed(operator.itruediv, other)

    def _changed(self, operation: Callable[[Any, Any], Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})


class Tracer(fx.Tracer):
    """Records calls of leaves; `node.meta` keeps the source line and the multi-step container around it.

    Args:
        opaque: paths of further leaves.

    Attributes:
        failed: path of the innermost module whose forward could not be followed.
    """

    def __init__(self, opaque: Collection[str] = ()) -> None:
        super().__init__()
        self.opaque = opaque
        self.container: str | None = None
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        adapter = adapter_of(m)
        if module_qualified_name in self.opaque:
            return True
        if adapter is not None:
            return not adapter.is_container(m)
        return kind_of(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        adapter = adapter_of(m)
        try:
            if adapter is None or not adapter.is_container(m):
                return super().call_module(m, forward, args, kwargs)
            outside, self.container = self.container, self.container or adapter.container_mode(m)
            body = self._recur if adapter.is_recurrent(m) else nn.Sequential.forward
            try:
                return super().call_module(m, lambda x: body(m, x), args, kwargs)  # type: ignore[arg-type]
            finally:
                self.container = outside
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise

    def _recur(self, m: Any, x: Any) -> Any:
        """Follow a recurrent container: its module gets the input together with its own last output."""
        path = self.scope.module_path
        last = self.create_proxy("call_function", last_output, (path,), {})
        if hasattr(m, "element_wise_function"):
            joined = m.element_wise_function(last, x)
        else:
            joined = self.create_proxy("call_function", recurrent_linear, (f"{path}.rc", x, last), {})
        output = m.sub_module(joined)
        self.create_proxy("call_function", feed_back, (path, output), {})
        return output

    def proxy(self, node: fx.Node) -> Any:
        """An option of forward, such as num_steps=25, keeps its default, so that it can fix a loop."""
        if node.op == "placeholder" and node.args and isinstance(node.args[0], bool | int | float | str):
            return node.args[0]
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["line"] = _line_of(sys._getframe(1))
        node.meta["container"] = self.container
        node.meta["inside"] = self.scope.module_path
        return node


def trace(model: nn.Module, opaque: Collection[str] = ()) -> fx.Graph:
    """Return the graph of `model`; its own containers are entered, and fixed loops unrolled.

    Args:
        opaque: paths of modules to take as they are.

    Raises:
        UnsupportedModelError: for a forward that torch.fx cannot follow, naming its line.
    """
    tracer, root = Tracer(opaque), model
    wrapped = _WRAPPERS.get(type(model).__name__)
    if wrapped is not None:
        raise UnsupportedModelError(
            f"the model is a {type(model).__name__}; pass the model in it, .{wrapped}"
        )
    if tracer.is_leaf_module(model, ""):
        raise UnsupportedModelError(
            f"the model is a single {type(model).__name__}; pass a model with a Linear or convolution in it, "
            "such as nn.Sequential(nn.Linear(...), neuron)"
        )
    adapter = adapter_of(model)
    if adapter is not None and adapter.is_recurrent(model):
        raise UnsupportedModelError(
            f"the model is a single {type(model).__name__}; pass it in an nn.Sequential"
        )
    if adapter is not None:
        tracer.container = adapter.container_mode(model)
        root = nn.Sequential()
        for name, child in model.named_children():
            root.add_module(name, child)
    generator = torch.get_rng_state()
    try:
        graph = tracer.trace(root)
        drew = not torch.equal(generator, torch.get_rng_state())
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnreadError(
            f"{describe('', model)} cannot be traced{_place(error)}: {type(error).__name__}: "
            f"{str(error).split('. ')[0]}. A time loop or a branch may not depend on the data "
            "(x.size(0), len(x), values): pass the single step, a module whose forward takes one timestep "
            "(B, ...) and its states, or loop over a fixed number of steps; start states from reset_mem()",
            tracer.failed,
        ) from error
    finally:
        torch.set_rng_state(generator)
    if drew:
        raise UnsupportedModelError(
            f"{describe('', model)} draws random numbers in forward, which would be the same in every run; "
            "draw them before the network, or use nn.Dropout"
        )
    return graph


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Undo whatever tracing a forward does to the model's attributes: states, recordings, constants."""
    saved: list[tuple[Any, Any]] = []
    for module in model.modules():
        for held in (vars(module), *vars(module).values()):
            if isinstance(held, dict | set | list):
                saved.append((held, held.copy()))
    try:
        yield
    finally:
        for held, before in saved:
            held.clear()
            (held.extend if isinstance(held, list) else held.update)(before)


def _line_of(frame: FrameType | None) -> str:
    """Return " at file:line" of the model's code that is running, "" if it is a library's."""
    while frame is not None and frame.f_code is not trace.__code__:
        if not _is_library(frame):
            return f" at {frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _place(error: Exception) -> str:
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if not _is_library(frame):
            return f" at {frame.f_code.co_filename}:{line}"
    return ""


def _is_library(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).split(".")[0] in _LIBRARIES
