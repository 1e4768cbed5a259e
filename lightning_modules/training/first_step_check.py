"""One training step of a copy, before anything is written: what would fail later fails here."""

import copy
import warnings
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.seed import isolate_rng

from ..user_errors import blame
from .classifier import SpikingClassifier


def check_first_step(
    classifier: SpikingClassifier, data: pl.LightningDataModule, validate: bool, **trainer: Any
) -> None:
    """Train and validate a copy on one batch each; the classifier and the random numbers stay as they are.

    Args:
        validate: whether training will; a scheduler may then follow a validation metric.
        trainer: further options of Lightning's Trainer.

    Raises:
        ConfigError: if optimizer, scheduler, loss or data raise anything.
        SnnAsyncError: what network and data are refused for.
    """
    alone = copy.deepcopy(classifier)
    alone.on_fit_start = lambda: None  # type: ignore[method-assign]  # training itself says it
    with isolate_rng(), warnings.catch_warnings(), blame("the first training step fails"):
        warnings.simplefilter("ignore")  # training itself gives them
        pl.Trainer(
            max_epochs=1,
            limit_train_batches=1,
            limit_val_batches=1 if validate else 0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            **trainer,
        ).fit(alone, datamodule=data)
