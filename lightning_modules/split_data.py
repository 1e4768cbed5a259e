"""What DataModules share whose samples are in memory: options, one split, batches with time first."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_modules.event_split import Split
from snn_async.data.options import at_least
from snn_async.errors import ConfigError


class SplitData(pl.LightningDataModule, ABC):
    """Samples read once, split once, and given out as `Batch`es.

    Args:
        batch_size: samples per batch.
        val_fraction, test_fraction: share of all samples held out, at least 0; with `folds` the test set
            is the fold instead of test_fraction.
        folds: number of folds of a cross-validation; None for one fixed split.
        fold: which of them is the test set, 0 to folds - 1.
        split_seed: seed of the split, which nothing else changes.
        stratified: keep every class's share in each part.
        num_workers: processes that assemble batches; 0 is fastest for samples in memory.

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
        num_workers: int = 0,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            kinds = [kind for kind in type(self).__mro__ if issubclass(kind, SplitData)]
            known = dict.fromkeys(name for kind in kinds for name in _options(kind))
            raise ConfigError(
                f"{', '.join(unknown)}: no option of {type(self).__name__}; it has {', '.join(known)}"
            )
        self.batch_size = at_least(1, "batch_size", batch_size)
        self.num_workers = at_least(0, "num_workers", num_workers)
        self.split = Split(val_fraction, test_fraction, folds, fold, split_seed, stratified)
        self._label: Tensor | None = None
        self._parts: dict[str, NDArray[np.int64]] = {}

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one sample in one timestep."""

    @property
    @abstractmethod
    def timesteps(self) -> int:
        """T of every sample."""

    @property
    def num_classes(self) -> int:
        """Highest label plus one; reads the data if `setup` has not."""
        self.setup()
        assert self._label is not None
        return int(self._label.max()) + 1

    @property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """Sample indices, ascending, of "train", "val" and "test"."""
        self.setup()
        return self._parts

    @abstractmethod
    def load(self) -> NDArray[np.int64]:
        """Read or make the samples, once, keep them, and return their labels (N,)."""

    def divide(self, label: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Return the parts of samples with these labels."""
        return self.split.indices(label)

    @abstractmethod
    def dataset(self, indices: Tensor) -> Dataset:
        """Return the data set of some of the samples."""

    @property
    @abstractmethod
    def collate(self) -> Callable[[Any], Any]:
        """What makes a `Batch` of a data set's items."""

    def setup(self, stage: str | None = None) -> None:
        """Read and split the samples, once, whatever the stage.

        Raises:
            DataError: samples that cannot be read, or too few for the split.
        """
        if self._label is None:
            label = self.load()
            self._parts = self.divide(label)
            self._label = torch.from_numpy(label)

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
            self.dataset(torch.from_numpy(self.parts[part])),
            batch_size=self.batch_size,  # by name: Lightning's predict makes the loader again from keywords
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=self.collate,
        )


def _options(kind: type) -> list[str]:
    """Return the names of a class's own options."""
    return [p.name for p in inspect.signature(kind).parameters.values() if p.kind is not p.VAR_KEYWORD]
