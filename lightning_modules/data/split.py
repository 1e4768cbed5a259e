"""A split of samples into training, validation and test set, from a seed of its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_async.data.options import checked
from snn_async.errors import ConfigError, DataError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """How to split; the same labels always give the same parts.

    Attributes:
        val_fraction, test_fraction: shares of all recordings; 0 leaves a part empty. With `folds` the test
            set is one fold and test_fraction is not used.
        folds, fold: k-fold cross-validation, and which fold is the test set; None: one fixed split.
        seed: of the order in which recordings are dealt out.
        stratified: keep every class's share in each part.

    Raises:
        ConfigError: a value outside its range.
    """

    val_fraction: float = 0.15
    test_fraction: float = 0.15
    folds: int | None = None
    fold: int = 0
    seed: int = 0
    stratified: bool = True

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            wanted = "a share of at least 0 and below 1"
            checked(float, name, getattr(self, name), lambda share: 0 <= share < 1, wanted)
        wanted = "a whole number from 0 to 2**32 - 1"
        checked(int, "split_seed", self.seed, lambda seed: 0 <= seed < 2**32, wanted)
        if self.folds is not None:
            wanted = "a whole number of at least 2, or None for one fixed split"
            checked(int, "folds", self.folds, lambda folds: folds >= 2, wanted)
        wanted = f"a whole number from 0 to folds - 1 (folds={self.folds})"
        checked(int, "fold", self.fold, lambda fold: 0 <= fold < (self.folds or 1), wanted)
        if not isinstance(self.stratified, bool):
            raise ConfigError(f"stratified={self.stratified!r}: give True or False")
        if self.val_fraction + self.held_out >= 1:
            raise ConfigError(
                f"val_fraction={self.val_fraction} and a test share of {self.held_out:.3g} leave "
                "no training set; give less"
            )

    @property
    def held_out(self) -> float:
        """The test set's share."""
        return 1 / self.folds if self.folds else self.test_fraction

    def indices(self, label: NDArray) -> dict[str, Indices]:
        """Return the ascending indices of "train", "val" and "test" for labels (N,).

        Raises:
            DataError: too few recordings, of all or of one class.
        """
        try:
            rest, test = self._test(np.arange(len(label)), label)
            train, val = self._deal(rest, label, self.val_fraction / (1 - self.held_out))
        except ValueError as error:
            raise DataError(
                f"{len(label)} recordings, {_per_class(label).tolist()} per class, cannot be split "
                f"by {self} ({error}); give other fractions, fewer folds, or stratified=False"
            ) from error
        return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}

    def some(self, indices: Indices, label: NDArray, count: int) -> Indices:
        """Return `count` of the indices, ascending, always the same ones; all of them if they are fewer.

        Args:
            label: (N,) of all samples.

        Raises:
            DataError: a count too small for one sample of every class, if stratified.
        """
        if count >= len(indices):
            return indices
        try:
            return np.sort(self._deal(indices, label, count)[1])
        except ValueError as error:
            raise DataError(
                f"{count} of {len(indices)} samples cannot be taken by {self} ({error}); give more, or stratified=False"
            ) from error

    def _test(self, every: Indices, label: NDArray) -> tuple[Indices, Indices]:
        from sklearn.model_selection import KFold, StratifiedKFold

        if self.folds is None:
            return self._deal(every, label, self.test_fraction)
        if self.stratified and _per_class(label).min() < self.folds:
            raise ValueError("a class has fewer recordings than there are folds")
        kind: Any = StratifiedKFold if self.stratified else KFold
        deal = kind(self.folds, shuffle=True, random_state=self.seed)
        return list(deal.split(every, label))[self.fold]

    def _deal(self, indices: Indices, label: NDArray, share: float) -> tuple[Indices, Indices]:
        """Return what is left of `indices`, and the share (below 1) or number taken out."""
        from sklearn.model_selection import train_test_split

        if not share:
            return indices, indices[:0]
        by = label[indices] if self.stratified else None
        return train_test_split(indices, test_size=share, random_state=self.seed, stratify=by)


def _per_class(label: NDArray) -> NDArray[np.int64]:
    """Return how many recordings each class that occurs has."""
    return np.unique(label, return_counts=True)[1]
