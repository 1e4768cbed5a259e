"""From the source model's live modules to the tensors an engine runs on, differentiably."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_async.engines.contract import Values
from snn_async.errors import UnsupportedModelError
from snn_async.graph import Dropout, Graph, Population, Projection
from snn_async.graph.grids import to_units
from snn_async.graph.synapses import Convolution, Opaque, Packing


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
    inner = _junction_biases(graph, like)
    packings: list[Packing] = []
    parts: list[Tensor] = []
    biases: list[Tensor] = []
    for projection in graph.projections:
        target = graph.nodes[projection.target]
        gain = like.new_ones(1)
        if isinstance(target, Population):
            gain = _gain(parameters[target.name].gain.to(like), target, projection)
        packing = projection.synapses.pack(gain)
        _check_finite(packing.weight, f"the weight of {projection.name!r}")
        _check_finite(packing.gain, f"a scale or gain of {projection.name!r}")
        packings.append(packing)
        parts += [packing.weight.to(like), packing.gain.to(like)]
        if isinstance(target, Population):
            bias = _bias(projection, inner.get(projection.source), like)
            if bias is None:
                biases.append(like.new_zeros(projection.fan_out))
                continue
            gain = parameters[target.name].gain.to(like)
            biases.append((gain if gain.numel() == 1 else _per_neuron(gain, target)) * bias.to(like))
    leak, offset, threshold = (
        torch.cat([_per_neuron(getattr(parameters[p.name], name).to(like), p) for p in graph.populations])
        for name in ("leak", "offset", "threshold")
    )
    for name, value in (("leak", leak), ("offset", offset), ("threshold", threshold)):
        _check_finite(value, f"a {name} of the neurons")
    _check_thresholds(graph, threshold)
    opaque = [p.synapses.module for p in graph.projections if isinstance(p.synapses, Opaque)]
    return Values(
        x=x,
        weights=PackWeights.apply([(p.shape, p.axes) for p in packings], *parts),
        biases=torch.cat(biases),
        leak=leak,
        offset=offset,
        threshold=threshold,
        potentials=_rest(graph, x) if potentials is None else potentials,
        source_scale=tuple(_mask(p.source_dropout, x, p.fan_in) for p in graph.projections),
        target_scale=tuple(_mask(p.target_dropout, x, p.fan_out) for p in graph.projections),
        parameters=tuple(parameter for module in opaque for parameter in module.parameters()),
    )


def _gain(gain: Tensor, population: Population, projection: Projection) -> Tensor:
    """Return a population's input gain as the synapses take it: one, one per channel or one per neuron."""
    if gain.numel() == 1:
        return gain.reshape(1)
    channels = population.grid[0]
    if gain.numel() == channels and isinstance(projection.synapses, Convolution):
        return gain.reshape(channels)
    return _per_neuron(gain, population)


def _bias(projection: Projection, of_source: Tensor | None, like: Tensor) -> Tensor | None:
    """Return a projection's bias (fan_out,), with what the constant part of its source makes of its synapses."""
    own = projection.synapses.bias()
    bias = None if own is None else own.to(like)
    if bias is not None:
        _check_finite(bias, f"the bias of {projection.name!r}")
    if of_source is None:
        return bias
    if any(dropout.rate > 0 for dropout in projection.source_dropout):
        raise UnsupportedModelError(
            f"{projection.name!r}: a dropout acts on a bias before the next neuron; put the dropout after the neuron"
        )
    carried = projection.synapses.apply(of_source[None])[0]
    return carried if bias is None else bias + carried


