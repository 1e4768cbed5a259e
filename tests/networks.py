"""Small random networks and frozen neurons for the tests, independent of any framework."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn_async.capture import Encoded
from snn_async.graph import INPUT, Graph, Junction, Population, Projection
from snn_async.graph.grids import Grid, size_of, to_units
from snn_async.graph.live import Held
from snn_async.graph.synapses import Convolution, Dense, Normalization, OneToOne, Synapses, wiring
from snn_async.graph.windows import pooling
from snn_async.learning.rule import Job
from snn_async.network import AsyncNetwork, job_for
from snn_async.neurons import LinearNeuron, LinearParameters
from snn_async.options import Options


class ATan(torch.autograd.Function):
    """H(x > 0) with snnTorch's default surrogate gradient, in the precision of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / (1 + (torch.pi * x) ** 2)


class Values(nn.Module):
    """Learnable leak, gain, offset and threshold of a population."""

    def __init__(self, size: int | tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()

        def draw(low: float, high: float) -> nn.Parameter:
            return nn.Parameter(
                low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)
            )

        self.leak, self.gain, self.offset, self.threshold = (
            draw(0.3, 1),
            draw(0.5, 1.5),
            draw(-0.1, 0.1),
            draw(0.3, 1),
        )

    def read(self) -> LinearParameters:
        return LinearParameters(self.leak, self.gain, self.offset, self.threshold)


KINDS: dict[str, dict[str, Any]] = {
    "subtract": dict(reset="subtract"),
    "subtract, detached": dict(reset="subtract", detach_reset=True),
    "subtract, retested": dict(reset="subtract", retest_residual=True),
    "subtract, delayed": dict(reset="none", delayed_reset="subtract"),
    "value": dict(reset="value", reset_value=-0.2),
    "value, detached": dict(reset="value", reset_value=0.1, detach_reset=True),
    "value, delayed": dict(reset="none", delayed_reset="value"),
    "value, delayed, swallowing": dict(reset="none", delayed_reset="swallow"),
    "none": dict(reset="none"),
}


def neuron(
    kind: str, size: int | tuple[int, ...], generator: torch.Generator, **options: Any
) -> LinearNeuron:
    return LinearNeuron(
        module=Values(size, generator),
        parameters=Values.read,
        surrogate=ATan.apply,
        **{"inclusive": False} | KINDS[kind] | options,
    )


@dataclass(frozen=True)
class Recipe:
    """A random feed-forward network: layer sizes, neuron kinds, skip connections, dropout places."""

    sizes: tuple[int, ...]
    kinds: tuple[str, ...]
    bias: bool = True
    skips: tuple[tuple[int, int], ...] = ()  # (source, target) population indices, -1 for the input
    dropout: tuple[str, ...] = ()  # "source", "target"
    readout: bool = False
    seed: int = 0

    def graph(self) -> Graph:
        generator = torch.Generator().manual_seed(self.seed)
        inputs, *sizes = self.sizes
        last = len(sizes) - 1
        populations = [
            Population(f"p{i}", n, neuron(k, n, generator, spiking=not (self.readout and i == last)))
            for i, (n, k) in enumerate(zip(sizes, self.kinds, strict=True))
        ]
        edges = {(i - 1, i) for i in range(len(sizes))} | set(self.skips)
        gains = count()

        def projection(source: int, target: int) -> Projection:
            fan_in, fan_out = self.sizes[source + 1], sizes[target]
            layer = nn.Linear(fan_in, fan_out, self.bias, dtype=torch.float64)
            with torch.no_grad():
                weight = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
                layer.weight.copy_(weight * (2.5 / fan_in**0.5) + 0.5 / fan_in)
                if self.bias:
                    layer.bias.copy_(0.2 * torch.randn(fan_out, generator=generator, dtype=torch.float64))
            return Projection(
                f"{source}->{target}",
                INPUT if source < 0 else f"p{source}",
                f"p{target}",
                Dense.of(layer, (fan_in, 1, 1)),
                (next(gains),) if "source" in self.dropout else (),
                (next(gains),) if "target" in self.dropout else (),
            )

        return Graph(populations, [projection(*edge) for edge in sorted(edges)], f"p{last}")


