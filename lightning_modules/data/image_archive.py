"""Images from one .npz file, shown to the network as a constant current."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_async.data.options import at_least
from snn_async.errors import ConfigError

from ..training.epoch_seeds import EpochSeeds
from .image_reading import Images, load_images
from .image_transforms import Repeat, moved, statistics
from .split_data import Batch, SplitData


class ImageArchive(SplitData):
    """The images of an archive (see `image_reading.load_images`), each repeated in every timestep.

    Batches hold (T, B, C, H, W) float32 pixels, of which the T timesteps share their memory. In `Trainer.fit`,
    training images are cropped and flipped anew in every epoch, by (seed, epoch, image) alone: neither batches
    nor workers nor an interruption change it.

    Args:
        path: the .npz file.
        timesteps: T.
        normalize: subtract the training images' mean from each channel and divide it by their standard
            deviation; else pixels are 0..1.
        random_crop: in training, move an image by up to so many pixels in each direction, filled with 0 (the
            mean colour).
        random_flip: in training, mirror half of the images left to right.
        train_size: take only so many of the training images; None: all.
        **options: those of `SplitData`.

    Raises:
        ConfigError: an option outside its range.
        DataError: (on use) a file that is absent, damaged or wrong.
    """

    def __init__(
        self,
        path: str,
        timesteps: int = 4,
        normalize: bool = True,
        random_crop: int = 0,
        random_flip: bool = False,
        train_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.path, self._timesteps = path, at_least(1, "timesteps", timesteps)
        self.random_crop = at_least(0, "random_crop", random_crop)
        for name, value in (("normalize", normalize), ("random_flip", random_flip)):
            if not isinstance(value, bool):
                raise ConfigError(f"{name}={value!r}: give True or False")
        self.normalize, self.random_flip = normalize, random_flip
        self.train_size = None if train_size is None else at_least(1, "train_size", train_size)

    @property
    def images(self) -> Images:
        """All images, whatever their part; reads the file if `setup` has not."""
        return Images(self.samples.values.numpy(), self.samples.label.numpy())

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W); reads the file if `setup` has not."""
        channels, height, width = self.images.pixels.shape[1:]
        return channels, height, width

    @property
    def timesteps(self) -> int:
        """T."""
        return self._timesteps

    def load(self) -> Images:
        """Read the archive."""
        return load_images(self.path)

    def divide(self, label: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Return the parts, the training set limited to `train_size`."""
        parts = super().divide(label)
        if self.train_size is not None:
            parts["train"] = self.split.some(parts["train"], label, self.train_size)
        return parts

    @property
    def collate(self) -> Callable[[Any], Any]:
        """Normalizes the images and repeats them."""
        if not self.normalize:
            zeros = torch.zeros(self.input_shape[0])
            return Repeat(self.timesteps, zeros, zeros + 1)
        return Repeat(self.timesteps, *statistics(self.images.pixels[self.parts["train"]]))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment a training batch."""
        if not (self.random_crop or self.random_flip) or self.trainer is None or not self.trainer.training:
            return batch
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        seeds = next((callback for callback in callbacks if isinstance(callback, EpochSeeds)), EpochSeeds())
        generator = seeds.augmentation(self.trainer.current_epoch)
        count = len(self.images.label)
        shift = torch.randint(2 * self.random_crop + 1, (count, 2), generator=generator)
        flip = (torch.rand(count, generator=generator) < 0.5) & self.random_flip
        image = moved(batch.x[0], shift[batch.sample_ids], flip[batch.sample_ids], self.random_crop)
        return Batch(image.expand(batch.x.shape), batch.y, batch.sample_ids)
