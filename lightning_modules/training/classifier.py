"""`SpikingClassifier`: one network, trained and evaluated with or without layer synchronization."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torchmetrics import MeanMetric

from snn_async.errors import ConfigError, DataError, OptionError

from ..models.make_model import make_model
from ..user_errors import blame
from .batches import check_samples, loader_of, one_sample, turned
from .checkpoints import check_architecture, check_structure, kept, network_of, read_checkpoint
from .epoch_seeds import EpochSeeds
from .kept_options import KeptOptions, arguments_for, structure_of
from .losses import loss_for
from .network_module import NetworkModule
from .outputs import check_labels, output_of, scores_of
from .run_summary import RunSummary

Batch = Sequence[Tensor]


class SpikingClassifier(NetworkModule):
    """Classifies by the first tensor that the network returns (the last one where its last neurons never spike).

    Outputs over time (T, B, classes), spikes or potentials, are summed, logits (B, classes) taken as they are; a tie
    goes to the lower class.

    Batches are (x, y) or (x, y, sample_ids): x is what the network is called with, (T, B, ...) for one whose forward is
    one timestep, y (B,), sample_ids (B,) int64. In evaluation the ids key the schedules' random numbers, so results do
    not depend on batching; without ids samples are counted in the order of the loader.

    A checkpoint keeps the options of execution, and where `network` is named, that name: `from_checkpoint(path)` makes
    the classifier again, `from_checkpoint(path).network` is the plain model with its trained parameters.

    Under distributed training metrics are those of all processes.

    BatchNorm: asynchronous runs and every evaluation use its running statistics. Layered training leaves it as it
    is: it runs the source model itself, in its own framework, with the batch's statistics, which update the running
    ones. Unlayered training from scratch therefore needs `warmup_layered_steps`, or a trained network to start from.

    Logged per epoch as `{train,val,test}_*`: `loss`; `accuracy`; `spikes` (per sample, all populations);
    `forward_steps` (per timestep; not of the source model's own runs); with a warm-up `train_layered`, the share of
    steps trained layered.

    Args:
        network: the source model, or "package.module:factory", called with `network_args`.
        execution: "layered" (with the barrier) or "asynchronous", which the further options describe.
        network_args: see `network`.
        loss: takes outputs and targets (B,); if None, `RateLoss()` on spikes over time (whole numbers), `MeanLoss()` on
            potentials over time and cross entropy on logits. snnTorch's losses fit outputs over time.
        optimizer, lr_scheduler: take parameters, and the optimizer; schedulers step once per epoch.
        spike_penalty: weight of the L1 penalty, the mean number of hidden spikes per sample.
        batch_first: whether the batches' x is (B, T, ...); it is turned to (T, B, ...) before the network gets it.
        warmup_layered_steps: number of first optimizer steps of asynchronous training that are layered; BatchNorm
            gets its running statistics there, and keeps them afterwards.
        options: of `snn_async.asynchronize`: example_inputs, input_shape, backend, seed, and those of
            `snn_async.Options`.

    Raises:
        OptionError, UnsupportedModelError, UnsupportedByEngineError: see `snn_async.asynchronize`.
        ConfigError: if `network` names no factory.
    """

    def __init__(
        self,
        network: nn.Module | str,
        execution: Literal["layered", "asynchronous"] = "asynchronous",
        *,
        network_args: dict[str, Any] | None = None,
        loss: Callable[..., Any] | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        spike_penalty: float = 0.0,
        warmup_layered_steps: int = 0,
        batch_first: bool = False,
        **options: Any,
    ) -> None:
        if loss is not None and not callable(loss):
            raise OptionError(
                f"loss={loss!r} cannot be called; give loss(outputs, targets), or None for the usual one"
            )
        if network_args and not isinstance(network, str):
            raise OptionError(
                "network_args go with a network named as 'package.module:factory'; leave them out"
            )
        model = make_model(network, network_args) if isinstance(network, str) else network
        super().__init__(model, execution, spike_penalty, warmup_layered_steps, **options)
        self.batch_first, self.loss = batch_first, loss
        named = {"network": network, "network_args": network_args or {}} if isinstance(network, str) else {}
        own = dict(
            execution=execution, spike_penalty=spike_penalty, warmup_layered_steps=warmup_layered_steps
        )
        self.kept = KeptOptions.of(named | own | {"batch_first": batch_first}, options)
        self.save_hyperparameters(self.kept.plain, logger=False)
        self.structure = structure_of(model)
        self.made_of: dict[str, str] = {}
        self.layouts_checked: set[str] = set()
        self.make_optimizer, self.make_lr_scheduler = optimizer, lr_scheduler
        self.accuracies = nn.ModuleDict({f"{stage}_accuracy": MeanMetric() for stage in STAGES})
        self.samples_seen = 0

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, *args: Any, **given: Any
    ) -> "SpikingClassifier":
        """Return the classifier of a checkpoint, with the options of execution that it was trained with.

        Args:
            args: as Lightning's: map_location, hparams_file, strict.
            given: what a checkpoint does not keep: `network` where it was no factory's name, `loss`, `optimizer`,
                `lr_scheduler`, and options that are objects.

        Raises:
            CheckpointError: for a file that is damaged or no checkpoint, of another network, or made with other options
                than `given`.
            ConfigError: if there is no such file, or what makes the network is not here.
        """
        found = read_checkpoint(Path(checkpoint_path))
        return super().load_from_checkpoint(checkpoint_path, *args, **arguments_for(found, given))

    @classmethod
    def from_checkpoint(cls, path: str | Path, **given: Any) -> "SpikingClassifier":
        """Return the classifier of a checkpoint, see `load_from_checkpoint`."""
        return cls.load_from_checkpoint(path, **given)

    @property
    def network(self) -> nn.Module:
        """The source model, with the parameters that are trained."""
        return self.net.model

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs over time (T, B, classes) or logits (B, classes); x is as in batches."""
        return output_of(self.run(self._x([x])).result, self.net.shown)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return what is predicted of a batch.

        `sample_id`, `class`, `forward_steps_all_timesteps` (B,), a sum; `counts` (B, classes), outputs over time
        summed; `label` (B,) where the batch has them.
        """
        ids = self._sample_ids(batch)
        run = self.run(self._x(batch), sample_ids=ids)
        counts = scores_of(output_of(run.result, self.net.shown))
        steps = run.activity.forward_steps.sum(0)
        found = {"sample_id": ids, "class": counts.argmax(1), "forward_steps_all_timesteps": steps}
        labels = {"label": batch[1]} if len(batch) > 1 and isinstance(batch[1], Tensor) else {}
        return found | labels | {"counts": counts}

    def configure_optimizers(self) -> Any:
        with blame("optimizer"):
            optimizer = self.make_optimizer(self.parameters())
        if self.make_lr_scheduler is None:
            return optimizer
        with blame("lr_scheduler"):
            scheduler = self.make_lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "monitor": scheduler.monitor},
            }
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ConfigError(
                "lr_scheduler: torch's ReduceLROnPlateau does not say what to follow; take "
                "class_path pytorch_lightning.cli.ReduceLROnPlateau with monitor: train_loss"
            )
        if not isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
            raise ConfigError(f"lr_scheduler: {scheduler!r} is no scheduler of torch's; let it return one")
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        with blame("lr_scheduler"):
            super().lr_scheduler_step(scheduler, metric)

    def configure_callbacks(self) -> list[pl.Callback]:
        return [EpochSeeds()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise CheckpointError unless the checkpoint's network has this one's parameters and settings."""
        where = "the checkpoint"
        check_architecture(network_of(checkpoint, where), self.state_dict(), where)
        check_structure(kept(checkpoint, "structure", where), self.structure, where)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the network is beside its parameters, and what options that are objects are."""
        checkpoint |= {"structure": self.structure, "objects": self.kept.objects, "made_of": self.made_of}

    def on_validation_epoch_start(self) -> None:
        self.samples_seen = 0

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def _step(self, batch: Batch, stage: str) -> Tensor:
        x, y = self.labelled(batch)
        self._check_layout(x, y, stage)
        sample_ids = None if stage == "train" else self._sample_ids(batch)
        run = self.summarized(x, stage, sample_ids)
        check_labels(y, run.output.shape[-1])
        with blame("loss"):
            loss = (loss_for(run.output) if self.loss is None else self.loss)(run.output, y).reshape(())
        loss = loss + self.penalty(run) / len(y)
        self._log(stage, loss, run, y)
        return loss

    def _log(self, stage: str, loss: Tensor, run: RunSummary, y: Tensor) -> None:
        accuracy = self.accuracies[f"{stage}_accuracy"]
        assert isinstance(accuracy, MeanMetric)
        accuracy((scores_of(run.output.detach()).argmax(1) == y).float())
        log = partial(self.log, on_step=False, on_epoch=True, batch_size=len(y), sync_dist=True)
        log(f"{stage}_loss", loss.detach(), prog_bar=True)
        log(f"{stage}_accuracy", accuracy, prog_bar=True)
        log(f"{stage}_spikes", run.spikes.float() / len(y))
        if run.forward_steps is not None:
            log(f"{stage}_forward_steps", run.forward_steps)

    def labelled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return x, time first, and y of a batch; DataError for one without labels."""
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise DataError("batches hold no labels; give (x, y) or (x, y, sample_ids)")
        return self._x(batch), batch[1]

    def _x(self, batch: Batch) -> Tensor:
        return (turned(batch) if self.batch_first else batch)[0]

    def _check_layout(self, x: Tensor, y: Tensor, stage: str) -> None:
        """Raise DataError unless x and y hold as many samples; where T = B, ask the stage's loader for one sample."""
        check_samples(self.net.plan(x), x, len(y), f"y has {len(y)}")
        if (
            len(x) == x.shape[1]
            and len(x) > 1
            and stage not in self.layouts_checked
            and self._trainer is not None
        ):
            alone = one_sample(loader_of(self.trainer, stage))
            if alone is not None:
                single, _ = self.labelled(alone)
                check_samples(self.net.plan(single), single, 1, "its batches of one sample have 1")
        self.layouts_checked.add(stage)

    def _sample_ids(self, batch: Batch) -> Tensor:
        first = self.samples_seen
        self.samples_seen += self.net.plan(self._x(batch)).capture.samples
        if len(batch) > 2:
            return batch[2]
        if not (dist.is_available() and dist.is_initialized()):
            return torch.arange(first, self.samples_seen)
        # Processes take turns with the samples, so that a sample has its id whatever their number.
        return dist.get_rank() + dist.get_world_size() * torch.arange(first, self.samples_seen)


STAGES = ("train", "val", "test")
