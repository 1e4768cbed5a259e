"""What a network is called with: checked, of the model's dtype, and what a capture of it depends on."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from snn_async.errors import InputError, SnnAsyncError, UnsupportedModelError
from snn_async.frameworks.calls import held_between_calls

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_INTERNAL = vars(nn.Module()).keys() - {"training"}
_PLAIN = (bool, int, float, str, bytes, type(None))


def tensors_among(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors among arguments, in pytree's order."""
    return [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]


def arguments_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with floating tensors, and integers that are no indices, of the model's dtype.

    Raises:
        InputError: for a tensor that cannot be run, or none at all.
        UnsupportedModelError: for a model of several dtypes or devices, or of another one than float32 and float64.
    """
    if torch.jit.is_tracing():
        raise only_runs("torch.jit.trace")
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise InputError(
            "the events of a run cannot be seen by torch.func's transforms (grad, vmap, jvp, jacrev); use "
            "loss.backward() or torch.autograd.grad, and one batch of samples instead of vmap"
        )
    dtype, device = kind_of(model)
    indexed = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    tensors = tensors_among(args, kwargs)
    if not tensors:
        raise InputError("the network was called without a tensor; give it what its model takes")
    for x in tensors:
        _check(x, device)
    check_plain((args, kwargs), "an argument", InputError)

    def converted(value: Any) -> Any:
        if (
            not isinstance(value, Tensor)
            or value.dtype == torch.bool
            or (indexed and not value.is_floating_point())
        ):
            return value
        if value.is_inference() and not torch.is_inference_mode_enabled():
            value = value.clone()
        return value.to(dtype)

    found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(converted, (args, kwargs))
    return found


def only_runs(how: str) -> InputError:
    """Return the error for who wants a network as a program rather than its results."""
    return InputError(
        f"{how} cannot follow the events of an asynchronous run, which depend on values; export or compile the source "
        "model, `net.model`"
    )


def _check(x: Tensor, device: torch.device) -> None:
    if isinstance(x, FakeTensor):
        raise only_runs("torch.export (or what else calls the network with fake tensors)")
    if x.layout != torch.strided or x.is_quantized or x.is_nested:
        raise InputError(
            f"x is a sparse, quantized or nested tensor ({x.layout}); pass a dense one: x.to_dense()"
        )
    if x.is_complex():
        raise InputError(f"x has dtype {x.dtype}, which is neither floating nor integer; use x.float()")
    if 0 in x.shape:
        raise InputError(
            f"x has shape {tuple(x.shape)}: nothing to run; give at least one timestep and sample"
        )
    if x.device != device:
        raise InputError(f"x is on {x.device}, the model on {device}; use x.to({str(device)!r})")


def kind_of(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Return the dtype and device of a model's parameters and buffers.

    Raises:
        UnsupportedModelError: unless they are one of float32 and float64, on one device.
    """
    held = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() and t.numel()]
    weights = (
        [t for t in model.parameters() if t.is_floating_point() and t.dim()] or held or [torch.zeros(())]
    )
    kinds = {(tensor.dtype, tensor.device) for tensor in weights}
    if len(kinds) != 1 or weights[0].dtype not in (torch.float32, torch.float64):
        raise UnsupportedModelError(
            f"the model's weights are {sorted(f'{d} on {v}' for d, v in kinds)}; engines run float32 or "
            "float64 on one device: use model.float()"
        )
    if weights[0].is_meta:
        raise UnsupportedModelError(
            "the model is on the device 'meta', where weights have no values; load them: model.to_empty(device='cpu'), "
            "then load_state_dict"
        )
    return kinds.pop()


def check_plain(values: Any, what: str, error: type[SnnAsyncError]) -> None:
    """Raise `error` for an object that holds tensors where `torch.utils._pytree` does not see them."""
    for leaf in pytree.tree_leaves(values):
        held = getattr(leaf, "__dict__", None)
        if held and not isinstance(leaf, Tensor) and any(isinstance(v, Tensor) for v in held.values()):
            raise error(
                f"{what} is a {type(leaf).__name__}, which holds tensors; use tensors, tuples, lists, dictionaries "
                "or named tuples"
            )


class Observed:
    """What a capture depends on besides values: shapes of arguments, and every object that the model holds by name."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        self._given = (str(spec), *(_described(leaf) for leaf in leaves))
        seen: set[int] = set()
        objects = (one for leaf in leaves if not isinstance(leaf, Tensor) for one in _within(leaf, seen))
        self._held = [*objects, *_objects(model, seen)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Observed) or self._given != other._given:
            return False
        return len(self._held) == len(other._held) and all(
            a is b or (isinstance(a, _PLAIN) and type(a) is type(b) and a == b)
            for a, b in zip(self._held, other._held, strict=True)
        )

    def __hash__(self) -> int:
        return hash(self._given)


def _within(value: Any, seen: set[int]) -> Iterator[object]:
    """Give what lists, tuples, dictionaries and plain objects hold, at any depth; of a tensor its version too."""
    plain = isinstance(value, SimpleNamespace | Namespace) or (
        is_dataclass(value) and not isinstance(value, type)
    )
    if isinstance(value, dict):
        held = [*value, *value.values()]
    elif plain:
        held = [value, *getattr(value, "__dict__", {}).values()]
    else:
        held = list(value) if isinstance(value, list | tuple) else []
    if held and id(value) not in seen:
        seen.add(id(value))
        for one in held:
            if one is value:
                yield one
            else:
                yield from _within(one, seen)
    elif not held:
        yield value
        if isinstance(value, Tensor) and not value.is_inference():
            yield value._version


def _described(leaf: Any) -> object:
    if isinstance(leaf, Tensor):
        return (tuple(leaf.shape), leaf.dtype)
    return leaf if isinstance(leaf, _PLAIN) else type(leaf)


def _objects(model: nn.Module, seen: set[int]) -> list[object]:
    """Return what the modules hold, but for their states, and parameters and buffers, which are read in every run."""
    found: list[object] = []
    for module in model.modules():
        states = held_between_calls(module)
        held = vars(module)
        found.append(module)
        for name, value in held.items():
            if name not in states and name not in _INTERNAL:
                found += _within(value, seen)
        found += held["_modules"].values()
        found += held["_parameters"]
        found += [hook for hooks in _HOOKS for hook in held.get(hooks, {}).values()]
    return found
