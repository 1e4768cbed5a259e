"""Losses on output spike trains; snnTorch's own (`snntorch.functional`) have the same call and work too."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from snn_async.errors import OptionError


class RateLoss(nn.Module):
    """Cross entropy on spike counts summed over time: -log softmax(scale * sum_t s_t)[y], mean over samples.

    Args:
        scale: the inverse temperature of the softmax, > 0. Counts of a few dozen spikes saturate a softmax:
            1 / T keeps the logits within 0..1 (soft targets, large counts), 1 takes the counts as they are.
        label_smoothing: as in `torch.nn.functional.cross_entropy`.

    Raises:
        OptionError: if `scale` is not positive.
    """

    def __init__(self, scale: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise OptionError(f"scale={scale} of RateLoss must be positive and finite")
        self.scale = scale
        self.label_smoothing = label_smoothing

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of outputs (T, B, classes), spike counts or potentials, for targets (B,)."""
        return cross_entropy(self.scale * outputs.sum(0), targets, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, label_smoothing={self.label_smoothing}"


class MeanLoss(nn.Module):
    """Cross entropy on the mean over time: -log softmax(mean_t o_t)[y], mean over samples; for potentials (logits).

    Args:
        label_smoothing: as in `torch.nn.functional.cross_entropy`.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of outputs (T, B, classes) for targets (B,)."""
        return cross_entropy(outputs.mean(0), targets, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"


def loss_for(outputs: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of outputs for which none was chosen.

    Of outputs over time (T, B, classes), `RateLoss` on spikes and `MeanLoss` on potentials: outputs that are all whole
    numbers are taken for spikes. Of logits (B, classes), cross entropy.
    """
    if outputs.dim() == 2:
        return cross_entropy
    return MeanLoss() if (outputs.detach() % 1).any() else RateLoss()
