"""Calling a model whose forward is one timestep with a whole sequence."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snn_async.errors import InputError, UnsupportedModelError


def over_time(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call `model` once per timestep and return its results stacked, (T, ...) each.

    Every tensor among the arguments has time in front. States that the forward takes besides, and returns after its
    result, are passed on; they may be left out, and the first timestep then starts from rest.

    Raises:
        InputError: if tensors differ in T.
        UnsupportedModelError: if the forward takes more arguments than it returns states.
    """
    tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    lengths = {len(value) if value.dim() else 0 for value in tensors}
    if len(lengths) != 1 or lengths == {0}:
        raise InputError(
            f"the forward of {type(model).__name__} is one timestep, so every tensor that it is given must have time "
            f"in front; they have {sorted(lengths)} timesteps"
        )
    required, optional = _states(model, args, kwargs)
    results: list[Any] = []
    states: dict[str, Any] = {name: torch.zeros(0) for name in required}
    for t in range(lengths.pop()):
        now, named = pytree.tree_map(lambda v, t=t: v[t] if isinstance(v, Tensor) else v, (args, kwargs))
        results.append(model(*now, **named, **states))
        states = _returned(model, results[-1], required or optional, bool(required))
    return pytree.tree_map(lambda *values: _stacked(values), *results)


def _states(model: nn.Module, args: Any, kwargs: Any) -> tuple[list[str], list[str]]:
    """Return the arguments of the forward that are not given: those without a default, and those that are None."""
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind_partial(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"{type(model).__name__} cannot be called with what is given: {error}") from error
    missing = [
        p
        for name, p in signature.parameters.items()
        if name not in bound.arguments and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    required = [p.name for p in missing if p.default is p.empty]
    return required, [p.name for p in missing if p.default is None]


def _returned(model: nn.Module, result: Any, names: list[str], needed: bool) -> dict[str, Any]:
    """Return the states among a result, by the argument that takes them."""
    if not names:
        return {}
    given = list(result) if isinstance(result, tuple | list) else [result]
    if needed and len(given) == len(names):  # what it returns are its states
        return dict(zip(names, given, strict=True))
    if len(given) <= len(names):
        if needed:
            raise UnsupportedModelError(
                f"the forward of {type(model).__name__} takes {names}, but does not return as many states after its "
                "result; return them, or hold them in the model"
            )
        return {}
    return dict(zip(names, given[len(given) - len(names) :], strict=True))


def _stacked(values: tuple[Any, ...]) -> Any:
    return torch.stack(values) if isinstance(values[0], Tensor) else values[0]
