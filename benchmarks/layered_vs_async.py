"""Asynchronous execution beside layered snnTorch and SpikingJelly, interleaved in one process.

    python -m benchmarks.layered_vs_async [--rounds 15] [--threads 2] [--spike-density 0.03] [--hidden 64 64 64]

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

SIZES = (1, 8, 64, None)
Step = Callable[[], Tensor]


def snntorch_model(sizes: list[int]) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        parts += [
            nn.Linear(fan_in, fan_out, bias=False),
            snntorch.Leaky(
                beta=0.9, threshold=0.3, reset_mechanism="zero", reset_delay=False, init_hidden=True
            ),
        ]
    return nn.Sequential(*parts)


def spikingjelly_model(sizes: list[int]) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        node = neuron.LIFNode(
            tau=10.0, decay_input=False, v_threshold=0.3, surrogate_function=surrogate.ATan()
        )
        parts += [layer.Linear(fan_in, fan_out, bias=False), node]
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
        named[f"async F={'all' if size is None else size}"] = (layered, lambda net=net: net(x))
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
        for small_model, small_step in small.values():  # compiled code is not what we weigh
            forward_backward(small_model, small_step)
        print(memory_of(lambda: forward_backward(model, step)))
        return
    load = os.getloadavg()[0]
    results = timings(named, given.rounds)
    base = results["snnTorch layered"]
    print(
        f"{'-'.join(map(str, sizes))}, batch {given.batch}, T = {given.timesteps}, "
        f"{given.spike_density:.0%} input spikes, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load {load:.1f} before"
    )
    print(f"{'':22}{'forward':>16}{'':8}{'forward+backward':>18}{'':8}{'peak':>8}")
    for name, (ahead, both) in results.items():
        ratios = [
            statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in zip((ahead, both), base, strict=True)
        ]
        memory = peak_memory(name, [a for a in sys.argv[1:] if a != "--memory"])
        print(
            f"{name:22}{statistics.median(ahead):13.1f} ms{ratios[0]:7.2f}x"
            f"{statistics.median(both):15.1f} ms{ratios[1]:7.2f}x{memory:8.0f} MiB"
        )


if __name__ == "__main__":
    main()
