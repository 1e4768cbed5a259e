"""fit, validate, test and predict: LightningCLI with this project's defaults."""

import csv
from pathlib import Path
from typing import Any

import torch.distributed as dist
from jsonargparse import Namespace
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from snn_async.errors import ConfigError

from ..output_files import check_writable, write_whole
from ..training.checkpoints import check_loadable, read_checkpoint
from ..training.classifier import SpikingClassifier
from ..training.first_step_check import check_first_step
from ..training.lightning_warnings import quiet_lightning
from ..training.whole_checkpoints import WholeCheckpoints
from ..user_errors import blame, check_made

KEYWORDS = ("last", "hpc", "registry")  # Lightning's own values of --ckpt_path; registry:NAME too

NO_CHECKPOINT = (
    "there is no checkpoint, so untrained weights would be evaluated: give --ckpt_path FILE, or --untrained if that is "
    "meant"
)


class SnnAsyncCLI(LightningCLI):
    """Checks places and files before any work; adds loggers, a progress bar and predictions.csv."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        check_writable(Path(config.trainer.default_root_dir or ".") / "logs")
        path = config.get("ckpt_path")
        if not path and not config.get("untrained", True):
            raise ConfigError(NO_CHECKPOINT)
        self.checkpoint: dict[str, Any] | None = None
        if path and str(path) not in KEYWORDS and not str(path).startswith("registry:"):
            self.checkpoint = read_checkpoint(Path(path))

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand != "fit":
            parser.add_argument(
                "--untrained", action="store_true", help="evaluate initial weights, without a --ckpt_path"
            )
        return parser

    def instantiate_classes(self) -> None:
        with blame("configuration"):
            super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        config = self.config[self.subcommand].model
        check_made("loss", config.loss, self.model.loss)
        if isinstance(config.network, Namespace):  # made by jsonargparse; a checkpoint keeps what made it
            made = config.network.clone(with_meta=False).as_dict()
            module, _, name = made["class_path"].rpartition(".")
            self.model.hparams.update(network=f"{module}:{name}", network_args=made.get("init_args", {}))
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
        added: list[Callback] = [RichProgressBar()] if config.get("enable_progress_bar") is not False else []
        if not self._get(self.config, "untrained", default=True):
            added.append(NeedsCheckpoint())
        if self.subcommand == "predict":
            added.append(PredictionFile())
        kwargs["callbacks"] = [*(config.get("callbacks") or []), *added]
        if not config.get("plugins"):
            kwargs["plugins"] = [WholeCheckpoints()]
        with blame("trainer"):
            return super().instantiate_trainer(**kwargs)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        chosen = super()._prepare_subcommand_kwargs(subcommand)
        # A checkpoint runs no code, whatever --ckpt_path resolves to (Lightning 2.6 has the option).
        return chosen | ({"weights_only": True} if "weights_only" in chosen else {})

    def before_fit(self) -> None:
        options = self._get(self.config_init, "trainer")
        validate = options.limit_val_batches != 0
        check_first_step(self.model, self.datamodule, validate, accelerator=options.accelerator, devices=1)

    def after_fit(self) -> None:
        if self.checkpoint is not None and self.trainer.global_step == self.checkpoint["global_step"]:
            print(
                f"nothing was left to do: the checkpoint has {self.trainer.global_step} steps, as many as "
                f"--trainer.max_epochs {self.trainer.max_epochs} and --trainer.max_steps {self.trainer.max_steps} allow"
            )
        print(f"logs, configuration and checkpoints: {self.trainer.log_dir}")


class NeedsCheckpoint(Callback):
    """Ends an evaluation of weights that nobody trained, where a keyword as --ckpt_path resolves to none."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is None:
            raise ConfigError(NO_CHECKPOINT)

    on_validation_start = on_predict_start = on_test_start


class PredictionFile(Callback):
    """Writes predictions.csv into the log folder, the samples of all processes in the order of their ids."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *loader: int,
    ) -> None:
        self.batches.append({name: value.tolist() for name, value in outputs.items()})

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parts = [self.batches]
        if trainer.world_size > 1:
            parts = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(parts, self.batches)
        path = Path(trainer.log_dir or ".") / "predictions.csv"
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(
                path, lambda temporary: _write_predictions(temporary, [b for part in parts for b in part])
            )
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
        classes = len(batches[0]["counts"][0]) if batches else 0
        label = ["label"] if batches and "label" in batches[0] else []
        names = ["sample_id", "class", *label, "forward_steps_all_timesteps"]
        rows.writerow([*names, *(f"count_{c}" for c in range(classes))])
        columns = ([entry for batch in batches for entry in batch[name]] for name in (*names, "counts"))
        for *values, counts in sorted(zip(*columns, strict=True)):
            rows.writerow([*values, *counts])
