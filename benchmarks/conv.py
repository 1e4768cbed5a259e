"""Asynchronous execution of convolutions beside layered snnTorch and SpikingJelly, interleaved in one process.

    python -m benchmarks.conv [--part events resnet] [--rounds 7] [--batch 32] [--sizes 128 1024 all] [--threads 2]

"events": convolutions of stride 2 and LIF neurons on binary event frames; "resnet": SpikingJelly's sew_resnet18 (ADD,
IF, ATan) on images, BatchNorm in evaluation mode everywhere, with the statistics of a few batches.

Prints spikes per neuron and timestep, forward and forward+backward milliseconds (median over rounds), their ratios
to the layered runs in the same round (median of ratios), and peak memory above the imports, measured in a process of
its own. Read the ratios from an idle machine only; the load is printed with them.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model.sew_resnet import sew_resnet18
from torch import Tensor, nn

import snn_async
from benchmarks.layered_vs_async import Step, forward_backward, memory_of, timings
from lightning_modules.models import conv_net

SNNTORCH, SPIKINGJELLY = "snnTorch layered", "SpikingJelly layered"
Cases = dict[str, tuple[nn.Module, Step]]
LEAK, THRESHOLD = 0.9, 0.3


def snntorch_events(given: argparse.Namespace) -> nn.Sequential:
    torch.manual_seed(0)
    return conv_net(
        size=[given.event_side] * 2,
        channels=given.channels,
        beta=LEAK,
        threshold=THRESHOLD,
        reset_mechanism="zero",
        reset_delay=False,
    )


def spikingjelly_events(given: argparse.Namespace) -> nn.Sequential:
    """Return the same network with the same weights, multi-step."""
    parts: list[nn.Module] = []
    for module in snntorch_events(given):
        if isinstance(module, nn.Conv2d):
            parts.append(layer.Conv2d(module.in_channels, module.out_channels, 3, 2, 1, bias=False))
        elif isinstance(module, nn.Linear):
            parts.append(layer.Linear(module.in_features, module.out_features, bias=False))
        elif isinstance(module, nn.Flatten):
            parts.append(layer.Flatten())
        else:
            parts.append(
                neuron.LIFNode(1 / (1 - LEAK), False, THRESHOLD, surrogate_function=surrogate.ATan())
            )
        if isinstance(module, nn.Conv2d | nn.Linear):
            parts[-1].load_state_dict(module.state_dict())
    model = nn.Sequential(*parts)
    functional.set_step_mode(model, "m")
    return model


def spikingjelly_resnet(x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = sew_resnet18(
        num_classes=10,
        cnf="ADD",
        spiking_neuron=neuron.IFNode,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
    )
    functional.set_step_mode(model, "m")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over the batches below
    with torch.no_grad():
        for _ in range(3):
            functional.reset_net(model)
            model(torch.randn(x.shape[0], 16, *x.shape[2:]))
    functional.reset_net(model)
    return model.eval()


def events(given: argparse.Namespace) -> tuple[str, Tensor, Cases]:
    """Return a title, x (T, B, 2, side, side), and name -> (model, a call that gives outputs (T, B, classes))."""
    side, steps = given.event_side, given.timesteps or 10
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(steps, given.batch, 2, side, side, generator=generator) < given.density).float()
    layered, multistep = snntorch_events(given), spikingjelly_events(given)

    def run_snntorch() -> Tensor:
        for module in layered:
            if hasattr(module, "reset_mem"):
                module.reset_mem()
                module.mem = module.mem.detach()
        return torch.stack([layered(frame) for frame in x])

    named: Cases = {
        SNNTORCH: (layered, run_snntorch),
        SPIKINGJELLY: (multistep, lambda: whole(multistep, x)),
    }
    channels = "-".join(map(str, (2, *given.channels)))
    title = f"{channels} convolutions of stride 2, then Linear to 10, LIF, {side}x{side}, {given.density:.0%} active"
    return title, x, named | asynchronous(layered, x, given.sizes)


def resnet(given: argparse.Namespace) -> tuple[str, Tensor, Cases]:
    """Return the same of sew_resnet18, x (T, B, 3, side, side)."""
    side, steps = given.image_side, given.timesteps or 4
    image = torch.randn(given.batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    x = image.repeat(steps, 1, 1, 1, 1)
    model = spikingjelly_resnet(x)
    named: Cases = {SPIKINGJELLY: (model, lambda: whole(model, x))}
    title = f"sew_resnet18 (ADD, IF, ATan), {side}x{side} images, BatchNorm in evaluation mode"
    return title, x, named | asynchronous(model, x, given.sizes)


PARTS = {"events": events, "resnet": resnet}


def whole(model: nn.Module, x: Tensor) -> Tensor:
    functional.reset_net(model)
    return model(x)


def asynchronous(model: nn.Module, x: Tensor, sizes: list[int | None]) -> Cases:
    named: Cases = {}
    for size in sizes:
        net = snn_async.asynchronize(model, forward_group_size=size, backend="numba")
        named[f"async F={'all' if size is None else size}"] = (net, lambda net=net: net(x))
    return named


def density(net: snn_async.AsyncNetwork, x: Tensor) -> float:
    """Spikes per spiking neuron and timestep, layered."""
    with torch.no_grad():
        counts = net.layered(x).activity.spikes.values()
    neurons = sum(p.size for p in net.graph.populations if p.neuron.spiking)
    return sum(int(spikes.sum()) for spikes in counts) / (x.shape[0] * x.shape[1] * neurons)


def peak_memory(part: str, name: str, arguments: list[str]) -> float:
    """MiB that one forward+backward adds to the process's peak, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.conv", *arguments, "--memory", part, name],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return float(done.stdout)


