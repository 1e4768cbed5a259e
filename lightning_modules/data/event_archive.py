"""Recordings of any event camera, from one .npz file."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from snn_async.data.archive import Recordings, load_archive
from snn_async.data.events import SensorSize, crop
from snn_async.data.options import at_least, checked, plain
from snn_async.errors import ConfigError

from .event_data import EventData
from .event_frames import Frames, bin_archive


class EventArchive(EventData):
    """The recordings of an archive (see `snn_async.data.archive.load_archive`), binned by tonic.

    Args:
        path: the .npz file.
        sensor_size: (height, width) in pixels, or one number for a square sensor; a third entry must be 2.
        time_window_us: length of a frame in microseconds.
        first_ms: use only events before this time in milliseconds; None: all.
        frames: T, later events are left out; None: as `first_ms`, or else the longest recording, needs.
        **options: those of `EventData` and `SplitData`.

    Raises:
        ConfigError: an option outside its range.
        DataError: (on use) a file that is absent, damaged or wrong.
    """

    def __init__(
        self,
        path: str,
        sensor_size: int | list[int],
        time_window_us: int = 10_000,
        first_ms: float | None = None,
        frames: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if first_ms is not None:
            wanted = "milliseconds above 0 and below 2**31, or None for all events"
            first_ms = checked(float, "first_ms", first_ms, lambda number: 0 < number < 2**31, wanted)
        self.path, self.first_ms = path, first_ms
        self.time_window_us = at_least(1, "time_window_us", time_window_us)
        self.frame_count = None if frames is None else at_least(1, "frames", frames)
        self._sensor_size = full_size(sensor_size)
        self._recordings: Recordings | None = None

    @property
    def sensor_size(self) -> SensorSize:
        """(H, W, 2)."""
        return self._sensor_size

    @property
    def timesteps(self) -> int:
        """T; reads the file if it depends on it."""
        if self.frame_count is not None:
            return self.frame_count
        end_us = (
            self.first_ms * 1000 if self.first_ms is not None else self.archive.events["t"].max(initial=0) + 1
        )
        return int(np.ceil(end_us / self.time_window_us))

    @property
    def archive(self) -> Recordings:
        """The checked recordings, before cropping and binning (read on first use)."""
        if self._recordings is None:
            self._recordings = load_archive(self.path, self.sensor_size)
        return self._recordings

    def load_frames(self) -> Frames:
        """Read, crop and bin the archive."""
        return bin_archive(self._cropped(), self.sensor_size, self.time_window_us, self.timesteps)

    def _cropped(self) -> Recordings:
        if self.first_ms is None:
            return self.archive
        end_us = round(self.first_ms * 1000)
        kept = [crop(self.archive[i], 0, end_us) for i in range(len(self.archive))]
        offset = np.cumsum([0, *map(len, kept)])
        return Recordings(np.concatenate(kept), offset, self.archive.label)


def full_size(size: int | list[int]) -> SensorSize:
    """Return (H, W, 2) for a side, (H, W) or (H, W, 2).

    Raises:
        ConfigError: anything else.
    """
    given = [plain(int, side) or 0 for side in (size if isinstance(size, Iterable) else [size, size])]
    if (
        len(given) not in (2, 3)
        or not all(1 <= side <= 2**15 for side in given)
        or given[2:] not in ([], [2])
    ):
        raise ConfigError(
            f"sensor_size={size!r}: give height and width in whole pixels (1 to {2**15}), such as [34, 34]"
        )
    return given[0], given[1], 2
