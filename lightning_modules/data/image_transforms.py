"""What is done to images on their way into a batch: normalizing, repeating, and random transformations."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .split_data import Batch


@dataclass(frozen=True)
class Repeat:
    """Makes x (T, B, C, H, W) float32 of uint8 images (B, C, H, W): (pixel / 255 - mean) / std, mean and std (C,)."""

    timesteps: int
    mean: Tensor
    std: Tensor

    def __call__(self, batch: Batch) -> Batch:
        frame = (batch.x / 255 - self.mean[:, None, None]) / self.std[:, None, None]
        return Batch(frame.expand(self.timesteps, *frame.shape), batch.y, batch.sample_ids)


def statistics(pixels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (C,) of images (N, C, H, W), in units of 255; 1 for a constant channel."""
    values = torch.arange(256, dtype=torch.float64) / 255
    channels = torch.from_numpy(pixels).unbind(1)
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in channels]).double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    std = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()


def moved(images: Tensor, shift: Tensor, flip: Tensor, margin: int) -> Tensor:
    """Return images (B, C, H, W) cut out of themselves with a margin of zeros.

    Args:
        shift: (B, 2) first row and column of the cut, 0 to 2 * margin; at `margin` an image stays in place.
        flip: (B,) whether to mirror left to right.
        margin: in pixels.
    """
    samples, channels, height, width = images.shape
    framed = functional.pad(images, [margin] * 4)
    rows = shift[:, :1] + torch.arange(height)
    columns = shift[:, 1:] + torch.arange(width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    b, c = torch.arange(samples)[:, None, None, None], torch.arange(channels)[:, None, None]
    return framed[b, c, rows[:, None, :, None], columns[:, None, None, :]]