def numbered(graph: Graph, x: Tensor) -> Tensor:
    """Features (..., S) in unit order, given each input's as torch flattens them, one after another."""
    grids = graph.input_grids.values()
    parts = x.split([size_of(grid) for grid in grids], -1)
    return torch.cat([to_units(part, grid) for part, grid in zip(parts, grids, strict=True)], -1)


class Drawn:
    """A graph that no source model stands behind, as what one was captured as; it returns the output's spikes."""

    def __init__(self, graph: Graph, x: Tensor, compute: Callable[[], tuple[Tensor, ...]]) -> None:
        self.graph, self._compute = graph, compute
        self.steps, self.samples = x.shape[:2]
        self.shown = ((graph.output, "spikes"),)

    def encode(self, model: nn.Module, args: Any, kwargs: Any) -> Encoded:
        x = numbered(self.graph, args[0].flatten(2))
        return Encoded({}, x, self.gains(model, x), {}, (self._compute(),), None)

    def decode(self, encoded: Encoded, shown: Any) -> Tensor:
        return shown[self.graph.output, "spikes"]

    def describe(self) -> str:
        return "drawn"

    def gains(self, model: nn.Module, x: Tensor) -> tuple[Tensor | None, ...]:
        """In training, dropout: of events in every timestep anew, of currents once per run."""
        edges = [(p.source_gain, len(x), p.fan_in) for p in self.graph.projections]
        edges += [(p.target_gain, 1, p.fan_out) for p in self.graph.projections]
        drawn = {
            number: x.new_empty(steps, x.shape[1], fan).bernoulli_(0.6) / 0.6 if model.training else None
            for numbers, steps, fan in edges
            for number in numbers
        }
        return tuple(drawn[number] for number in sorted(drawn))


def held_modules(value: Any) -> list[nn.Module]:
    """The modules whose parameters synapses and junctions hold."""
    if isinstance(value, Held):
        return [value.module]
    if isinstance(value, tuple):
        return [module for part in value for module in held_modules(part)]
    if not is_dataclass(value):
        return []
    return [module for part in fields(value) for module in held_modules(getattr(value, part.name))]


def network(
    graph: Graph,
    engine: Any,
    seed: int = 0,
    compute: Callable[[], tuple[Tensor, ...]] = tuple,
    **options: Any,
) -> AsyncNetwork:
    """An AsyncNetwork around a graph, on an engine or the one of a name; `compute` gives its live values."""
    modules = [
        *(p.neuron.module for p in graph.populations),
        *held_modules((graph.projections, graph.junctions)),
    ]

    def capture(model: nn.Module, args: Any, kwargs: Any) -> Drawn:
        return Drawn(graph, args[0], compute)

    net = AsyncNetwork(nn.ModuleList(modules), Options(**options), engine, seed, capture)
    net.plan(torch.zeros((1, 1, graph.input_size)))
    return net


def job(net: AsyncNetwork, x: Tensor, seed: int, sample_ids: Tensor) -> Job:
    """What `net` runs for x (T, B, ...), from rest."""
    plan = net.plan(x)
    return job_for(plan, plan.capture.encode(net.model, (x,), {}), None, seed, sample_ids)


