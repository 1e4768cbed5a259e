"""Train one model of a comparison."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from snn_async.errors import CheckpointError

from ..models.make_model import make_model
from ..output_files import write_whole
from ..training.checkpoints import check_architecture, kept, network_of, read_checkpoint
from ..training.classifier import SpikingClassifier
from ..training.lightning_warnings import quiet_lightning
from .plan import Case
from .settings import CompareSettings


def initial_model(case: Case, settings: CompareSettings) -> nn.Module:
    """Return the untrained model: the same weights for every training method of a seed."""
    torch.manual_seed(case.seed)
    return make_model(settings.model, settings.model_args)


def make_classifier(case: Case, settings: CompareSettings) -> SpikingClassifier:
    """Return the model of a case with its training options.

    Raises:
        ConfigError, OptionError, UnsupportedModelError, UnsupportedByEngineError: if it cannot be trained.
    """
    training, layered = settings.training, case.training == "layered"
    torch.manual_seed(case.seed)  # the weights of `initial_model`, by name: a checkpoint keeps the name
    return SpikingClassifier(
        settings.model,
        network_args=settings.model_args,
        execution="layered" if layered else "asynchronous",
        batch_first=settings.batch_first,
        forward_group_size=training.forward_group_size,
        refractory_dropout=training.refractory_dropout,
        spike_penalty=training.spike_penalty,
        warmup_layered_steps=0 if layered else training.warmup_layered_steps,
        loss=training.loss,
        optimizer=training.optimizer,
        lr_scheduler=training.lr_scheduler,
        **settings.options(case.training),
    )


def train(
    case: Case,
    settings: CompareSettings,
    data: pl.LightningDataModule,
    folder: Path,
    made_of: dict[str, str],
    report: Callable[[], None],
) -> None:
    """Train and write `folder`/models/NAME.ckpt, whole or not at all; metrics go to logs/NAME/metrics.csv.

    Args:
        made_of: fingerprints, see `Keys.parts`; the checkpoint keeps them.
    """
    classifier, best = make_classifier(case, settings), settings.training.select == "best"
    classifier.made_of = made_of
    callbacks: list[Any] = [LambdaCallback(on_train_epoch_end=lambda *_: report())]
    models = folder / "models"
    keeper = ModelCheckpoint(
        models, f".{case.name}", "val_accuracy", mode="max", enable_version_counter=False
    )
    metrics = folder / "logs" / case.name / "metrics.csv"
    metrics.unlink(missing_ok=True)  # of an interrupted training
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=settings.training.epochs,
            logger=CSVLogger(folder, "logs", case.name),
            callbacks=[*callbacks, keeper] if best else callbacks,
            enable_checkpointing=best,
            enable_model_summary=False,
            enable_progress_bar=False,
            limit_val_batches=1.0 if best else 0,
            num_sanity_val_steps=0,
        )
        try:
            trainer.fit(classifier, datamodule=data)
        except SystemExit as error:  # Lightning's way to end after Ctrl-C and SIGTERM
            raise KeyboardInterrupt from error
        if best:
            os.replace(keeper.best_model_path, model_path(case, folder))
        else:
            write_whole(
                model_path(case, folder), lambda path: trainer.save_checkpoint(path, weights_only=True)
            )


def model_path(case: Case, folder: Path) -> Path:
    """Return where a case's checkpoint is."""
    return folder / "models" / f"{case.name}.ckpt"


def read_model(case: Case, folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a checkpoint's parameters and buffers, and the fingerprints of what it was made of.

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = model_path(case, folder)
    try:
        checkpoint = read_checkpoint(path)
        return network_of(checkpoint, repr(str(path))), kept(checkpoint, "made_of", repr(str(path)))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete it to train this model again, or use --overwrite") from error


def load_model(case: Case, settings: CompareSettings, folder: Path) -> nn.Module:
    """Return the trained source model.

    Raises:
        CheckpointError: if the file is damaged, or of another architecture.
    """
    classifier, (saved, _) = make_classifier(case, settings), read_model(case, folder)
    check_architecture(saved, classifier.state_dict(), repr(str(model_path(case, folder))))
    classifier.load_state_dict(saved)
    return classifier.net.model.eval()
