"""Batches as the network takes them: x time first."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from snn_async.errors import DataError
from snn_async.network import Plan


def turned(batch: Sequence[Any]) -> list[Any]:
    """Return a batch (x, y, ...) with x (B, T, ...) turned to (T, B, ...)."""
    return [batch[0].transpose(0, 1), *batch[1:]]


def check_samples(plan: Plan, x: Tensor, count: int, labels: str) -> None:
    """Raise DataError unless x, of which `plan` is, holds `count` samples, as `labels` say."""
    samples = plan.capture.samples
    if samples == count:
        return
    if plan.capture.outside:
        way_out = "x must be time first, (T, B, ...); batch_first=True turns x of shape (B, T, ...)"
    else:
        way_out = "x must have its axes in the order in which the model takes them"
    raise DataError(f"x of shape {tuple(x.shape)} holds {samples} samples, but {labels}: {way_out}")


def one_sample(loader: Any) -> Sequence[Any] | None:
    """Return the batch that a loader makes of its first sample alone, None where it cannot be asked for that."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return None
    if isinstance(loader.dataset, IterableDataset):
        return None
    with isolate_rng(), torch.no_grad():
        alone = DataLoader(Subset(loader.dataset, [0]), batch_size=1, collate_fn=loader.collate_fn)
        return next(iter(alone))


def loader_of(trainer: Trainer, stage: str) -> Any:
    """Return the loader of the stage, "train", "val" or "test", that the trainer runs."""
    return {
        "train": trainer.train_dataloader,
        "val": trainer.val_dataloaders,
        "test": trainer.test_dataloaders,
    }[stage]
