"""How functions are compiled, and how records (`records`) are passed to them: as one pointer each.

A record is a named tuple of arrays and numbers. For compiled functions it lies in memory as 8-byte slots: a number, or
an array's address and lengths. Reading a member is a load, so records pass through calls that are not inlined, and
every function is compiled once. Kernels call each other by address, so each is compiled and kept on disk by itself,
and only if a graph needs it.
"""

import ctypes
import hashlib
import logging
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.datamodel import models, register_default
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic
from numba.np import numpy_support
from numba.np.arrayobj import make_array, populate_array

# Nothing allocates, so numba's reference counting is off. Only kernels are called from outside.
_OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cpython_wrapper": True}
_INNER = _OPTIONS | {"no_cfunc_wrapper": True}
compiled = njit(**_INNER)
inlined = njit(
    inline="always", **_INNER
)  # before types are inferred, so compiled once; may return parts of arrays
open_inlined = njit(
    forceinline=True, nogil=True, error_model="numpy", _nrt=False
)  # can be called from Python, too
summing = njit(fastmath={"reassoc", "contract", "nsz"}, **_INNER)


class Record(types.Type):
    """A record's type: the names and types of its members."""

    def __init__(self, kind: str, members: tuple[tuple[str, types.Type], ...]) -> None:
        self.members = dict(members)
        self.slots, at = {}, 0
        for member, type_ in members:
            self.slots[member] = at
            at += 1 + getattr(type_, "ndim", 0)
        digest = hashlib.sha256(repr(members).encode()).hexdigest()[:12]
        super().__init__(name=f"{kind}_{digest}")


@register_default(Record)
class _RecordModel(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Record) -> None:
        super().__init__(manager, type_, ir.IntType(8).as_pointer())


@infer_getattr
class _RecordMembers(AttributeTemplate):
    key = Record

    def generic_resolve(self, record: Record, member: str) -> types.Type | None:
        return record.members.get(member)


@lower_getattr_generic(Record)
def _read_member(context: Any, builder: Any, record: Record, value: Any, member: str) -> Any:
    type_, first = record.members[member], record.slots[member]
    slots = builder.bitcast(value, ir.IntType(64).as_pointer())

    def slot(i: int) -> Any:
        return builder.load(builder.gep(slots, [ir.Constant(ir.IntType(32), first + i)]))

    if not isinstance(type_, types.Array):
        own = context.get_value_type(type_)
        if isinstance(own, ir.IntType):
            return slot(0) if own.width == 64 else builder.trunc(slot(0), own)
        return (
            builder.bitcast(slot(0), own)
            if isinstance(own, ir.DoubleType)
            else builder.inttoptr(slot(0), own)
        )
    array = make_array(type_)(context, builder)
    item = context.get_abi_sizeof(context.get_data_type(type_.dtype))
    shape = [slot(1 + i) for i in range(type_.ndim)]
    strides = [ir.Constant(ir.IntType(64), item)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(
        array,
        data=builder.inttoptr(slot(0), array.data.type),
        shape=cgutils.pack_array(builder, shape),
        strides=cgutils.pack_array(builder, strides),
        itemsize=ir.Constant(ir.IntType(64), item),
        meminfo=None,
    )
    return array._getvalue()


def array_type(array: np.ndarray) -> types.Array:
    return _array_type(array.dtype, array.ndim)


@cache
def _array_type(dtype: np.dtype, ndim: int) -> types.Array:
    return types.Array(numpy_support.from_dtype(dtype), ndim, "C")


class Packed:
    """A record in memory, and what it keeps alive."""

    def __init__(self, record: Any) -> None:
        self.record = record
        slots: list[int] = []
        kinds: list[Any] = []
        for value in record:
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous
                slots.append(value.ctypes.data)
                slots.extend(value.shape)
                kinds.append((value.dtype, value.ndim))
            else:
                slots.append(
                    int(np.float64(value).view(np.int64)) if isinstance(value, float) else int(value)
                )
                kinds.append(type(value))
        self.slots = np.array([slot & 0xFFFFFFFFFFFFFFFF for slot in slots], dtype=np.uint64)
        self.address = self.slots.ctypes.data
        self.type = _record_type(type(record), tuple(kinds))  # type: ignore[arg-type]


_NUMBERS = {
    int: types.int64,
    np.int64: types.int64,
    np.uint64: types.uint64,
    float: types.float64,
    bool: types.boolean,
}


@cache
def _record_type(kind: Any, members: tuple[Any, ...]) -> Record:
    kinds = (_array_type(*one) if isinstance(one, tuple) else _NUMBERS[one] for one in members)
    return Record(kind.__name__, tuple(zip(kind._fields, kinds, strict=True)))


@intrinsic
def call(typing: Any, address: Any, arguments: Any) -> Any:
    """Call the kernel at an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        passed = cgutils.unpack_tuple(builder, values[1])
        function = ir.FunctionType(context.get_value_type(types.none), [value.type for value in passed])
        return builder.call(builder.inttoptr(values[0], function.as_pointer()), passed)

    return types.none(types.int64, arguments), generate


def _fingerprint() -> str:
    """Of the source of everything that kernels call: numba's cache knows of a kernel's own file only."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in (*sorted(folder.rglob("*.py")), folder.parent.parent / "random_keys.py"):
        source = path.read_bytes()
        if path.stem in ("codes", "jit", "random_keys") or b"snn_async.engines.numba.jit" in source:
            digest.update(source)
    return digest.hexdigest()


_FINGERPRINT = _fingerprint()
_PROTOTYPES = [ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * many) for many in range(16)]
_ONE_AT_A_TIME = threading.Lock()
_LOG = logging.getLogger(__name__)


class _Cache(FunctionCache):
    def __init__(self, kernel: "Kernel") -> None:
        super().__init__(kernel.function)
        self.kernel = kernel.function.__name__

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        return (*super()._index_key(signature, codegen), _FINGERPRINT)

    def load_overload(self, signature: Any, context: Any) -> Any:
        found = super().load_overload(signature, context)
        if found is None:
            _LOG.warning("compiling %s of engine 'numba', once on this machine", self.kernel)
        return found


class Kernel:
    """A function of records and integers that returns nothing, compiled and kept on disk by itself."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self._found: dict[tuple[int, ...], Any] = {}

    def address(self, *kinds: types.Type) -> int:
        """Return where it lies, compiled for these types."""
        key = tuple(map(id, kinds))  # types are made once, and their hashes take long
        if key not in self._found:
            with _ONE_AT_A_TIME:
                if key not in self._found:
                    self._found[key] = self._compile(kinds)
        return self._found[key].address

    def _compile(self, kinds: tuple[types.Type, ...]) -> Any:
        done: Any = CFunc(self.function, (kinds, types.none), {}, _OPTIONS)
        try:
            done._cache = _Cache(self)
        except RuntimeError:  # nowhere to keep it
            _LOG.warning("compiling %s of engine 'numba' in every process", self.function.__name__)
        done.compile()
        return done

    def __call__(self, *arguments: "Packed | int") -> None:
        kinds = tuple(a.type if isinstance(a, Packed) else types.int64 for a in arguments)
        _PROTOTYPES[len(arguments)](self.address(*kinds))(
            *(a.address if isinstance(a, Packed) else a for a in arguments)
        )
