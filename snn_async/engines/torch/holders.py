"""Which cell holds the maximum of each window of a "max", as the event log tells it, in one timestep."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STRIDE = 1 << 32  # more than a timestep has steps
Ints = NDArray[np.int64]


class Holders:
    """The holders after every change, for all samples.

    Args:
        first: (U,) who holds each window before anything arrives.
        samples: B.
        sample, step, unit, cell: (E,) of the units that passed something on, in order of time for each sample.
    """

    def __init__(self, first: Tensor, samples: int, sample: Ints, step: Ints, unit: Ints, cell: Ints) -> None:
        device = first.device
        moments, moment = np.unique(sample * STRIDE + step, return_inverse=True)
        begin = np.searchsorted(moments, np.arange(samples) * STRIDE)
        rank = 1 + moment - begin[sample]  # 0 is before anything arrives
        most = int(rank.max(initial=0)) + 1
        place = tuple(torch.from_numpy(index).to(device) for index in (sample, rank, unit))
        shape = (samples, most, len(first))
        cells = first.expand(shape).clone().index_put_(place, torch.from_numpy(cell).to(device))
        # where a moment brought no news of a window, the latest news of it holds
        news = torch.zeros_like(cells).index_put_(place, place[1]).cummax(1).values
        self._cells = cells.gather(1, news)
        self._moments, self._begin = (torch.from_numpy(index).to(device) for index in (moments, begin))

    def at(self, sample: Tensor, step: Tensor) -> Tensor:
        """Return the holders (R, U) as seen in forward steps (R,) of samples (R,)."""
        latest = torch.searchsorted(self._moments, sample * STRIDE + step, right=True)
        return self._cells[sample, latest - self._begin[sample]]
