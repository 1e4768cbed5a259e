"""The embedded data set: scikit-learn's 1,797 handwritten digits, seen by a simulated event camera."""

import hashlib
import json
import os
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from snn_async.data.archive import Recordings, read_npz, write_npz
from snn_async.data.camera import SaccadeCamera
from snn_async.data.events import SensorSize
from snn_async.data.options import at_least
from snn_async.errors import ConfigError, DataError

from ..output_files import check_writable
from .event_data import EventData
from .event_frames import Frames, bin_archive

CACHE_VERSION = 1  # raise when the camera or the binning changes what it returns


class DigitEvents(EventData):
    """1,797 digits of 10 classes as events of three saccades (20 x 20 pixels, 0.3 s), binned by tonic.

    Args:
        frames: T, the number of frames.
        time_window_us: length of a frame in microseconds.
        camera: the simulated camera; `SaccadeCamera()` if None.
        camera_seed: seed of the camera's noise events.
        cache_dir: folder for the binned recordings; None: "snn-async" in the user's cache folder.
        **options: those of `EventData` and `SplitData`.

    Raises:
        ConfigError: an option outside its range, or (on use) a cache folder that cannot be written.
    """

    def __init__(
        self,
        frames: int = 10,
        time_window_us: int = 30_000,
        camera: SaccadeCamera | None = None,
        camera_seed: int = 0,
        cache_dir: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.frame_count = at_least(1, "frames", frames)
        self.time_window_us = at_least(1, "time_window_us", time_window_us)
        self.camera, self.camera_seed = camera or SaccadeCamera(), at_least(0, "camera_seed", camera_seed)
        self.cache_dir = Path(cache_dir) if cache_dir else user_cache()

    @property
    def sensor_size(self) -> SensorSize:
        """(H, W, 2) of the camera."""
        return self.camera.sensor_size

    @property
    def timesteps(self) -> int:
        """T."""
        return self.frame_count

    @property
    def num_classes(self) -> int:
        """10."""
        return 10

    @cached_property
    def archive(self) -> Recordings:
        """The recordings' events, before binning (simulated on first use)."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        events, offset = self.camera.record(digits.images / 16, np.random.default_rng(self.camera_seed))
        return Recordings(events, offset, digits.target.astype(np.int64))

    @property
    def cache_file(self) -> Path:
        """Where the binned recordings are kept; every option they depend on is part of the name."""
        options = [CACHE_VERSION, asdict(self.camera), self.camera_seed, self.time_window_us, self.timesteps]
        key = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]
        return self.cache_dir / f"digit-events-{key}.npz"

    def prepare_data(self) -> None:
        """Make the cache file, in one process only."""
        self.load_frames()

    def load_frames(self) -> Frames:
        """Return the binned recordings from the cache file, made if it is absent or damaged."""
        if self.cache_file.exists():
            try:
                return self._cached()
            except DataError as error:
                rank_zero_info(f"Making the digit events again: {error}")
        try:
            check_writable(self.cache_dir)  # before the work
        except ConfigError as error:
            raise ConfigError(f"cache_dir: {error}") from error
        frames = bin_archive(self.archive, self.sensor_size, self.time_window_us, self.timesteps)
        write_npz(self.cache_file, counts=frames.counts, label=frames.label)
        return frames

    def _cached(self) -> Frames:
        arrays = read_npz(self.cache_file, Frames._fields)
        counts, label = arrays["counts"], arrays["label"]
        fits = counts.shape == (*label.shape, self.timesteps, *self.input_shape) and label.ndim == 1
        if not fits or counts.dtype not in (np.uint8, np.int16):
            raise DataError(f"{self.cache_file} holds frames of shape {counts.shape} and {counts.dtype}")
        if label.dtype != np.int64 or not np.isin(label, range(self.num_classes)).all():
            raise DataError(f"{self.cache_file} holds labels that are no digits ({label.dtype})")
        return Frames(counts, label)


def user_cache() -> Path:
    """Return the project's folder in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snn-async"