def _junction_biases(graph: Graph, like: Tensor) -> dict[str, Tensor]:
    """Return the constant part of what each junction passes on, (units,), where there is one.

    Raises:
        UnsupportedModelError: if it is no constant: behind a dropout, or different within a pooling window.
    """
    found: dict[str, Tensor] = {}
    for name in graph.order:
        junction = graph.nodes[name]
        if isinstance(junction, Population):
            continue
        total: Tensor | None = None
        for projection in graph.into(name):
            bias = _bias(projection, found.get(projection.source), like)
            if bias is None:
                continue
            if any(dropout.rate > 0 for dropout in projection.target_dropout):
                raise UnsupportedModelError(
                    f"{projection.name!r}: a dropout acts on a bias before the next neuron; put it after the neuron"
                )
            total = bias if total is None else total + bias
        if total is None:
            continue
        if junction.waits:
            raise UnsupportedModelError(
                f"{name!r} joins spikes, but a bias reaches it; put a neuron in between"
            )
        if junction.kind == "max":
            positions = total.unflatten(0, (-1, junction.cells[0]))
            if not torch.equal(positions, positions[:1].expand_as(positions)):
                raise UnsupportedModelError(
                    f"{name!r} pools currents whose bias differs within a window; put the pooling after the neuron"
                )
            total = positions[0].repeat(junction.size // junction.grid[0])
        found[name] = total
    return found


def _check_finite(value: Tensor, what: str) -> None:
    # a sum is finite unless a value is not, or the sum overflows; numpy keeps off torch's threads
    array = value.detach().numpy()
    if not np.isfinite(array.sum()) and not np.isfinite(array).all():
        raise UnsupportedModelError(f"{what} is NaN or infinite; restore finite values before running")


class PackWeights(torch.autograd.Function):
    """The packed weights of all projections, one after another (`synapses.Packing`).

    Takes the packings' shapes and axes, then weights and gains in turn. By numpy, on one thread: torch's threads would
    go on spinning beside the engine's, and their number would show in the last bits of a gain's gradient.
    """

    @staticmethod
    def forward(ctx: Any, layouts: list[tuple[tuple[int, ...], tuple[int, ...]]], *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.layouts = layouts
        parts = []
        for (shape, axes), weight, gain in zip(layouts, tensors[::2], tensors[1::2], strict=True):
            rows = weight.detach().numpy().reshape(shape).transpose(axes)
            parts.append((rows if bool((gain == 1).all()) else rows * gain.detach().numpy()).reshape(-1))
        return torch.from_numpy(np.concatenate(parts))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads: list[Tensor | None] = []
        tensors, rest = ctx.saved_tensors, grad.numpy()
        for k, (shape, axes) in enumerate(ctx.layouts):
            weight, gain = tensors[2 * k], tensors[2 * k + 1]
            transposed = tuple(shape[axis] for axis in axes)
            part, rest = rest[: weight.numel()].reshape(transposed), rest[weight.numel() :]
            needs_weight, needs_gain = ctx.needs_input_grad[1 + 2 * k : 3 + 2 * k]
            scaled = part if bool((gain == 1).all()) else part * gain.detach().numpy()
            back = scaled.transpose(np.argsort(axes)).reshape(weight.shape)
            grads.append(torch.from_numpy(np.ascontiguousarray(back)) if needs_weight else None)
            to_gain = None
            if needs_gain:
                to_gain = part * weight.detach().numpy().reshape(shape).transpose(axes)
                padded = (1,) * (to_gain.ndim - gain.dim()) + tuple(gain.shape)
                summed = tuple(i for i, size in enumerate(padded) if size == 1)
                to_gain = torch.from_numpy(to_gain.sum(summed, keepdims=True).reshape(gain.shape))
            grads.append(to_gain)
        return (None, *grads)


def _per_neuron(value: Tensor, population: Population) -> Tensor:
    """Return a parameter as one value per neuron, (size,) in unit order."""
    if value.numel() == 1:
        return value.reshape(1).expand(population.size)
    sides = tuple(value.shape)
    while len(sides) > len(population.shape) and sides[0] == 1:
        sides = sides[1:]
    try:
        spread = value.reshape(sides).expand(population.shape)
    except RuntimeError:
        raise UnsupportedModelError(
            f"{population.name!r}: a parameter has shape {tuple(value.shape)} for neurons of shape {population.shape}; "
            "give one value or one per neuron"
        ) from None
    return to_units(spread.reshape(-1), population.grid)


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
