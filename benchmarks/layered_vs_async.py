"""Asynchronous execution beside layered snnTorch and SpikingJelly, interleaved in one process.

    python -m benchmarks.layered_vs_async [--rounds 15] [--threads 2] [--spike-density 0.03] [--hidden 64 64 64]

The network is awake: Xavier weights, threshold 0.3, leak 0.37 and a hard reset at once let 10 to 40 % of each layer's
neurons spike in a timestep, as in trained networks; the rates are printed. "timestep by timestep" is the engine's
general way (one call per timestep, neurons in torch), which neurons other than those with a linear leak take.

Prints forward and forward+backward milliseconds (median over rounds), their ratio to layered snnTorch in the
same round (median of ratios), and peak memory above the imports, measured in a process of its own. Read the
ratios from an idle machine only, the load is printed with them: torch's thread pool suffers far more from busy
cores than the engine's.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import snn_async
from snn_async.engines.numba.engine import NumbaEngine
from snn_async.graph import Graph

SIZES = (1, 8, 64, None)
Step = Callable[[], Tensor]


class TimestepByTimestep(NumbaEngine):
    """The numba engine without its way of running a whole sequence in one call."""

    def runs_sequences(self, graph: Graph) -> bool:
        return False


def awake(linear: nn.Linear) -> nn.Linear:
    nn.init.xavier_uniform_(linear.weight)
    return linear


def snntorch_model(sizes: list[int]) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        neurons = snntorch.Leaky(
            beta=0.37, threshold=0.3, reset_mechanism="zero", reset_delay=False, init_hidden=True
        )
        parts += [awake(nn.Linear(fan_in, fan_out, bias=False)), neurons]
    return nn.Sequential(*parts)


def spikingjelly_model(sizes: list[int]) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        node = neuron.LIFNode(
            tau=1 / 0.63, decay_input=False, v_threshold=0.3, surrogate_function=surrogate.ATan()
        )
        parts += [awake(layer.Linear(fan_in, fan_out, bias=False)), node]
    model = nn.Sequential(*parts)
    functional.set_step_mode(model, "m")
    return model


def cases(sizes: list[int], x: Tensor) -> dict[str, tuple[nn.Module, Step]]:
    """Return name -> (model, a call that gives output spikes (T, B, classes))."""
    layered, multistep = snntorch_model(sizes), spikingjelly_model(sizes)
    neurons = [module for module in layered if isinstance(module, snntorch.Leaky)]

    def run_snntorch() -> Tensor:
        for module in neurons:
            module.reset_mem()
            module.mem = module.mem.detach()
        return torch.stack([layered(frame) for frame in x])

    def run_spikingjelly() -> Tensor:
        functional.reset_net(multistep)
        return multistep(x)

    named: dict[str, tuple[nn.Module, Step]] = {
        "snnTorch layered": (layered, run_snntorch),
        "SpikingJelly layered": (multistep, run_spikingjelly),
    }
    for size in SIZES:
        net = snn_async.asynchronize(layered, forward_group_size=size, backend="numba")
        named[f"async F={'all' if size is None else size}"] = (net, lambda net=net: net(x))
    stepwise = snn_async.asynchronize(layered, forward_group_size=8, backend=TimestepByTimestep())
    named["async F=8, by timestep"] = (stepwise, lambda: stepwise(x))
    return named


def forward(step: Step) -> float:
    with torch.no_grad():
        start = time.perf_counter()
        step()
        return time.perf_counter() - start


def forward_backward(model: nn.Module, step: Step) -> float:
    model.zero_grad()
    start = time.perf_counter()
    step().sum().backward()
    return time.perf_counter() - start


def timings(
    named: dict[str, tuple[nn.Module, Step]], rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    for model, step in named.values():  # compile and warm up
        forward(step), forward_backward(model, step)
    results: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in named}
    for _ in range(rounds):
        for name, (_, step) in named.items():
            results[name][0].append(1e3 * forward(step))
        for name, (model, step) in named.items():
            results[name][1].append(1e3 * forward_backward(model, step))
    return results


def memory_of(call: Callable[[], object]) -> float:
    """MiB by which a call raises the process's resident memory at its peak (Linux)."""

    def status(field: str) -> int:
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

    gc.collect()
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # forget the peak so far
    before = status("VmRSS")
    call()
    return (status("VmHWM") - before) / 1024


def peak_memory(name: str, arguments: list[str]) -> float:
    """MiB that one forward+backward adds to the process's peak, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.layered_vs_async", *arguments, "--memory", name],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--spike-density", type=float, default=0.03)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--timesteps", type=int, default=10)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64, 64])
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = [2312, *given.hidden, 10]
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.rand(given.timesteps, given.batch, sizes[0], generator=generator) < given.spike_density
    ).float()
    named = cases(sizes, x)
    if given.memory:
        model, step = named[given.memory]
        small = {name: pair for name, pair in cases(sizes, x[:, :2]).items() if name == given.memory}
        for (
            small_model,
            small_step,
        ) in small.values():  # neither compiled code nor the capture is what we weigh
            forward_backward(small_model, small_step)
        if isinstance(model, snn_async.AsyncNetwork):
            model.plan(x)
        print(memory_of(lambda: forward_backward(model, step)))
        return
    load = os.getloadavg()[0]
    net = snn_async.asynchronize(named["snnTorch layered"][0], forward_group_size=8)
    with torch.no_grad():
        activity = net.run(x).activity
    rates = [
        float(activity.spikes[population.name].float().mean() / population.size)
        for population in net.graph.populations
    ]
    results = timings(named, given.rounds)
    base = results["snnTorch layered"]
    print(
        f"{'-'.join(map(str, sizes))}, batch {given.batch}, T = {given.timesteps}, "
        f"{given.spike_density:.0%} input spikes, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load {load:.1f} before"
    )
    print(
        f"of the neurons of each layer {', '.join(f'{rate:.0%}' for rate in rates)} spike in a timestep (F = 8), in "
        f"{float(activity.forward_steps.float().mean()):.1f} forward steps"
    )
    print(f"{'':24}{'forward':>16}{'':8}{'forward+backward':>18}{'':8}{'peak':>8}")
    for name, (ahead, both) in results.items():
        ratios = [
            statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in zip((ahead, both), base, strict=True)
        ]
        memory = peak_memory(name, [a for a in sys.argv[1:] if a != "--memory"])
        print(
            f"{name:24}{statistics.median(ahead):13.1f} ms{ratios[0]:7.2f}x"
            f"{statistics.median(both):15.1f} ms{ratios[1]:7.2f}x{memory:8.0f} MiB"
        )


if __name__ == "__main__":
    main()
