"""What every model and every result was made of, as fingerprints: they are kept as long as it is the same."""

import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.seed import isolate_rng

from ..fingerprint import fingerprint, fingerprint_of_batches
from ..training.lightning_warnings import quiet_lightning
from ..user_errors import blame
from .fold_data import held_out
from .plan import Case, Condition
from .settings import CompareSettings
from .train import initial_model

Parts = dict[str, str]


class Keys:
    """Fingerprints of a comparison's models and results.

    Args:
        record: the settings as they were given: plain values, classes named by `class_path`, functions.
        data_of: returns the data module of a fold.
    """

    def __init__(
        self,
        settings: CompareSettings,
        record: Mapping[str, Any],
        data_of: Callable[[int | None], LightningDataModule],
    ) -> None:
        self.settings, self.data_of = settings, data_of
        chosen = {name: record.get(name) for name in ("model", "model_args", "execution", "batch_first")}
        training = {k: v for k, v in (record.get("training") or {}).items() if k != "methods"}
        self.shared = fingerprint(_with_classes(chosen), _with_classes(training), settings.folds)
        self.data_options = fingerprint(_without_places(_with_classes(record.get("data"))))
        self.parts, self._contents = cache(self._parts), cache(self._contents_of)

    def _parts(self, case: Case) -> Parts:
        """Return what a model is made of: its "data", "network" (untrained) and "settings"."""
        return {
            "data": fingerprint(self.data_options, self._contents(case.fold)[0]),
            "network": fingerprint(initial_model(case, self.settings)),
            "settings": fingerprint(self.shared, case),
        }

    def row(self, case: Case, condition: Condition) -> str:
        """Return the fingerprint of one result."""
        settings = self.settings
        options = settings.options(condition.execution)
        test = self._contents(case.fold)[1]
        return fingerprint(self.parts(case), test, condition, options, settings.evaluation.seed)

    def _contents_of(self, fold: int | None) -> tuple[str, str]:
        """Return fingerprints of what a fold's models are trained on, and of its test data."""
        data, selects = self.data_of(fold), self.settings.training.select == "best"
        with isolate_rng(), quiet_lightning(), blame("data"):
            torch.manual_seed(0), np.random.seed(0), random.seed(0)  # data may be drawn
            data.prepare_data()
            data.setup("fit")
            loaders = [data.train_dataloader(), *([data.val_dataloader()] if selects else [])]
            trained = [fingerprint_of_batches(CombinedLoader(loader, "sequential")) for loader in loaders]
            return fingerprint(trained), fingerprint_of_batches(held_out(data))


def changed(old: Mapping[str, Any], new: Parts) -> str:
    """Return in words which parts differ."""
    return " and ".join(name for name in new if old.get(name) != new[name])


def _with_classes(value: Any) -> Any:
    """Return the value with every class that it names beside the name."""
    if isinstance(value, Mapping):
        kind = [locate(value["class_path"])] if isinstance(value.get("class_path"), str) else []
        return [{k: _with_classes(v) for k, v in value.items()}, *kind]
    if isinstance(value, list | tuple):
        return [_with_classes(item) for item in value]
    return value


def _without_places(value: Any) -> Any:
    """Return options without those that leave the data as they are: paths, whose contents count, and workers."""
    if isinstance(value, Mapping):
        return {k: _without_places(v) for k, v in value.items() if k != "num_workers"}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return None if isinstance(value, str) and Path(value).exists() else value
