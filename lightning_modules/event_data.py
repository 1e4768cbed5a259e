"""What DataModules of event recordings share: frames in memory, batches with time first."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.event_frames import FrameDataset, Frames, time_first
from lightning_modules.split_data import SplitData
from snn_async.data.events import SensorSize
from snn_async.errors import ConfigError


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
        self._frames: FrameDataset | None = None

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
    def frames(self) -> FrameDataset:
        """All recordings, whatever their part; reads the data if `setup` has not."""
        self.setup()
        assert self._frames is not None
        return self._frames

    @abstractmethod
    def load_frames(self) -> Frames:
        """Read or make the recordings and bin them."""

    def load(self) -> NDArray[np.int64]:
        """Bin the recordings and return their labels (N,)."""
        counts, label = self.load_frames()
        if self.binarize:
            counts = np.minimum(counts, 1).astype(np.uint8)
        every = torch.arange(len(label))
        self._frames = FrameDataset(torch.from_numpy(counts), torch.from_numpy(label), every)
        return label

    def dataset(self, indices: Tensor) -> FrameDataset:
        """Return the data set of some of the recordings."""
        return FrameDataset(self.frames.counts, self.frames.label, indices)

    @property
    def collate(self) -> Callable[[Any], Any]:
        """`time_first`."""
        return time_first
