"""What something is, in 16 digits: equal for equal values, networks, functions and data, in every process.

Code counts where it is the user's own: a function is its bytecode, defaults, closure and the globals it names, a class
its functions. Of installed libraries names count, of objects without a known content their class.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .user_errors import is_own, is_own_class

PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice),
    *(PurePath, Enum, np.generic, torch.dtype, torch.device),
)
# Equal ones may or may not be one object, as Python likes.
UNNUMBERED = (tuple, frozenset, CodeType, MethodType, functools.partial, BuiltinFunctionType)
UNINTERESTING = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__qualname__"),
    *("__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl", "__slots__"),
}


def fingerprint(*values: Any) -> str:
    """Return what `values` are: plain values, containers, tensors, arrays, modules, functions, classes, objects."""
    return _Digest().of(values)


def fingerprint_of_batches(batches: Iterable[Any]) -> str:
    """Return what a loader gives, one batch in memory at a time."""
    return fingerprint([fingerprint(batch) for batch in batches])


class _Digest:
    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: dict[int, tuple[int, Any]] = {}  # objects by id, kept alive so that an id stays theirs

    def of(self, value: Any) -> str:
        self.add(value)
        return self.hash.hexdigest()[:16]

    def text(self, *parts: object) -> None:
        for part in parts:
            content = part if isinstance(part, bytes | memoryview) else str(part).encode()
            self.hash.update(b"%d:" % len(content))
            self.hash.update(content)

    def add(self, value: Any) -> None:
        """Take a value in; one that was met before, as in a cycle, by its number."""
        if isinstance(value, PLAIN):
            self.text(type(value).__qualname__, repr(value))
            return
        if not isinstance(value, UNNUMBERED):
            if id(value) in self.seen:
                self.text("again", self.seen[id(value)][0])
                return
            self.seen[id(value)] = len(self.seen), value
        self._take_in(value)

    def _take_in(self, value: Any) -> None:
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous()
            self.text("tensor", value.dtype, tuple(value.shape))
            self.text(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
        elif isinstance(value, np.ndarray):
            self.text("array", value.dtype.str, value.shape)
            self.add(value.tolist()) if value.dtype.hasobject else self.text(
                np.ascontiguousarray(value).tobytes()
            )
        elif isinstance(value, Mapping):
            self._items("mapping", value)
        elif isinstance(value, list | tuple):
            self.text("sequence", len(value))
            for item in value:
                self.add(item)
        elif isinstance(value, set | frozenset):
            self.text("set", *sorted(fingerprint(item) for item in value))
        elif isinstance(value, CodeType):
            self._code(value)
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, MethodType):
            self.add((value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            self.add(("partial", value.func, value.args, value.keywords))
        elif isinstance(value, classmethod | staticmethod):
            self.add(value.__func__)
        elif isinstance(value, property):
            self.add((value.fget, value.fset))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, ModuleType):
            self.text("module", value.__name__)
        elif isinstance(value, BuiltinFunctionType):
            self.text("builtin", value.__module__, value.__qualname__)
        else:
            self._object(value)

    def _items(self, kind: str, items: Mapping[Any, Any]) -> None:
        self.text(kind, len(items))
        for key, value in items.items():
            self.add(key)
            self.add(value)

    def _object(self, value: Any) -> None:
        self.add(type(value))
        if isinstance(value, nn.Module):
            # Hooks are kept by numbers that count all hooks of the process.
            contents = {k: list(v.values()) if "_hooks" in k and v else v for k, v in vars(value).items()}
            self._items("network", contents)
        elif is_own_class(type(value)) or is_dataclass(value):
            self._items("object", getattr(value, "__dict__", {}))
        elif " at 0x" not in repr(value):
            self.text(repr(value))

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            self.text("class", base.__module__, base.__qualname__)
            if is_own_class(base):
                self._items("body", {k: v for k, v in sorted(vars(base).items()) if k not in UNINTERESTING})

    def _function(self, function: FunctionType) -> None:
        self.text("function", function.__module__, function.__qualname__)
        self.add((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # of a name that is not bound yet
                self.text("empty cell")
        if is_own(function.__code__.co_filename):
            self._code(function.__code__, documented=function.__doc__ is not None)
            self._globals(function)

    def _code(self, code: CodeType, documented: bool = False) -> None:
        self.text("code", code.co_code, *code.co_names)
        self.add(code.co_consts[documented:])

    def _globals(self, function: FunctionType) -> None:
        names = sorted(_names(function.__code__))
        found = {name: function.__globals__[name] for name in names if name in function.__globals__}
        self._items("globals", found)
        for module in found.values():
            if isinstance(module, ModuleType) and is_own(getattr(module, "__file__", None) or "<"):
                self._items(
                    "of a module", {name: vars(module)[name] for name in names if name in vars(module)}
                )


def _names(code: CodeType) -> set[str]:
    inner = (_names(c) for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*inner)
