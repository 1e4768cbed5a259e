"""Checks of the numbers that cameras, splits and data sets take as options."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from snn_async.errors import ConfigError

Number = TypeVar("Number", int, float)


def plain(kind: type[Number], value: Any) -> Number | None:
    """Return Python's or numpy's number as a Python `kind`; None for what is none, or beyond 64 bits."""
    kinds: tuple[Any, ...] = (int, np.integer) if kind is int else (int, np.integer, float, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not -(2**63) < value < 2**63:
        return None
    return kind(value)


def checked(kind: type[Number], name: str, value: Any, fits: Callable[[Number], bool], wanted: str) -> Number:
    """Return the option as a Python `kind` that `fits`.

    Raises:
        ConfigError: naming the option, its value and what is `wanted`.
    """
    number = plain(kind, value)
    if number is None or not fits(number):
        raise ConfigError(f"{name}={value!r}: give {wanted}")
    return number


def at_least(least: int, name: str, value: Any) -> int:
    """Return the option as an int from `least` to 2**31 - 1, or raise ConfigError."""
    wanted = f"a whole number of at least {least} and below 2**31"
    return checked(int, name, value, lambda number: least <= number < 2**31, wanted)
