"""Reproducible epochs: an interrupted fit that is resumed gives the weights of an uninterrupted one."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, RandomSampler

ORDER, TRAINING, AUGMENTATION = 0, 1, 2**40


class EpochSeeds(Callback):
    """Starts torch's generator anew in every epoch, from (seed, epoch), so that no epoch depends on the past.

    Data order, dropout and, in training, asynchronous schedules come from that generator, whatever the number of worker
    processes; only what a data set draws itself comes from its process's generator, so that it differs with their
    number. The seed is `torch.initial_seed()` of the first fit and is kept in checkpoints. Resuming is exact from
    checkpoints made at the end of an epoch; `SpikingClassifier` adds this callback by itself.
    """

    def __init__(self) -> None:
        self.seed: int | None = None
        self.next_epoch = 0
        self.started = False

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "next_epoch": self.next_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed, self.next_epoch = state_dict["seed"], state_dict["next_epoch"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.seed is None:
            self.seed = torch.initial_seed()
        self.started = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.next_epoch = trainer.current_epoch
        self._restart(self.next_epoch, ORDER)
        # The loader may or may not have drawn from torch's generator by now; the order of the data must not depend on
        # that.
        found = [loader for loader in tree_leaves(trainer.train_dataloader) if isinstance(loader, DataLoader)]
        for loader in found:
            self._seed_sampler(loader.sampler)
        if not self.started and any(loader.num_workers for loader in found):
            # Workers were given their first indices when Lightning made the iterator, before any hook of the epoch.
            iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
        self.started = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._restart(trainer.current_epoch, TRAINING)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:
            self.next_epoch = trainer.current_epoch + 1

    def augmentation(self, epoch: int) -> torch.Generator:
        """Return a new generator for an epoch's random transformations of the data."""
        if self.seed is None:
            self.seed = torch.initial_seed()
        return torch.Generator().manual_seed(self._mix(epoch, AUGMENTATION))

    def _seed_sampler(self, sampler: Any) -> None:
        if isinstance(sampler, RandomSampler):
            sampler.generator = sampler.generator or torch.Generator()
            sampler.generator.manual_seed(self._mix(self.next_epoch, ORDER))

    def _restart(self, epoch: int, purpose: int) -> None:
        torch.manual_seed(self._mix(epoch, purpose))

    def _mix(self, epoch: int, purpose: int) -> int:
        assert self.seed is not None
        return (self.seed * 1_000_003 + 2 * epoch + purpose) % 2**63
