"""Checks of options and inputs: one clear error, before any work is done."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_async.errors import InputError, OptionError
from snn_async.graph import Graph
from snn_async.neurons import REFRACTORY_MODES


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise OptionError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise OptionError(f"{name}={value!r} is unknown; choose one of {sorted(choices)}")


def check_refractory(refractory: str | None, dropout: float | None, where: str = "") -> None:
    """Raise OptionError unless both are None or within their range."""
    if refractory is not None:
        check_choice(where + "refractory", refractory, REFRACTORY_MODES)
    if dropout is not None:
        number = isinstance(dropout, int | float) and not isinstance(dropout, bool)
        if not number or not 0 <= dropout <= 1:
            raise OptionError(f"{where}refractory_dropout={dropout!r} must be a probability from 0 to 1")


def check_count(name: str, value: Any) -> None:
    """Raise OptionError unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value < 2**31:
        raise OptionError(f"{name}={value!r} must be an integer of at least 1 (and below 2**31)")


def check_seed(seed: Any) -> int:
    """Return the seed as an int, or raise OptionError."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise OptionError(f"seed={seed!r} must be an integer")
    return int(seed)


def check_batch_norm(batch_norm: Any) -> None:
    """Raise OptionError unless it is "frozen"."""
    if batch_norm != "frozen":
        raise OptionError(
            f"batch_norm={batch_norm!r} is not supported: an event is delivered alone, without a batch or feature map "
            "to take statistics of, and waiting for them would be the barrier; use 'frozen', the running statistics, "
            "or train the source model itself"
        )


def check_input_shape(shape: Any) -> tuple[int, ...]:
    """Return the shape of a sample as a tuple, or raise OptionError."""
    sides = tuple(shape) if isinstance(shape, tuple | list) else None
    if not sides or any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in sides):
        raise OptionError(
            f"input_shape={shape!r} must be the shape of one sample, such as (2, 34, 34): integers of at least 1"
        )
    return tuple(map(int, sides))


def not_finite(x: Tensor) -> InputError:
    """Return the error for an input (T, B, S) that holds NaN or infinity."""
    t, b, i = (~x.isfinite()).nonzero()[0].tolist()
    return InputError(f"x[{t}, {b}] has the value {x[t, b, i]} at feature {i}; inputs must be finite")


def check_sample_ids(sample_ids: Any, samples: int) -> Tensor:
    """Return (B,) int64 sample ids, 0, 1, ... if None.

    Raises:
        InputError: for another length or dtype.
    """
    if sample_ids is None:
        return torch.arange(samples)
    try:
        ids = np.asarray(sample_ids.detach().cpu() if isinstance(sample_ids, Tensor) else sample_ids)
    except ValueError:
        ids = np.asarray(None)
    if (
        ids.shape != (samples,)
        or ids.dtype.kind not in "iu"
        or (ids.dtype.kind == "u" and ids.max() >= 2**63)
    ):
        raise InputError(
            f"sample_ids has shape {ids.shape} and dtype {ids.dtype}; it must be {samples} integers, "
            "one per sample, below 2**63"
        )
    return torch.from_numpy(ids.astype(np.int64))


def check_sample(sample: Any, samples: int) -> int:
    """Return the sample's place in the batch, or raise InputError if there is none such."""
    whole = isinstance(sample, int | np.integer) and not isinstance(sample, bool)
    if not whole or not 0 <= sample < samples:
        raise InputError(
            f"sample={sample!r} is not one of the batch's {samples}; choose from 0 to {samples - 1}"
        )
    return int(sample)


def check_record(record: Sequence[str], graph: Graph) -> tuple[str, ...]:
    """Return the names, or raise InputError if one is no population."""
    if not isinstance(record, str | Sequence):
        raise InputError(f"record={record!r} must be a sequence of population names: {list(graph.index)}")
    names = (record,) if isinstance(record, str) else tuple(record)
    for name in names:
        if not isinstance(name, str) or name not in graph.index:
            raise InputError(f"record names {name!r}, which is no population; there are {list(graph.index)}")
    return names
