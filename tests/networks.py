"""Small random networks and frozen neurons for the tests, independent of any framework."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn_async.graph import INPUT, Dropout, Graph, Population, Projection
from snn_async.network import AsyncNetwork, make_execution
from snn_async.neurons import Neuron, NeuronParameters
from snn_async.schedulers import make_scheduler
from snn_async.stopping import make_stop_rule


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

    def __init__(self, size: int, generator: torch.Generator) -> None:
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

    def read(self) -> NeuronParameters:
        return NeuronParameters(self.leak, self.gain, self.offset, self.threshold)


KINDS: dict[str, dict[str, Any]] = {
    "subtract": dict(reset="subtract"),
    "subtract, detached": dict(reset="subtract", detach_reset=True),
    "subtract, retested": dict(reset="subtract", retest_residual=True),
    "subtract, delayed": dict(reset="subtract", delayed_reset=True),
    "value": dict(reset="value", reset_value=-0.2),
    "value, detached": dict(reset="value", reset_value=0.1, detach_reset=True),
    "value, delayed": dict(reset="value", delayed_reset=True),
    "value, delayed, swallowing": dict(reset="value", delayed_reset=True, swallow_input=True),
    "none": dict(reset="none"),
}


def neuron(kind: str, size: int, generator: torch.Generator, **options: Any) -> Neuron:
    return Neuron(
        module=Values(size, generator),
        read=Values.read,
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
        drop = nn.Dropout(0.4)

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
                (layer,),
                (Dropout(drop),) if "source" in self.dropout else (),
                (Dropout(drop, per_run=True),) if "target" in self.dropout else (),
            )

        return Graph(populations, [projection(*edge) for edge in sorted(edges)], f"p{last}")


def network(graph: Graph, engine: Any, seed: int = 0, **options: Any) -> AsyncNetwork:
    """An AsyncNetwork around a graph that no source model stands behind."""
    given = dict(
        scheduler="momentum",
        forward_group_size=8,
        refractory=None,
        refractory_dropout=0.0,
        stop="quiescent",
        leftover="drop",
        input="prioritized",
        momentum_noise=0.0,
        max_forward_steps=10_000,
    )
    given |= options
    noise, stop = given.pop("momentum_noise"), make_stop_rule(given.pop("stop"))
    order = make_scheduler(given.pop("scheduler"), noise)
    execution = make_execution(graph, scheduler=order, stop=stop, **given)
    neurons = [population.neuron for population in graph.populations]
    modules = [n.module for n in neurons] + [layer for p in graph.projections for layer in p.layers]
    modules += [d.module for p in graph.projections for d in (*p.source_dropout, *p.target_dropout)]
    return AsyncNetwork(nn.ModuleList(modules), graph, engine, execution, seed)


def frames(recipe: Recipe, steps: int, samples: int, analog: bool = False) -> Tensor:
    """Random input (T, B, S), mostly zero; signed amplitudes if analog."""
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    shape = (steps, samples, recipe.sizes[0])
    active = torch.rand(shape, generator=generator, dtype=torch.float64) < 0.4
    amplitude = (
        torch.randn(shape, generator=generator, dtype=torch.float64) if analog else torch.ones(shape).double()
    )
    return active * amplitude
