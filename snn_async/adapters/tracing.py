"""A model as a torch.fx graph whose nodes know their place; neurons and stateless layers are its leaves."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import fx, nn

from snn_async.adapters.libraries import adapter_of, describe
from snn_async.errors import UnsupportedModelError

_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
_LIBRARIES = {"torch", "snntorch", "spikingjelly", "snn_async"}


class Tracer(fx.Tracer):
    """Records calls of leaves; `node.meta` keeps the source line and the multi-step container around it."""

    container: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        adapter = adapter_of(m)
        if adapter is not None:
            return not adapter.is_container(m)
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        adapter = adapter_of(m)
        if adapter is None or not adapter.is_container(m):
            return super().call_module(m, forward, args, kwargs)
        outside, self.container = self.container, self.container or adapter.container_mode(m)
        try:
            return super().call_module(m, lambda x: nn.Sequential.forward(m, x), args, kwargs)  # type: ignore[arg-type]
        finally:
            self.container = outside

    def proxy(self, node: fx.Node) -> Any:
        """An option of forward, such as num_steps=25, keeps its default, so that it can fix a loop."""
        if node.op == "placeholder" and node.args and isinstance(node.args[0], bool | int | float | str):
            return node.args[0]
        return super().proxy(node)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["line"] = _line_of(sys._getframe(1))
        node.meta["container"] = self.container
        node.meta["inside"] = self.scope.module_path
        return node


def trace(model: nn.Module) -> fx.Graph:
    """Return the graph of `model`; its own containers are entered, and fixed loops unrolled.

    Raises:
        UnsupportedModelError: for a forward that torch.fx cannot follow, naming its line.
    """
    tracer, root = Tracer(), model
    wrapped = _WRAPPERS.get(type(model).__name__)
    if wrapped is not None:
        raise UnsupportedModelError(
            f"the model is a {type(model).__name__}; pass the model in it, .{wrapped}"
        )
    if tracer.is_leaf_module(model, ""):
        raise UnsupportedModelError(
            f"the model is a single {type(model).__name__}; pass a model with a Linear before every neuron, "
            "such as nn.Sequential(nn.Linear(...), neuron)"
        )
    adapter = adapter_of(model)
    if adapter is not None:
        tracer.container = adapter.container_mode(model)
        root = nn.Sequential()
        for name, child in model.named_children():
            root.add_module(name, child)
    try:
        return tracer.trace(root)
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"{describe('', model)} cannot be traced{_place(error)}: {type(error).__name__}: "
            f"{str(error).split('. ')[0]}. A time loop or a branch may not depend on the data "
            "(x.size(0), len(x), values): pass the single step, a module whose forward takes one timestep "
            "(B, ...) and its states, or loop over a fixed number of steps; start states from reset_mem()"
        ) from error


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