class Drawing:
    """Draws a random graph of convolutions, pools, joins and recurrent edges, edge by edge, with float64 weights."""

    def __init__(self, seed: int, kinds: Sequence[str], dropout: tuple[str, ...] = ()) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.kinds = list(kinds)  # of the populations, in order, again and again
        self.dropout, self.gains = dropout, count()
        self.populations: list[Population] = []
        self.junctions: list[Junction] = []
        self.projections: list[Projection] = []

    def neurons(self, name: str, grid: Grid, *sources: tuple[str, Synapses], **options: Any) -> None:
        kind = self.kinds[len(self.populations) % len(self.kinds)]
        module = neuron(kind, (grid[0], 1, 1), self.generator, **options)  # one set of values per channel
        self.populations.append(Population(name, size_of(grid), module, grid, tuple(grid)))
        for source, synapses in sources:
            self.edge(source, name, synapses)

    def junction(self, junction: Junction, *sources: tuple[str, Synapses]) -> None:
        self.junctions.append(junction)
        for port, (source, synapses) in enumerate(sources):
            self.edge(source, junction.name, synapses, port=port * junction.waits)

    def edge(self, source: str, target: str, synapses: Synapses, **options: Any) -> None:
        plain = not synapses.weighted
        self.projections.append(
            Projection(
                f"{source}->{target}",
                source,
                target,
                synapses,
                (next(self.gains),) if "source" in self.dropout and not plain else (),
                (next(self.gains),) if "target" in self.dropout and not plain else (),
                **options,
            )
        )

    def _fill(self, layer: nn.Module, gain: float) -> Any:
        fan_in = layer.weight[0].numel()
        with torch.no_grad():
            weight = torch.randn(layer.weight.shape, generator=self.generator, dtype=torch.float64)
            layer.weight.copy_(weight * (gain / fan_in**0.5) + 0.6 / fan_in)
            if layer.bias is not None:
                layer.bias.copy_(
                    0.2 * torch.randn(layer.bias.shape, generator=self.generator, dtype=torch.float64)
                )
        return layer

    def dense(self, source: Grid, out: int, bias: bool = True) -> Dense:
        return Dense.of(self._fill(nn.Linear(size_of(source), out, bias, dtype=torch.float64), 2.5), source)

    def conv(self, source: Grid, out: int, norm: bool = False, **options: Any) -> Convolution:
        kind = nn.Conv1d if options.pop("one", False) else nn.Conv2d
        layer = self._fill(kind(source[0], out, dtype=torch.float64, **{"kernel_size": 3} | options), 2.5)
        return Convolution.of(layer, source, self.norm(out) if norm else None)

    def norm(self, channels: int) -> Normalization:
        norm = nn.BatchNorm2d(channels, dtype=torch.float64).eval()
        with torch.no_grad():
            for value, low in (
                (norm.weight, 0.5),
                (norm.bias, -0.3),
                (norm.running_mean, -0.2),
                (norm.running_var, 0.5),
            ):
                value.copy_(low + torch.rand(channels, generator=self.generator, dtype=torch.float64))
        return Normalization.of(norm)

    def recurrence(self, target: str, synapses: Synapses) -> None:
        self.edge(target, target, synapses, delayed=True)

    def graph(self, output: str, shape: tuple[int, ...]) -> Graph:
        return Graph(self.populations, self.projections, output, junctions=self.junctions)


def average(source: Grid, side: int = 2) -> Synapses:
    """Average pooling of `side` x `side` windows."""
    windows = pooling(*source[1:], (side, side), (side, side), (0, 0))
    counts = np.diff(windows.offsets)
    to = np.repeat(np.arange(len(counts)), counts)
    target = (source[0], windows.height, windows.width)
    return wiring("AvgPool", source, target, source[0], windows.positions, to, 1 / windows.area[to])


def maximum(name: str, cells: Grid, kernel: int = 2, stride: int = 2, padding: int = 0) -> Junction:
    windows = pooling(*cells[1:], (kernel, kernel), (stride, stride), (padding, padding))
    return Junction(name, "max", (cells[0], windows.height, windows.width), cells, windows)


def _convolutions(d: Drawing) -> Graph:
    """Strided, dilated and grouped convolutions with BatchNorm, then Linear."""
    first = d.conv((2, 6, 5), 4, stride=2, padding=1, norm=True)
    second = d.conv(first.target, 6, groups=2, dilation=2, padding=2)
    d.neurons("a", first.target, ("input", first))
    d.neurons("b", second.target, ("a", second))
    d.neurons("c", (3, 1, 1), ("b", d.dense(second.target, 3)))
    return d.graph("c", (2, 6, 5))


def _sequence(d: Drawing) -> Graph:
    """Conv1d, and a BatchNorm on its own."""
    first = d.conv((2, 1, 7), 3, one=True, stride=2, padding=1)
    d.neurons("a", first.target, ("input", first))
    d.neurons("b", first.target, ("a", OneToOne(first.target, d.norm(3))))
    d.neurons("c", (2, 1, 1), ("b", d.dense(first.target, 2)))
    return d.graph("c", (2, 7))


