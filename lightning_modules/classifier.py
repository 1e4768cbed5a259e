"""`SpikingClassifier`: one network, trained and evaluated with or without layer synchronization."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.blame import blame
from lightning_modules.checkpoints import check_architecture, network_of
from lightning_modules.epoch_seeds import EpochSeeds
from lightning_modules.losses import RateLoss
from lightning_modules.models import make_model
from snn_async import AsyncRun, asynchronize
from snn_async.errors import ConfigError, DataError, OptionError

Batch = Sequence[Tensor]


class SpikingClassifier(pl.LightningModule):
    """Classifies by the output neuron with most spikes (a tie goes to the lower class).

    Batches are (x, y) or (x, y, sample_ids): x (T, B, ...), y (B,), sample_ids (B,) int64. In evaluation
    the ids key the schedules' random numbers, so results do not depend on batching; without ids samples
    are counted in the order of the loader. A readout that never spikes is judged by its potentials.

    Logged per epoch as `{train,val,test}_*`: `loss`; `accuracy`; `spikes` (per sample, all populations);
    `forward_steps` (per timestep).

    Args:
        network: the source model, or "package.module:factory", called with `network_args`.
        execution: "layered" (with the barrier) or "asynchronous"; the options below `spike_penalty` describe
            the asynchronous execution and are those of `snn_async.asynchronize`.
        network_args: see `network`.
        loss: takes outputs (T, B, classes) and targets (B,); `RateLoss()` if None. snnTorch's losses fit.
        optimizer, lr_scheduler: take parameters, and the optimizer; schedulers step once per epoch.
        spike_penalty: weight of the L1 penalty, the mean number of hidden spikes per sample.

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
        scheduler: str = "momentum",
        forward_group_size: int | None = 8,
        refractory: Literal["discard", "integrate", "off"] | None = None,
        refractory_dropout: float = 0.0,
        stop: str = "quiescent",
        leftover: Literal["drop", "carry"] = "drop",
        input: Literal["prioritized", "queued"] = "prioritized",
        momentum_noise: float = 0.0,
        max_forward_steps: int = 100_000,
        backend: str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if execution not in ("layered", "asynchronous"):
            raise OptionError(f"execution={execution!r} is unknown; choose 'layered' or 'asynchronous'")
        if not 0 <= spike_penalty < float("inf"):
            raise OptionError(f"spike_penalty={spike_penalty} must be finite and at least 0")
        if network_args and not isinstance(network, str):
            raise OptionError(
                "network_args go with a network named as 'package.module:factory'; leave them out"
            )
        options: dict[str, Any] = {"refractory": refractory, "max_forward_steps": max_forward_steps}
        options |= {"backend": backend, "seed": seed}
        if execution == "layered":
            options |= {"scheduler": "layered", "forward_group_size": None}
        else:
            options |= {"scheduler": scheduler, "forward_group_size": forward_group_size, "stop": stop}
            options |= {"refractory_dropout": refractory_dropout, "leftover": leftover, "input": input}
            options |= {"momentum_noise": momentum_noise}
        self.net = asynchronize(
            make_model(network, network_args) if isinstance(network, str) else network, **options
        )
        graph = self.net.graph
        readout = graph.populations[graph.index[graph.output]]
        self.classes = readout.size
        self.hidden = tuple(p.name for p in graph.populations if p.name != graph.output)
        if spike_penalty and not self.hidden:
            raise OptionError(
                f"spike_penalty={spike_penalty}: the network has no hidden neurons; leave it out"
            )
        self.loss = loss or RateLoss()
        self.make_optimizer, self.make_lr_scheduler = optimizer, lr_scheduler
        self.spike_penalty = spike_penalty
        self.accuracies = nn.ModuleDict(
            {f"{stage}_accuracy": MulticlassAccuracy(self.classes, average="micro") for stage in STAGES}
        )
        self.samples_seen = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (T, B, classes) for x (T, B, ...)."""
        return self.net(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train", None)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val", self._sample_ids(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test", self._sample_ids(batch))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `sample_id`, `class`, `forward_steps` (B,) and `counts` (B, classes), summed over time."""
        ids = self._sample_ids(batch)
        run = self.net.run(batch[0], sample_ids=ids)
        counts = self._outputs(run).sum(0)
        steps = run.activity.forward_steps.sum(0)
        return {"sample_id": ids, "class": counts.argmax(1), "counts": counts, "forward_steps": steps}

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
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        with blame("lr_scheduler"):
            super().lr_scheduler_step(scheduler, metric)

    def configure_callbacks(self) -> list[pl.Callback]:
        return [EpochSeeds()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise CheckpointError unless the checkpoint's network has this one's parameters."""
        where = "the checkpoint"
        check_architecture(network_of(checkpoint, where), self.state_dict(), where)

    def on_validation_epoch_start(self) -> None:
        self.samples_seen = 0

    def on_test_epoch_start(self) -> None:
        self.samples_seen = 0

    def on_predict_epoch_start(self) -> None:
        self.samples_seen = 0

    def _step(self, batch: Batch, stage: str, sample_ids: Tensor | None) -> Tensor:
        x, y = self.labelled(batch)
        run = self.net.run(x, sample_ids=sample_ids, record=self.hidden if self.spike_penalty else ())
        outputs = self._outputs(run)
        with blame("loss"):
            loss = self.loss(outputs, y).reshape(())
        if self.spike_penalty:
            hidden = torch.stack([record.spikes.sum() for record in run.records.values()])
            loss = loss + self.spike_penalty * hidden.sum() / len(y)
        self._log(stage, loss, outputs, y, run)
        return loss

    def _log(self, stage: str, loss: Tensor, outputs: Tensor, y: Tensor, run: AsyncRun) -> None:
        accuracy = self.accuracies[f"{stage}_accuracy"]
        assert isinstance(accuracy, Metric)
        accuracy(outputs.detach().sum(0), y)
        spikes = torch.stack([s.sum() for s in run.activity.spikes.values()]).sum() / len(y)
        steps = run.activity.forward_steps.float().mean()
        log = partial(self.log, on_step=False, on_epoch=True, batch_size=len(y))
        log(f"{stage}_loss", loss.detach(), prog_bar=True)
        log(f"{stage}_accuracy", accuracy, prog_bar=True)
        log(f"{stage}_spikes", spikes)
        log(f"{stage}_forward_steps", steps)

    def labelled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return x and y of a batch; DataError if it has no labels or others than the network's outputs."""
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise DataError("batches hold no labels; give (x, y) or (x, y, sample_ids)")
        x, y = batch[0], batch[1]
        if y.ndim != 1 or y.is_floating_point() or len(y) and not 0 <= y.min() <= y.max() < self.classes:
            raise DataError(
                f"labels of shape {tuple(y.shape)} and type {y.dtype} from {y.min()} to {y.max()} do not fit a "
                f"network with {self.classes} outputs; give one class per sample, (B,), from 0 to "
                f"{self.classes - 1}, or the network more outputs"
            )
        return x, y

    def _outputs(self, run: AsyncRun) -> Tensor:
        return run.output

    def _sample_ids(self, batch: Batch) -> Tensor:
        first, self.samples_seen = self.samples_seen, self.samples_seen + batch[0].shape[1]
        return batch[2] if len(batch) > 2 else torch.arange(first, self.samples_seen)


STAGES = ("train", "val", "test")
