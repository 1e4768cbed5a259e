"""What DataModules of event recordings share: frames in memory, batches with time first."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_async.data.events import SensorSize
from snn_async.errors import ConfigError

from .event_frames import Frames, time_first
from .split_data import SplitData


class EventData(SplitData):
    """Recordings binned once into frames, split once, and given out as `Batch`es.

    Args:
        binarize: clip counts to 1.
        **options: those of `SplitData`.

    Raises:
        ConfigError: an option outside its range, or unknown.
    """

    def __init__(self, *, binarize: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(binarize, bool):
            raise ConfigError(f"binarize={binarize!r}: give True or False")
        self.binarize = binarize

    @property
    @abstractmethod
    def sensor_size(self) -> SensorSize:
        """(H, W, 2) in pixels and polarities."""

    @property
    def input_shape(self) -> SensorSize:
        """(P, H, W) of one frame."""
        height, width, polarities = self.sensor_size
        return polarities, height, width

    @property
    def frames(self) -> Frames:
        """All recordings as tensors, whatever their part; reads the data if `setup` has not."""
        return Frames(self.samples.values, self.samples.label)

    @abstractmethod
    def load_frames(self) -> Frames:
        """Read or make the recordings and bin them."""

    def load(self) -> tuple[NDArray, NDArray[np.int64]]:
        """Bin the recordings and return counts and labels."""
        counts, label = self.load_frames()
        return (np.minimum(counts, 1).astype(np.uint8) if self.binarize else counts), label

    @property
    def collate(self) -> Callable[[Any], Any]:
        """`time_first`."""
        return time_first
