"""A data module in memory for the tests of training, and a model factory without type annotations."""

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset


class Patterns(Dataset):
    """48 noisy versions of three spike patterns, 12 inputs, 4 timesteps; items (x, y, sample id)."""

    def __init__(self, seed):
        g = torch.Generator().manual_seed(seed)
        rates = torch.eye(3).repeat_interleave(4, 1) * 0.7 + 0.1
        self.y = torch.arange(48) % 3
        self.x = torch.bernoulli(rates[self.y].expand(4, 48, 12), generator=g)

    def __len__(self):
        return 48

    def __getitem__(self, i):
        return self.x[:, i], self.y[i], torch.tensor(i)


def collate(items):
    x, y, ids = zip(*items, strict=True)
    return torch.stack(x, 1), torch.stack(y), torch.stack(ids)


class TinyEvents(LightningDataModule):
    num_classes = 3

    def __init__(
        self,
        batch_size: int = 16,
        fold: int = 0,
        with_ids: bool = True,
        batch_first: bool = False,
        num_workers: int = 0,
        persistent: bool = False,
    ):
        super().__init__()
        self.batch_size, self.fold, self.with_ids = batch_size, fold, with_ids
        self.batch_first, self.num_workers, self.persistent = batch_first, num_workers, persistent

    def _collate(self, items):
        x, *rest = collate(items)
        return [x.transpose(0, 1) if self.batch_first else x, *(rest if self.with_ids else rest[:1])]

    def _loader(self, seed, shuffle=False):
        return DataLoader(
            Patterns(10 * self.fold + seed),
            batch_size=self.batch_size,
            shuffle=shuffle,
            collate_fn=self._collate,
            num_workers=self.num_workers,
            persistent_workers=self.persistent,
        )

    def train_dataloader(self):
        return self._loader(0, shuffle=True)

    def val_dataloader(self):
        return self._loader(1)

    def test_dataloader(self):
        return self._loader(2)

    predict_dataloader = test_dataloader


def summed(outputs, targets):
    """A loss that is a plain function."""
    return torch.nn.functional.cross_entropy(outputs.sum(0), targets)


def nothing():
    """A factory that forgot to return its loss."""


def zero():
    return 0


def make_net(width=8):
    from lightning_modules import mlp

    return mlp(12, [width], 3, beta=0.8, threshold=0.3)
