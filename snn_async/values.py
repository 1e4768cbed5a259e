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

    Raises:
        UnsupportedModelError: if a parameter has another shape than when the graph was built or is not finite.
    """
    with torch.autocast("cpu", enabled=False):
        return _collect(graph, x, potentials)


def _collect(graph: Graph, x: Tensor, potentials: Tensor | None) -> Values:
    like = x.new_empty(0)
    parameters = {p.name: p.neuron.parameters() for p in graph.populations}
    weights, biases = [], []
    for projection in graph.projections:
        gain = parameters[projection.target].gain.to(like).reshape(-1)
        weight, bias = projection.weight(), projection.bias()
        if weight.shape != (projection.fan_out, projection.fan_in):
            raise UnsupportedModelError(
                f"the weight of {projection.name!r} has shape {tuple(weight.shape)} instead of "
                f"{(projection.fan_out, projection.fan_in)}; call asynchronize again after changing a layer"
            )
        _check_finite(weight, f"the weight of {projection.name!r}")
        weights += [gain, weight]
        if bias is None:
            biases.append(like.new_zeros(projection.fan_out))
        else:
            _check_finite(bias, f"the bias of {projection.name!r}")
            biases.append(gain * bias)
    leak, offset, threshold = (
        torch.cat([_per_neuron(getattr(parameters[p.name], name).to(like), p) for p in graph.populations])
        for name in ("leak", "offset", "threshold")
    )
    for name, value in (("leak", leak), ("offset", offset), ("threshold", threshold)):
        _check_finite(value, f"a {name} of the neurons")
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


def _check_finite(value: Tensor, what: str) -> None:
    # a sum is finite unless a value is not, or the sum overflows; numpy keeps off torch's threads
    array = value.detach().numpy()
    if not np.isfinite(array.sum()) and not np.isfinite(array).all():
        raise UnsupportedModelError(f"{what} is NaN or infinite; restore finite values before running")


class SourceMajor(torch.autograd.Function):
    """Gains times weights (fan_out, fan_in), one after another, each source's row contiguous.

    Takes gains, (1,) or (fan_out,), and weights in turn. By numpy, on one thread: torch's threads would go on
    spinning beside the engine's, and their number would show in the last bits of a gain's gradient.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        parts = []
        for gain, weight in zip(tensors[::2], tensors[1::2], strict=True):
            rows = weight.detach().numpy().T
            parts.append((rows if bool((gain == 1).all()) else rows * gain.detach().numpy()).reshape(-1))
        return torch.from_numpy(np.concatenate(parts))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = []
        tensors, rest = ctx.saved_tensors, grad.numpy()
        for k, (gain, weight) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            part, rest = rest[: weight.numel()].reshape(weight.shape[::-1]), rest[weight.numel() :]
            needs_gain, needs_weight = ctx.needs_input_grad[2 * k : 2 * k + 2]
            to_gain = (part * weight.detach().numpy().T).sum(0) if needs_gain else None
            if to_gain is not None and len(gain) == 1:
                to_gain = to_gain.sum(keepdims=True)
            grads.append(None if to_gain is None else torch.from_numpy(to_gain))
            scaled = part if bool((gain == 1).all()) else part * gain.detach().numpy()
            grads.append(torch.from_numpy(scaled.T) if needs_weight else None)
        return tuple(grads)


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