def _pools(d: Drawing) -> Graph:
    """Overlapping max pooling of spikes, then average pooling in front of a Linear."""
    first = d.conv((1, 6, 6), 2, padding=1)
    d.neurons("a", first.target, ("input", first))
    pool = maximum("max", first.target, 3, 2, 1)
    d.junction(pool, ("a", OneToOne(first.target)))
    second = d.conv(pool.grid, 3, padding=1)
    d.neurons("b", second.target, ("max", second))
    pooled = average(second.target)
    d.junction(Junction("average", "sum", pooled.target, pooled.target), ("b", pooled))
    d.neurons("c", (3, 1, 1), ("average", d.dense(pooled.target, 3)))
    return d.graph("c", (1, 6, 6))


def _pooled_currents(d: Drawing) -> Graph:
    """A max pool between a convolution and its neurons, as in snnTorch's tutorials."""
    first = d.conv((1, 6, 6), 2)
    pool = maximum("max", first.target)
    d.junction(pool, ("input", first))
    d.neurons("a", pool.grid, ("max", OneToOne(pool.grid)))
    second = d.conv(pool.grid, 2, kernel_size=1)
    other = maximum("max2", second.target)
    d.junction(other, ("a", second))
    d.neurons("b", other.grid, ("max2", OneToOne(other.grid)))
    d.neurons("c", (3, 1, 1), ("b", d.dense(other.grid, 3)))
    return d.graph("c", (1, 6, 6))


def _residual(d: Drawing) -> Graph:
    """Two SEW ADD blocks, a max pool over their sums, and a skip into neurons (spiking ResNet)."""
    grid = (2, 4, 4)
    d.neurons("stem", grid, ("input", d.conv((1, 4, 4), 2, padding=1)))
    d.neurons("a", grid, ("stem", d.conv(grid, 2, padding=1)))
    d.junction(Junction("add", "sum", grid, grid), ("stem", OneToOne(grid)), ("a", OneToOne(grid)))
    d.neurons("b", grid, ("add", d.conv(grid, 2, padding=1)), ("add", OneToOne(grid)))
    pool = maximum("max", grid)
    d.junction(pool, ("add", OneToOne(grid)), ("b", OneToOne(grid)))
    d.neurons("c", (3, 1, 1), ("max", d.dense(pool.grid, 3)))
    return d.graph("c", (1, 4, 4))


def _joins(d: Drawing) -> Graph:
    """An AND join behind an IAND join, with a path around both."""
    grid = (2, 3, 3)
    d.neurons("stem", grid, ("input", d.conv((1, 3, 3), 2, padding=1)))
    d.neurons("a", grid, ("stem", d.conv(grid, 2, padding=1)))
    d.junction(Junction("iand", "iand", grid, grid), ("stem", OneToOne(grid)), ("a", OneToOne(grid)))
    d.neurons("b", grid, ("iand", d.conv(grid, 2, padding=1)), ("stem", d.conv(grid, 2, kernel_size=1)))
    d.junction(Junction("and", "and", grid, grid), ("b", OneToOne(grid)), ("stem", OneToOne(grid)))
    d.neurons("c", (3, 1, 1), ("and", d.dense(grid, 3)))
    return d.graph("c", (1, 3, 3))


def _recurrent(d: Drawing) -> Graph:
    """Recurrent edges: all to all, convolutional and one to one."""
    grid = (2, 3, 3)
    d.neurons("a", grid, ("input", d.conv((1, 3, 3), 2, padding=1)))
    d.recurrence("a", d.conv(grid, 2, padding=1))
    d.neurons("b", (4, 1, 1), ("a", d.dense(grid, 4)))
    d.recurrence("b", d.dense((4, 1, 1), 4))
    d.neurons("c", (3, 1, 1), ("b", d.dense((4, 1, 1), 3)))
    values = nn.Module()
    values.V = nn.Parameter(torch.randn(3, generator=d.generator, dtype=torch.float64))
    d.recurrence("c", OneToOne((3, 1, 1), gain=Held(values, "V"), count=3))
    return d.graph("c", (1, 3, 3))


