"""Which library a module belongs to, its adapter, and what is asked of every module and neuron."""

import importlib
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from snn_async.errors import UnsupportedModelError

_LAYERS = {
    "snntorch": ("snntorch",),
    "spikingjelly": ("spikingjelly.activation_based.neuron", "spikingjelly.activation_based.layer"),
}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HARMLESS = {"__init__", "__repr__", "extra_repr", "__getstate__", "__setstate__", "__reduce__"}


class UnreadError(UnsupportedModelError):
    """What a forward does was not understood; `inside` is the path of the module whose forward it is, None if
    taking that module as it is would not help."""

    def __init__(self, message: str, inside: str | None) -> None:
        super().__init__(message)
        self.inside = inside


def describe(path: str, module: nn.Module) -> str:
    """Return how messages name a module: its path and class."""
    kind = type(module)
    return f"{repr(path) if path else 'the model'} ({kind.__module__.split('.')[0]}.{kind.__qualname__})"


def adapter_of(module: nn.Module) -> ModuleType | None:
    """Return the adapter of the library that a layer, or the class it derives from, belongs to."""
    for library, packages in _LAYERS.items():
        if any(
            f"{cls.__module__}.".startswith(tuple(f"{p}." for p in packages)) for cls in type(module).__mro__
        ):
            return importlib.import_module(f"snn_async.frameworks.{library}")
    return None


def check_module(path: str, module: nn.Module) -> None:
    """Raise UnsupportedModelError for a module that does more than its forward says, or whose forward is compiled."""
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"{describe(path, module)} is a scripted module, which cannot be followed; pass the module itself, "
            "not what torch.jit made of it"
        )
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        raise UnsupportedModelError(
            f"{describe(path, module)} has no parameters yet; run one batch through the model first"
        )
    for hooks in HOOKS:
        if getattr(module, hooks, None):
            raise UnsupportedModelError(
                f"{describe(path, module)} has {hooks.strip('_').replace('_', ' ')}, which asynchronous "
                "execution would not call; remove them before asynchronize "
                "(weight or spectral norm: use torch.nn.utils.parametrizations)"
            )


def check_not_overridden(path: str, module: nn.Module, base: type) -> None:
    """Raise UnsupportedModelError if a subclass of `base`, or the instance, replaces one of its methods."""
    mro = type(module).__mro__
    changed = [
        name
        for scope in (vars(module), *(vars(cls) for cls in mro[: mro.index(base)]))
        for name, value in scope.items()
        if name not in _HARMLESS and _is_method(value) and _is_method(getattr(base, name, None))
    ]
    if changed:
        raise UnsupportedModelError(
            f"{describe(path, module)} replaces {', '.join(sorted(set(changed)))} of {base.__name__}, so its "
            f"dynamics are unknown; use {base.__name__} itself"
        )


def supported_base(path: str, module: nn.Module, supported: Sequence[type], reasons: dict[str, str]) -> type:
    """Return the supported class whose rules `module` follows.

    Raises:
        UnsupportedModelError: for any other class, with the reason of its nearest base, or changed rules.
    """
    base = next((cls for cls in supported if isinstance(module, cls)), None)
    reason = next((reasons[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in reasons), None)
    if base is not None and reason is None:
        check_not_overridden(path, module, base)
        return base
    names = ", ".join(cls.__name__ for cls in supported)
    raise UnsupportedModelError(
        f"{describe(path, module)} is not supported: {reason or 'its rules are not mapped'}; "
        f"use one of {names}"
    )


def check_sizes(path: str, module: nn.Module, shape: tuple[int, ...] | None, **parameters: Any) -> None:
    """Raise UnsupportedModelError unless each parameter is finite and one value or broadcasts to the neurons' shape.

    Args:
        shape: of the population in the source model; None where it is not known yet.
    """
    for name, value in parameters.items():
        tensor = torch.as_tensor(value).detach()
        if shape is not None and not _broadcasts(tuple(tensor.shape), shape):
            raise UnsupportedModelError(
                f"{describe(path, module)}: {name} has shape {tuple(tensor.shape)}, but the population has "
                f"{math.prod(shape)} neurons of shape {shape}; give one value or shape {shape}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise UnsupportedModelError(
                f"{describe(path, module)}: {name} is not finite ({value}); give a finite value"
            )


def _broadcasts(sides: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if math.prod(sides) == 1:
        return True
    while len(sides) > len(shape) and sides[0] == 1:
        sides = sides[1:]
    ends = zip(sides[::-1], shape[::-1], strict=False)
    return len(sides) <= len(shape) and all(side in (1, size) for side, size in ends)


def scalar(value: Any) -> Tensor:
    """Return a live parameter as it is, a Python number as a float64 tensor (its full precision)."""
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)


def _is_method(value: Any) -> bool:
    return callable(value) or isinstance(value, staticmethod | classmethod | property)
