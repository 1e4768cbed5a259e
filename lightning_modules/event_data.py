"""What DataModules of event recordings share: options, frames in memory, split, batches with time first."""

import inspect
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lightning_modules.event_frames import FrameDataset, Frames, time_first
from lightning_modules.event_split import Split
from snn_async.data.events import SensorSize
from snn_async.data.options import at_least
from snn_async.errors import ConfigError


class EventData(pl.LightningDataModule, ABC):
    """Recordings binned once into frames, split once, and given out as `Batch`es.

    Args:
        batch_size: recordings per batch.
        val_fraction, test_fraction: share of all recordings held out, at least 0; with `folds` the test set
            is the fold instead of test_fraction.
        folds: number of folds of a cross-validation; None for one fixed split.
        fold: which of them is the test set, 0 to folds - 1.
        split_seed: seed of the split, which nothing else changes.
        stratified: keep every class's share in each part.
        binarize: clip counts to 1.
        num_workers: processes that assemble batches; 0 is fastest for frames in memory.

    Raises:
        ConfigError: an option outside its range, or unknown.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        folds: int | None = None,
        fold: int = 0,
        split_seed: int = 0,
        stratified: bool = True,
        binarize: bool = False,
        num_workers: int = 0,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            known = [*inspect.signature(type(self)).parameters, *inspect.signature(EventData).parameters]
            raise ConfigError(
                f"{', '.join(unknown)}: no option of {type(self).__name__}; it has "
                f"{', '.join(name for name in dict.fromkeys(known) if name not in ('options', 'unknown'))}"
            )
        self.batch_size = at_least(1, "batch_size", batch_size)
        self.num_workers = at_least(0, "num_workers", num_workers)
        self.split = Split(val_fraction, test_fraction, folds, fold, split_seed, stratified)
        if not isinstance(binarize, bool):
            raise ConfigError(f"binarize={binarize!r}: give True or False")
        self.binarize = binarize
        self._frames: FrameDataset | None = None
        self._parts: dict[str, NDArray[np.int64]] = {}

    @property
    @abstractmethod
    def sensor_size(self) -> SensorSize:
        """(H, W, 2) in pixels and polarities."""

    @property
    @abstractmethod
    def timesteps(self) -> int:
        """T, the number of frames of every recording."""

    @property
    def input_shape(self) -> SensorSize:
        """(P, H, W) of one frame."""
        height, width, polarities = self.sensor_size
        return polarities, height, width

    @property
    def num_classes(self) -> int:
        """Highest label plus one; reads the data if `setup` has not."""
        self.setup()
        return int(self.frames.label.max()) + 1

    @property
    def frames(self) -> FrameDataset:
        """All recordings, whatever their part; reads the data if `setup` has not."""
        self.setup()
        assert self._frames is not None
        return self._frames

    @property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """Recording indices, ascending, of "train", "val" and "test"."""
        self.setup()
        return self._parts

    @abstractmethod
    def load_frames(self) -> Frames:
        """Read or make the recordings and bin them."""

    def setup(self, stage: str | None = None) -> None:
        """Bin and split the recordings, once, whatever the stage.

        Raises:
            DataError: recordings that cannot be read, or too few for the split.
        """
        if self._frames is None:
            counts, label = self.load_frames()
            self._parts = self.split.indices(label)
            if self.binarize:
                counts = np.minimum(counts, 1).astype(np.uint8)
            every = torch.arange(len(label))
            self._frames = FrameDataset(torch.from_numpy(counts), torch.from_numpy(label), every)

    def train_dataloader(self) -> DataLoader:
        """Return batches of the training set, shuffled by torch's generator."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return batches of the validation set, in order; no loader where val_fraction is 0."""
        return self._loader("val") if len(self.parts["val"]) else []

    def test_dataloader(self) -> DataLoader:
        """Return batches of the test set, in order.

        Raises:
            ConfigError: if there is no test set.
        """
        if not len(self.parts["test"]):
            raise ConfigError("test_fraction=0 leaves no test set; give a share above 0, or folds")
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Return batches of the test set, in order."""
        return self.test_dataloader()

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader:
        return DataLoader(
            self._part(part),
            batch_size=self.batch_size,  # by name: Lightning's predict makes the loader again from keywords
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=time_first,  # type: ignore[arg-type]  # gets what __getitems__ returns
        )

    def _part(self, part: str) -> FrameDataset:
        return FrameDataset(self.frames.counts, self.frames.label, torch.from_numpy(self.parts[part]))
