"""Pickling models whose surrogate functions are closures, as snnTorch's are (`surrogate.atan()`)."""

import copy
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError

LOCAL = ".<locals>."


@dataclass(frozen=True)
class Closure:
    """Stands for a function within a function where something is pickled: it is that function again when loaded."""

    function: FunctionType

    def __reduce__(self) -> tuple[Any, ...]:
        function = self.function
        cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
        place = (function.__module__, function.__qualname__, function.__code__.co_firstlineno)
        arguments = (*place, cells, function.__defaults__, function.__kwdefaults__)
        remade(*arguments)  # or it says now why not
        return remade, arguments


def remade(
    module: str, name: str, line: int, cells: tuple[Any, ...], defaults: Any, named: Any
) -> FunctionType:
    """Return a function within a function anew, with the values that it had from around it.

    Raises:
        UnsupportedModelError: if it is not found by its names.
    """
    scope = importlib.import_module(module)
    around: Any = scope
    for part in name.split(LOCAL)[0].split("."):
        around = getattr(around, part, None)
    found = [
        code
        for code in _codes(getattr(around, "__code__", None))
        if code.co_qualname == name and code.co_firstlineno == line and len(code.co_freevars) == len(cells)
    ]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"a model with the function {module}.{name} cannot be pickled or loaded: it is not found by that name; "
            "define it at the top of a module, or save a state_dict"
        )
    function = FunctionType(found[0], vars(scope), closure=tuple(map(CellType, cells)))
    function.__defaults__, function.__kwdefaults__, function.__qualname__ = defaults, named, name
    return function


def _codes(code: CodeType | None) -> Iterator[CodeType]:
    for constant in () if code is None else code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def picklable(model: nn.Module) -> nn.Module:
    """Return a model that shares all tensors with `model` and pickles; loaded, it has closures in its modules again."""
    held = (value for module in model.modules() for value in vars(module).values())
    states = [value for value in held if isinstance(value, Tensor)]
    tensors = (*model.parameters(), *model.buffers(), *states)
    own = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in own.modules():
        for name, value in vars(module).items():
            if isinstance(value, FunctionType) and LOCAL in value.__qualname__:
                vars(module)[name] = Closure(value)
    return own
