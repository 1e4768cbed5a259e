"""A function, run once on fake tensors: every operator that it calls, before autograd, as a graph."""

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from snn_async.errors import UnsupportedModelError

_TO_VALUES = {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__float__, Tensor.__int__, Tensor.__bool__}
_FACTORIES = {torch.ones, torch.zeros, torch.arange, torch.full, torch.tensor}


NOT_OWN = ("/torch/", "/snn_async/", "/snntorch/", "/spikingjelly/activation_based/")


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


class Traced(NamedTuple):
    """What a function called.

    Attributes:
        graph: its placeholders are the tensors that it was given, its outputs those that it returned.
        constants: tensors that it took from elsewhere, by the target of their nodes.
        places: of the nodes, where they were called.
    """

    graph: Graph
    constants: dict[str, Tensor]
    places: dict[Node, Place]


def trace(run: Callable[..., Sequence[Tensor]], *given: Sequence[Tensor], paths: dict[int, str]) -> Traced:
    """Call `run` with fake tensors in place of `given`, and return what it called.

    `meta` of each node says whether it runs without gradient ("no_grad").

    Args:
        paths: of modules, by their id.
    """
    watching = _Watching(paths)

    def watched(*fakes: Sequence[Tensor]) -> Sequence[Tensor]:
        with watching:
            return run(*fakes)

    module = make_fx(watched, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)(*given)
    grad = True
    for node in module.graph.nodes:
        if node.target is torch._C._set_grad_enabled:
            grad = bool(node.args[0])
        node.meta["no_grad"] = not grad or node in watching.inferred
    constants = {n.target: getattr(module, n.target) for n in module.graph.nodes if n.op == "get_attr"}
    return Traced(module.graph, constants, watching.places)


def line_of(file: str, number: int) -> str:
    return f"{file.rsplit('/', 1)[-1]}:{number}"


class _Watching(TorchFunctionMode):
    """Notes where operators are called, computes what depends on no input at once, and refuses what needs values.

    Integers that a model makes for itself (`torch.ones(n, dtype=int).tolist()`) are numbers to it, not data.
    """

    def __init__(self, paths: dict[int, str]) -> None:
        self._paths, self._last = paths, None
        self.places: dict[Node, Place] = {}
        self.inferred: set[Node] = set()  # within torch.inference_mode()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        func = Tensor.detach if func == Tensor.data.__get__ else func  # type: ignore[attr-defined]
        if func in _TO_VALUES and any(isinstance(value, FakeTensor) for value in args):
            raise needs_values(str(self._place()), func is Tensor.__bool__)
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
            self.places.setdefault(node, place)
            if torch.is_inference_mode_enabled():
                self.inferred.add(node)
        self._last = next(iter(reversed(mode.tracer.graph.nodes)))

    def _place(self) -> Place:
        """Return where the model is now."""
        frame: FrameType | None = sys._getframe(2)
        path = line = None
        while frame is not None:
            own = frame.f_locals.get("self")
            if path is None and id(own) in self._paths:
                path = self._paths[id(own)]
            name = frame.f_code.co_filename
            if not any(part in name for part in NOT_OWN):
                if line is None and "/site-packages/" not in name:  # a helper function of the model's
                    line = line_of(name, frame.f_lineno)
                if path is not None:
                    return Place(path, line or line_of(name, frame.f_lineno))
            frame = frame.f_back
        return Place(path or "", "the model")


def needs_values(line: str, branch: bool) -> UnsupportedModelError:
    how = (
        "use torch.where or a product" if branch else "return the tensor, and take its values from the result"
    )
    what = "a branch on it" if branch else "`.item()` or the like"
    return UnsupportedModelError(
        f"{line}: the forward needs the values of a tensor there ({what}), and what runs event by event has none yet: "
        f"{how}"
    )
