"""What DataModules share whose samples are in memory: options, one split, batches."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from snn_async.data.options import at_least
from snn_async.errors import ConfigError

from .split import Split


class Batch(NamedTuple):
    """One batch: x (T, B, C, H, W) float32 event counts or images, y (B,) int64 labels, sample_ids (B,) int64.

    A sample id is the sample's index in the whole data set, so what depends on it (a random schedule) does
    not depend on the batch.
    """

    x: Tensor
    y: Tensor
    sample_ids: Tensor


class Samples(Dataset):
    """Some of the samples in memory: values (N, ...), label (N,) and the indices (M,) of those meant."""

    def __init__(self, values: Tensor, label: Tensor, indices: Tensor) -> None:
        self.values, self.label, self.indices = values, label, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, items: int | list[int]) -> Batch:
        """Return one or several samples as they are kept, batch first, for `SplitData.collate`."""
        at = self.indices[items]
        return Batch(self.values[at], self.label[at], at)

    __getitems__ = __getitem__  # which a DataLoader asks for several at once


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
        self._samples: Samples | None = None
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
        return int(self.samples.label.max()) + 1

    @property
    def samples(self) -> Samples:
        """All samples, whatever their part; reads the data if `setup` has not."""
        self.setup()
        assert self._samples is not None
        return self._samples

    @property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """Sample indices, ascending, of "train", "val" and "test"."""
        self.setup()
        return self._parts

    @abstractmethod
    def load(self) -> tuple[NDArray, NDArray[np.int64]]:
        """Read or make the samples, once, and return them, (N, ...), with their labels (N,)."""

    def divide(self, label: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Return the parts of samples with these labels."""
        return self.split.indices(label)

    @property
    @abstractmethod
    def collate(self) -> Callable[[Any], Any]:
        """What makes a `Batch` of a data set's items."""

    def setup(self, stage: str | None = None) -> None:
        """Read and split the samples, once, whatever the stage.

        Raises:
            DataError: samples that cannot be read, or too few for the split.
        """
        if self._samples is None:
            values, label = self.load()
            self._parts = self.divide(label)
            every = torch.arange(len(label))
            self._samples = Samples(torch.from_numpy(values), torch.from_numpy(label), every)

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
            Samples(self.samples.values, self.samples.label, torch.from_numpy(self.parts[part])),
            batch_size=self.batch_size,  # by name: Lightning's predict makes the loader again from keywords
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=self.collate,
        )


def _options(kind: type) -> list[str]:
    """Return the names of a class's own options."""
    return [p.name for p in inspect.signature(kind).parameters.values() if p.kind is not p.VAR_KEYWORD]
