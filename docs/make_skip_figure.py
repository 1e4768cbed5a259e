"""Draw docs/skip.png, a residual block with and without the barrier: `python docs/make_skip_figure.py [file.png]`."""

import sys
from pathlib import Path

import snntorch as snn
import torch
from torch import Tensor, nn

import snn_async
from snn_async import plots

SEED = 11


class Residual(nn.Module):
    """A residual ADD: the spikes of `stem` reach `output` directly and through `branch`."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.into, self.middle, self.last = (nn.Linear(i, o, bias=False) for i, o in ((5, 4), (4, 4), (4, 3)))
        for layer in (self.into, self.middle, self.last):
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) + 0.3)
        self.stem, self.branch, self.output = (snn.Leaky(beta=0.8, init_hidden=True) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.stem(self.into(x))
        return self.output(self.last(skip + self.branch(self.middle(skip))))


def example(seed: int = SEED) -> tuple[snn_async.AsyncNetwork, Tensor]:
    """Return the block, everything pending delivered at once (F = None), and one sample (T, B, 5)."""
    generator = torch.Generator().manual_seed(seed)
    model = Residual(generator)
    x = (torch.rand(2, 1, 5, generator=generator) < 0.6).float()
    return snn_async.asynchronize(model, scheduler="momentum", forward_group_size=None).eval(), x


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("skip.png")
    net, x = example()
    figure = plots.timeline(net, x)
    figure.savefig(path, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
