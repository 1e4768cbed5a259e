"""fit, validate, test and predict: LightningCLI with this project's defaults."""

import csv
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_modules.classifier import SpikingClassifier
from lightning_modules.files import check_writable, write_whole
from lightning_modules.quiet import silence_remarks
from snn_async.errors import CheckpointError, ConfigError

KEYWORDS = ("best", "last", "hpc", "registry")  # Lightning's own values of --ckpt_path


class SnnAsyncCLI(LightningCLI):
    """Checks places and files before any work; adds loggers, a progress bar and predictions.csv."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        check_writable(Path(config.trainer.default_root_dir or "."))
        checkpoint = config.get("ckpt_path")
        if checkpoint and not str(checkpoint).startswith(KEYWORDS):
            check_checkpoint(Path(checkpoint))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        if config.get("logger") in (None, True):
            # Both loggers share one new folder, version_N, which also gets the configuration and checkpoints.
            files = CSVLogger(config.default_root_dir or ".", name="logs")
            board = TensorBoardLogger(files.root_dir, name="", version=f"version_{files.version}")
            kwargs["logger"] = [files, board]
        return super().instantiate_trainer(**kwargs)

    def predict(self, model: LightningModule, **kwargs: Any) -> None:
        """Predict and write predictions.csv into the log folder."""
        batches = self.trainer.predict(model, **kwargs) or []
        path = Path(self.trainer.log_dir or ".") / "predictions.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda temporary: _write_predictions(temporary, batches))
        print(f"wrote {path}")


def lightning_command(arguments: list[str]) -> None:
    """Run `arguments`, the command first.

    Raises:
        ConfigError: for a configuration, place or file that cannot be used.
        ArgumentError: jsonargparse's, for a value that does not fit.
    """
    silence_remarks()
    commands = ("fit", "validate", "test", "predict")
    quiet_exit = {"exit_on_error": False}
    SnnAsyncCLI(
        SpikingClassifier,
        args=arguments,
        trainer_defaults={"callbacks": [RichProgressBar()], "log_every_n_steps": 10, "accelerator": "cpu"},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        # Hyperparameters in a checkpoint would silently replace those of the command line.
        load_from_checkpoint_support=False,
        parser_kwargs=quiet_exit | {command: dict(quiet_exit) for command in commands},  # type: ignore[arg-type]
    )


def check_checkpoint(path: Path) -> None:
    """Raise ConfigError if there is no such file, CheckpointError if it is no checkpoint."""
    if not path.is_file():
        raise ConfigError(
            f"ckpt_path={str(path)!r} is no file; give the path of a checkpoint made by `snn-async fit`"
        )
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"{str(path)!r} is damaged or no checkpoint ({type(error).__name__})"
        ) from error


def _write_predictions(path: Path, batches: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        classes = batches[0]["counts"].shape[1] if batches else 0
        rows.writerow(["sample_id", "class", "forward_steps", *(f"count_{c}" for c in range(classes))])
        for batch in batches:
            columns = (batch["sample_id"], batch["class"], batch["forward_steps"], batch["counts"])
            for sample, label, steps, counts in zip(*(c.tolist() for c in columns), strict=True):
                rows.writerow([sample, label, steps, *counts])
