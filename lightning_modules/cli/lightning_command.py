"""fit, validate, test and predict: LightningCLI with this project's defaults."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_modules.output_files import check_writable, write_whole
from lightning_modules.training.checkpoints import check_loadable, read_checkpoint
from lightning_modules.training.classifier import SpikingClassifier
from lightning_modules.training.first_step_check import check_first_step
from lightning_modules.training.lightning_warnings import quiet_lightning
from lightning_modules.user_errors import blame

KEYWORDS = ("last", "hpc", "registry")  # Lightning's own values of --ckpt_path; registry:NAME too


class SnnAsyncCLI(LightningCLI):
    """Checks places and files before any work; adds loggers, a progress bar and predictions.csv."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        check_writable(Path(config.trainer.default_root_dir or ".") / "logs")
        path = config.get("ckpt_path")
        self.checkpoint: dict[str, Any] | None = None
        if path and str(path) not in KEYWORDS and not str(path).startswith("registry:"):
            self.checkpoint = read_checkpoint(Path(path))

    def instantiate_classes(self) -> None:
        with blame("configuration"):
            super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        if self.checkpoint is not None:  # Lightning asks too, but only after it has made a log folder
            check_loadable(self.checkpoint, self.model, resume=self.subcommand == "fit")

    def _set_seed(self) -> None:
        with blame("seed_everything"):
            super()._set_seed()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        if config.get("logger") in (None, True):
            # Both loggers share one new folder, version_N, which also gets the configuration and checkpoints.
            files = CSVLogger(config.default_root_dir or ".", name="logs")
            board = TensorBoardLogger(config.default_root_dir or ".", name="logs", version=files.version)
            kwargs["logger"] = [files, board]
        if config.get("enable_progress_bar") is not False:
            kwargs["callbacks"] = [*(config.get("callbacks") or []), RichProgressBar()]
        with blame("trainer"):
            return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        options = self._get(self.config_init, "trainer")
        validate = options.limit_val_batches != 0
        check_first_step(self.model, self.datamodule, validate, accelerator=options.accelerator, devices=1)

    def after_fit(self) -> None:
        print(f"logs, configuration and checkpoints: {self.trainer.log_dir}")

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
    commands = ("fit", "validate", "test", "predict")
    messages = {"exit_on_error": False}
    with quiet_lightning():
        SnnAsyncCLI(
            SpikingClassifier,
            args=arguments,
            trainer_defaults={
                "accelerator": "cpu",
                "log_every_n_steps": 10,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # Hyperparameters in a checkpoint would silently replace those of the command line.
            load_from_checkpoint_support=False,
            parser_kwargs=messages | {command: dict(messages) for command in commands},
        )


def _write_predictions(path: Path, batches: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        classes = batches[0]["counts"].shape[1] if batches else 0
        rows.writerow(["sample_id", "class", "forward_steps", *(f"count_{c}" for c in range(classes))])
        for batch in batches:
            columns = (batch["sample_id"], batch["class"], batch["forward_steps"], batch["counts"])
            for sample, label, steps, counts in zip(*(c.tolist() for c in columns), strict=True):
                rows.writerow([sample, label, steps, *counts])