def weigh(given: argparse.Namespace) -> float:
    """Return the MiB of the one case that `--memory` names; neither compiled code nor the capture is what we weigh."""
    part, name = given.memory
    make = PARTS[part]
    _, x, named = make(given)
    model, step = named[name]
    if isinstance(model, snn_async.AsyncNetwork):
        model.plan(x)
    given.batch = 2
    forward_backward(*make(given)[2][name])
    return memory_of(lambda: forward_backward(model, step))


def table(part: str, given: argparse.Namespace, arguments: list[str]) -> Iterator[str]:
    """Yield the lines of a part's table."""
    load = os.getloadavg()[0]
    title, x, named = PARTS[part](given)
    results = timings(named, given.rounds)
    nets = [model for model, _ in named.values() if isinstance(model, snn_async.AsyncNetwork)]
    spikes = f", {density(nets[0], x):.1%} of the neurons spike in a timestep" if nets else ""
    yield (
        f"{title}, batch {given.batch}, T = {len(x)}{spikes}; {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, load {load:.1f} before"
    )
    bases = [name for name in (SNNTORCH, SPIKINGJELLY) if name in named]
    short = "".join(f"{base.split()[0]:>14}" for base in bases)
    yield f"{'':22}{'forward':>12}{short}{'forward+backward':>20}{short}{'peak':>12}"
    for name, mine in results.items():
        cells = ""
        for phase, width in ((0, 12), (1, 20)):
            cells += f"{statistics.median(mine[phase]):{width - 3}.1f} ms"
            for base in bases:
                pairs = zip(mine[phase], results[base][phase], strict=True)
                cells += f"{statistics.median(a / b for a, b in pairs):13.2f}x"
        memory = "" if given.no_memory else f"{peak_memory(part, name, arguments):8.0f} MiB"
        yield f"{name:22}{cells}{memory}"


def group_size(text: str) -> int | None:
    return None if text == "all" else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--timesteps", type=int, help="default: 10 of events, 4 of images")
    parser.add_argument("--sizes", type=group_size, nargs="*", default=[128, 1024, None], help="F, or 'all'")
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 16, 32], help="of the event network")
    parser.add_argument("--event-side", type=int, default=34)
    parser.add_argument("--image-side", type=int, default=32)
    parser.add_argument("--density", type=float, default=0.04, help="share of active input pixels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-memory", action="store_true", help="do not weigh the cases")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory:
        print(weigh(given))
        return
    for part in given.part:
        for line in table(part, given, sys.argv[1:]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
