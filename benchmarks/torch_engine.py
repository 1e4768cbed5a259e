"""Asynchronous execution on the torch engine beside the models' own layered run, interleaved in one process.

    python -m benchmarks.torch_engine [--part autoencoder spikformer normalized] [--sizes 8 64 1024 all] [--rounds 5]

Models that only the torch engine takes: "autoencoder", convolutions of stride 2 and transposed ones back to 28x28
(snnTorch); "spikformer", one block of SpikingJelly's Spikformer, multi-step, 64 tokens of 64 channels; "normalized", a
convolutional net (SpikingJelly) with GroupNorm and ReLU between its neurons, which wait.

Weights are those at initialization with thresholds at which 10 to 40 % of most layers' neurons spike in a timestep;
the rates are printed. Prints forward and forward+backward milliseconds (median over rounds), their ratios to the
model's own run in the same round (median of ratios), and forward steps per timestep. Read the ratios from an idle
machine only; the load is printed with them.
"""

import argparse
import os
import statistics
from collections.abc import Iterator
from typing import Any

import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model.spikformer import SpikformerBlock
from torch import Tensor, nn

import snn_async
from benchmarks.conv import group_size
from benchmarks.layered_vs_async import Step, timings

OWN = "layered, its own"


class Autoencoder(nn.Module):
    """28x28 frames (T, B, 1, 28, 28) to spikes of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = dict(beta=0.8, threshold=0.25, reset_mechanism="zero", reset_delay=False)
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(1, 16, 3, stride=2, padding=1),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1),
                nn.ConvTranspose2d(16, 1, 3, stride=2, padding=1, output_padding=1),
            ]
        )
        self.neurons = nn.ModuleList([snntorch.Leaky(**options) for _ in self.layers])

    def forward(self, x: Tensor) -> Tensor:
        states = [one.init_leaky() for one in self.neurons]
        found = []
        for spikes in x:
            for i, (connection, neurons) in enumerate(zip(self.layers, self.neurons, strict=True)):
                spikes, states[i] = neurons(connection(spikes), states[i])
            found.append(spikes)
        return torch.stack(found)


def lif(threshold: float) -> neuron.LIFNode:
    return neuron.LIFNode(v_threshold=threshold, surrogate_function=surrogate.ATan(), detach_reset=True)


def normalized() -> nn.Module:
    model = nn.Sequential(
        layer.Conv2d(2, 16, 3, padding=1, bias=False),
        layer.GroupNorm(4, 16),
        lif(0.7),
        layer.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        layer.GroupNorm(4, 32),
        nn.ReLU(),
        layer.Conv2d(32, 32, 3, padding=1, bias=False),
        lif(0.2),
        layer.Flatten(),
        layer.Linear(32 * 8 * 8, 10, bias=False),
        lif(0.2),
    )
    functional.set_step_mode(model, "m")
    return model


def spikformer() -> nn.Module:
    model = nn.Sequential(
        layer.Conv2d(3, 64, 1, bias=False),
        lif(0.5),
        SpikformerBlock(
            64, 4, spiking_neuron=neuron.LIFNode, surrogate_function=surrogate.ATan(), detach_reset=True
        ),
    )
    functional.set_step_mode(model, "m")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # the mean over the batches below
            nn.init.constant_(module.bias, 0.6)
    return model


def case(part: str, batch: int) -> tuple[nn.Module, Tensor]:
    """Return a model in evaluation mode and its input (T, B, ...)."""
    torch.manual_seed(0)
    if part == "autoencoder":
        return Autoencoder().eval(), torch.rand(8, batch, 1, 28, 28)
    if part == "normalized":
        return normalized().eval(), (torch.rand(6, batch, 2, 16, 16) < 0.2).float()
    model, x = spikformer(), torch.randn(4, batch, 3, 8, 8)
    with torch.no_grad():
        for _ in range(2):
            functional.reset_net(model)
            model(x)
    functional.reset_net(model)
    return model.eval(), x


PARTS = {"autoencoder": 32, "spikformer": 16, "normalized": 32}  # batch


def table(part: str, given: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of a part's table."""
    load = os.getloadavg()[0]
    model, x = case(part, given.batch or PARTS[part])

    def own() -> Tensor:
        functional.reset_net(model)
        return model(x)

    named: dict[str, tuple[nn.Module, Step]] = {OWN: (model, own)}
    steps, rates = {}, ""
    for size in given.sizes:
        name = f"async F={'all' if size is None else size}"
        net = snn_async.asynchronize(model, forward_group_size=size, backend="torch")
        with torch.no_grad():
            functional.reset_net(model)
            activity = net.run(x).activity
        steps[name] = float(activity.forward_steps.float().mean())
        spikes = ((p, activity.spikes[p.name].float().mean() / p.size) for p in net.graph.populations)
        rates = rates or ", ".join(f"{float(rate):.0%}" for _, rate in spikes)
        named[name] = (model, lambda net=net: net(x))
    yield (
        f"{part}: batch {x.shape[1]}, T = {len(x)}; of its layers' neurons {rates} spike in a timestep "
        f"(F = {given.sizes[0] or 'all'}); {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load {load:.1f} before"
    )
    yield f"{'':20}{'steps':>8}{'forward':>13}{'':9}{'forward+backward':>19}"
    results = timings(named, given.rounds)
    for name, mine in results.items():
        cells = ""
        for phase, width in ((0, 13), (1, 19)):
            pairs = zip(mine[phase], results[OWN][phase], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            cells += f"{statistics.median(mine[phase]):{width - 3}.1f} ms{ratio:8.2f}x"
        yield f"{name:20}{steps.get(name, 0):8.1f}{cells}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="default: 32, of the Spikformer block 16")
    parser.add_argument(
        "--sizes", type=group_size, nargs="*", default=[None, 1024, 64, 8], help="F, or 'all'"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for part in given.part:
        for line in table(part, given):
            print(line, flush=True)


if __name__ == "__main__":
    main()
