"""From the source model's live modules to the tensors an engine runs on, differentiably."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_async.engines.contract import Values
from snn_async.errors import UnsupportedModelError
from snn_async.graph import Dropout, Graph, Population


def collect(graph: Graph, x: Tensor, potentials: Tensor | None) -> Values:
    """Read every parameter and draw dropout masks (from torch's generator, in training only).

    Args:
        x: (T, B, S) of the model's dtype.
        potentials: (B, N) to start from, or None for rest.
    """
    like = x.new_empty(0)
    parameters = {p.name: p.neuron.parameters() for p in graph.populations}
    weights, biases = [], []
    for projection in graph.projections:
        gain = parameters[projection.target].gain.to(like)
        plain = not gain.requires_grad and bool((gain == 1).all())
        weight, bias = projection.weight(), projection.bias()
        weights.append(weight if plain else gain.reshape(-1, 1) * weight)
        if bias is None:
            biases.append(like.new_zeros(projection.fan_out))
        else:
            biases.append(bias if plain else gain.reshape(-1) * bias)
    leak, offset, threshold = (
        torch.cat([_per_neuron(getattr(parameters[p.name], name).to(like), p) for p in graph.populations])
        for name in ("leak", "offset", "threshold")
    )
    _check_thresholds(graph, threshold)
    return Values(
        x=x,
        weights=SourceMajor.apply(*weights),
        biases=torch.cat(biases),
        leak=leak,
        offset=offset,
        threshold=threshold,
        potentials=_rest(graph, x) if potentials is None else potentials,
        source_scale=tuple(_mask(p.source_dropout, x, p.fan_in) for p in graph.projections),
        target_scale=tuple(_mask(p.target_dropout, x, p.fan_out) for p in graph.projections),
    )


class SourceMajor(torch.autograd.Function):
    """Weights (fan_out, fan_in) one after another, each transposed so that a source's row is contiguous.

    Copied by numpy: torch would do it on several threads, whose spinning afterwards slows the engine's own.
    """

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> Tensor:
        ctx.shapes = [weight.shape for weight in weights]
        return torch.from_numpy(np.concatenate([weight.detach().numpy().T.reshape(-1) for weight in weights]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        parts = grad.split([shape.numel() for shape in ctx.shapes])
        return tuple(part.view(s[1], s[0]).t() for part, s in zip(parts, ctx.shapes, strict=True))


def _per_neuron(value: Tensor, population: Population) -> Tensor:
    value = value.reshape(-1)
    if len(value) not in (1, population.size):
        raise UnsupportedModelError(
            f"{population.name!r}: a parameter has {len(value)} values for {population.size} neurons; "
            f"give one value or one per neuron"
        )
    return value.expand(population.size)


def _rest(graph: Graph, x: Tensor) -> Tensor:
    rest = torch.cat([x.new_full((p.size,), p.neuron.rest) for p in graph.populations])
    return rest.expand(x.shape[1], -1)


def _check_thresholds(graph: Graph, threshold: Tensor) -> None:
    for population in graph.populations:
        neuron = population.neuron
        if neuron.retest_residual and neuron.reset == "value":
            lowest = float(threshold[graph.slices[population.name]].detach().min())
            if lowest < neuron.reset_value or (neuron.inclusive and lowest == neuron.reset_value):
                raise UnsupportedModelError(
                    f"{population.name!r}: threshold {lowest} is crossed at the reset value {neuron.reset_value}, "
                    "where snnTorch's reset_delay=False doubles the potential; use reset_delay=True"
                )


def _mask(dropouts: tuple[Dropout, ...], x: Tensor, features: int) -> Tensor | None:
    """Return (T, B, features) factors, 0 or 1 / (1 - rate), or None if nothing is dropped."""
    steps, samples, _ = x.shape
    mask: Tensor | None = None
    for dropout in dropouts:
        rate = dropout.rate
        if rate == 0:
            continue
        shape = (1 if dropout.per_run else steps, samples, features)
        kept = x.new_zeros(shape) if rate == 1 else x.new_empty(shape).bernoulli_(1 - rate) / (1 - rate)
        mask = kept.expand(steps, -1, -1) if mask is None else mask * kept
    return mask
