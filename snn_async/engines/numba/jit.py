"""How functions are compiled: the decorators.

Loops over neurons live in functions of plain arrays, which LLVM vectorizes; what passes the tuples of `records` around
is inlined, because passing them costs more than most of these functions do.
"""

from numba import njit

# Nothing allocates, so numba's reference counting is off: its atomic operations took most of the time.
# Only the entry points are called from Python: wrappers of the others would be copies that take time to compile.
# Only the two entry points are cached (`compile`): a cache knows nothing of the files it calls into.
_OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}
_INNER = _OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
compiled = njit(**_INNER)
open_inlined = njit(forceinline=True, **_OPTIONS)  # can be called from Python, too
inlined = njit(forceinline=True, **_INNER)
summing = njit(fastmath={"reassoc", "contract", "nsz"}, **_INNER)
entry_point = njit(cache=True, **_OPTIONS)
