"""Draw docs/timeline.png, the README's figure: `python docs/make_figure.py [file.png]`."""

import sys
from pathlib import Path

import snntorch as snn
import torch
from torch import nn

import snn_async
from snn_async import plots

SEED = 702


def example(seed: int = SEED) -> tuple[snn_async.AsyncNetwork, torch.Tensor]:
    """Return a 6-5-4-3 network with F = 2 and one sample (T, B, 6) on which the barrier matters."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (6, 5, 4, 3)
    layers: list[tuple[str, nn.Module]] = []
    for i, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        linear = nn.Linear(fan_in, fan_out, bias=False)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(fan_out, fan_in, generator=generator) * 1.5 + 0.4)
        name = "output" if i == 2 else f"hidden {i + 1}"
        layers += [(f"linear {i + 1}", linear), (name, snn.Leaky(beta=0.8, init_hidden=True))]
    model = nn.Sequential()
    for name, layer in layers:
        model.add_module(name, layer)
    x = (torch.rand(2, 1, 6, generator=generator) < 0.6).float()
    return snn_async.asynchronize(model, scheduler="momentum", forward_group_size=2).eval(), x


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("timeline.png")
    net, x = example()
    figure = plots.timeline(net, x)
    figure.savefig(path, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