def _attention(d: Drawing) -> Graph:
    """Softmax attention between three populations, then LayerNorm of it, of a skip and of last timestep's output."""
    grid = (2, 1, 3)
    for name in "qkv":
        d.neurons(name, grid, ("input", d.conv((2, 1, 5), 2, one=True)))
    attend = Junction("attend", "wait", grid, grid, function=attention, ports=(grid,) * 3)
    d.junction(attend, *((name, OneToOne(grid)) for name in "qkv"))
    norm = nn.LayerNorm(6, dtype=torch.float64)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(0.3 * torch.randn(6, generator=d.generator, dtype=torch.float64))
    live = (Held(norm, "weight"), Held(norm, "bias"))
    flat = d.dense(grid, 6)
    d.junction(
        Junction("norm", "wait", grid, grid, function=layer_norm, live=live, ports=((6, 1, 1), grid)),
        ("attend", flat),
        ("v", d.conv(grid, 2, one=True, padding=1)),
    )
    d.neurons("b", (4, 1, 1), ("norm", d.dense(grid, 4)))
    d.edge("b", "norm", d.dense((4, 1, 1), 6), delayed=True, port=0)
    d.neurons("c", (3, 1, 1), ("b", d.dense((4, 1, 1), 3)))
    return d.graph("c", (2, 5))


def attention(x: Tensor, live: Sequence[Tensor]) -> Tensor:
    """Rows of queries, keys and values, each (2 features, 3 tokens)."""
    q, k, v = x.view(-1, 3, 2, 3).unbind(1)
    return torch.einsum("rij,rcj->rci", torch.einsum("rci,rcj->rij", q, k).softmax(2), v).flatten(1)


def layer_norm(x: Tensor, live: Sequence[Tensor]) -> Tensor:
    """Rows of two operands whose sum is normalized."""
    a, b = x.chunk(2, 1)
    return nn.functional.layer_norm(a + b, (6,), *live)


def _two_inputs(d: Drawing) -> Graph:
    """Two inputs, one of them with a way around the first population, both through a join at once."""
    grid = (2, 3, 3)
    d.neurons("a", grid, ("input", d.conv((1, 3, 3), 2, padding=1)))
    d.neurons("b", (4, 1, 1), ("a", d.dense(grid, 4)), ("input 2", d.dense((5, 1, 1), 4)))
    pool = maximum("max", grid, 2, 1)
    d.junction(pool, ("input", d.conv((1, 3, 3), 2, padding=1)), ("a", OneToOne(grid)))
    d.junction(Junction("add", "sum", (3, 1, 1), (3, 1, 1)), ("input 2", d.dense((5, 1, 1), 3, False)))
    d.neurons(
        "c",
        (3, 1, 1),
        ("max", d.dense(pool.grid, 3)),
        ("b", d.dense((4, 1, 1), 3)),
        ("add", OneToOne((3, 1, 1))),
    )
    return Graph(
        d.populations,
        d.projections,
        "c",
        junctions=d.junctions,
        inputs={"input": (1, 3, 3), "input 2": (5, 1, 1)},
    )


WAITING: dict[str, Callable[[Drawing], Graph]] = {"attention": _attention}  # what engine "numba" cannot run

MOTIFS: dict[str, Callable[[Drawing], Graph]] = {
    "convolutions": _convolutions,
    "sequence": _sequence,
    "pools": _pools,
    "pooled currents": _pooled_currents,
    "residual": _residual,
    "joins": _joins,
    "recurrent": _recurrent,
    "two inputs": _two_inputs,
}


def frames(graph: Graph, steps: int, samples: int, seed: int = 0, analog: bool = False) -> Tensor:
    """Random input (T, B, *shape), mostly zero; signed amplitudes if analog."""
    generator = torch.Generator().manual_seed(seed + 1)
    shape = (steps, samples, graph.input_size)
    active = torch.rand(shape, generator=generator, dtype=torch.float64) < 0.4
    amplitude = (
        torch.randn(shape, generator=generator, dtype=torch.float64) if analog else torch.ones(shape).double()
    )
    return active * amplitude


class Latest:
    """A scheduler written in Python: youngest first, then by everything else it is shown."""

    def priorities(self, pending: Any) -> Any:
        return -(100.0 * pending.timestep + pending.step) + pending.uniform - 0.1 * pending.potential
