"""Recordings binned into frames and kept in memory, and the batches made of them."""

from typing import Any, NamedTuple

import numpy as np
import torch

from snn_async.data.archive import Recordings
from snn_async.data.events import SensorSize, bin_events
from snn_async.errors import DataError

from .split_data import Batch

MAX_BYTES = 8 * 2**30


class Frames(NamedTuple):
    """Binned recordings, as arrays or tensors: counts (N, T, P, H, W) uint8 or int16, label (N,) int64."""

    counts: Any
    label: Any


def time_first(batch: Batch) -> Batch:
    """Collate what `Samples` gives: (B, T, ...) counts become (T, B, ...) float32."""
    x = batch.x.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return Batch(x, batch.y, batch.sample_ids)


def bin_archive(archive: Recordings, sensor_size: SensorSize, window_us: int, frames: int) -> Frames:
    """Return every recording's event counts in `frames` windows of `window_us` microseconds from t = 0.

    Raises:
        DataError: no event lies in the windows, or their frames would not fit in memory.
    """
    height, width, polarities = sensor_size
    shape = (len(archive), frames, polarities, height, width)
    if np.prod(shape, dtype=float) > MAX_BYTES:
        raise DataError(
            f"{shape[0]} recordings in {frames} frames of {polarities} x {height} x {width} need more than "
            f"{MAX_BYTES / 2**30:g} GiB; choose fewer frames (a longer time window or an earlier end)"
        )
    counts = np.zeros(shape, np.uint8)
    for i in range(len(archive)):
        binned = bin_events(archive[i], sensor_size, window_us, frames)
        if counts.dtype == np.uint8 and binned.max() > 255:
            counts = counts.astype(np.int16)
        counts[i] = binned
    if not counts.any():
        raise DataError(
            f"no recording has an event in the first {frames * window_us} us; its times must start near 0 "
            "(subtract each recording's first)"
        )
    return Frames(counts, archive.label)
