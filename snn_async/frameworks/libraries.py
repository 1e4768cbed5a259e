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
    adapter = adapter_of(module)
    observed = adapter is not None and adapter.is_neuron(
        module
    )  # its forward hooks see the asynchronous spikes
    for hooks in HOOKS:
        others = [
            hook
            for hook in getattr(module, hooks, {}).values()
            if not type(hook).__module__.startswith("torch.nn.utils.")  # weight norm, pruning masks
        ]
        if others and not (observed and hooks == "_forward_hooks"):
            raise UnsupportedModelError(
                f"{describe(path, module)} has {hooks.strip('_').replace('_', ' ')}, which asynchronous "
                "execution would not call; remove them, or register forward hooks on the neurons"
            )


def replaced_methods(module: nn.Module, base: type) -> list[str]:
    """Return the methods of `base` that a subclass of it, or the instance, replaces."""
    mro = type(module).__mro__
    return sorted(
        {
            name
            for scope in (vars(module), *(vars(cls) for cls in mro[: mro.index(base)]))
            for name, value in scope.items()
            if name not in _HARMLESS and _is_method(value) and _is_method(getattr(base, name, None))
        }
    )


def rules_of(module: nn.Module, classes: Sequence[type]) -> type | None:
    """Return the class whose rules a module keeps: the first it derives from, unless it replaces one of its methods."""
    base = next((cls for cls in classes if isinstance(module, cls)), None)
    return None if base is None or replaced_methods(module, base) else base


def check_supported(path: str, module: nn.Module, reasons: dict[str, str], bases: dict[str, str]) -> type:
    """Return the class of `module`.

    Args:
        reasons: why a class, and what derives from it, is refused, by its name.
        bases: the same for classes of which those that derive from them may be supported.

    Raises:
        UnsupportedModelError: if it is refused.
    """
    kind = type(module)
    reason = next((reasons[cls.__name__] for cls in kind.__mro__ if cls.__name__ in reasons), None)
    reason = reason or bases.get(kind.__name__)
    if reason is not None:
        raise UnsupportedModelError(f"{describe(path, module)} is not supported: {reason}")
    return kind


def firing(where: str, surrogate: Any) -> dict[str, Any]:
    """Return the members `inclusive` and `binary` of a neuron with this surrogate function.

    Raises:
        UnsupportedModelError: unless its values are spikes: 0 below 0, above it 1 or (as a count) whole numbers.
    """
    below, above = torch.linspace(-3.0, -1e-3, 30), torch.linspace(1e-3, 8.0, 80)
    x = torch.cat((below, above, torch.zeros(1)))
    try:
        with torch.no_grad():
            value = surrogate(x.clone())
    except Exception as error:
        raise UnsupportedModelError(
            f"{where}: its surrogate function cannot be called ({type(error).__name__}: {error}); "
            "give the neuron another one"
        ) from error
    if isinstance(value, Tensor) and value.shape == x.shape:
        low, high, at_zero = value.split([len(below), len(above), 1])
        if not low.any() and bool((high == 1).all()) and at_zero.item() in (0, 1):
            return {"inclusive": bool(at_zero), "binary": True}
        if low[0] == 0 and torch.equal(value, value.round()) and value.min() == 0 and value.any():
            return {"inclusive": False, "binary": False}
    raise UnsupportedModelError(
        f"{where}: its surrogate function does not return spikes (1 above 0, 0 below 0); "
        "asynchronous execution needs binary spikes, use a spiking surrogate"
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


def potential_first(names: Sequence[str], otherwise: int = 0) -> tuple[str, ...]:
    """Return states in the order of `Neuron.State`; spikes, which a call may take but no timestep needs, last.

    Args:
        otherwise: which is the potential if none has its usual name.
    """
    potential = next((name for name in ("mem", "v") if name in names), names[otherwise] if names else "")
    return tuple(sorted(names, key=lambda name: (name == "spk", name != potential)))


def scalar(value: Any) -> Tensor:
    """Return a live parameter as it is, a Python number as a float64 tensor (its full precision)."""
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)


def _is_method(value: Any) -> bool:
    return callable(value) or isinstance(value, staticmethod | classmethod | property)
