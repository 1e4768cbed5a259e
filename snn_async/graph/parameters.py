"""The source model's live weights and biases as engines take them, and the dropout masks of a run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from snn_async.errors import UnsupportedModelError
from snn_async.graph.graph import Graph
from snn_async.graph.nodes import Dropout, Population, Projection
from snn_async.graph.packing import finite, packed
from snn_async.graph.synapses import Opaque


@dataclass(frozen=True)
class Parameters:
    """What all projections bring to a run, differentiable.

    Attributes:
        weights: (W,) packed weights (`Synapses.pack`), one projection after another.
        biases: (V,) currents of the projections into populations, one fan_out each, zero where there is none.
        opaque: parameters of the `Opaque` modules, in order of the projections.
    """

    weights: Tensor
    biases: Tensor
    opaque: tuple[Tensor, ...]


def collect(graph: Graph, like: Tensor) -> Parameters:
    """Read the weights and biases, with the dtype and device of `like`.

    Raises:
        UnsupportedModelError: if one has another shape than when the graph was built or is not finite, or for a bias
            that neither a population nor a junction can take.
    """
    with torch.autocast(like.device.type, enabled=False):
        inner = _junction_biases(graph, like)
        packings, biases = [], [like.new_zeros(0)]
        for projection in graph.projections:
            packing = projection.synapses.pack()
            if packing is not None:
                packings.append(packing)
            if isinstance(graph.nodes[projection.target], Population):
                bias = _bias(projection, inner, like)
                biases.append(like.new_zeros(projection.fan_out) if bias is None else bias)
        found = Parameters(
            weights=packed(packings, like),
            biases=torch.cat(biases),
            opaque=tuple(parameter for module in _opaque(graph) for parameter in module.parameters()),
        )
        if not (finite(found.weights) and finite(found.biases)):
            _refuse_infinite(graph, like)
    return found


def dropout_masks(graph: Graph, x: Tensor) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]:
    """Draw the masks of every projection's source and target dropout for inputs x (T, B, S), from torch's generator.

    Returns:
        Per projection (T, B, fan_in), and per projection (T, B, fan_out): factors 0 or 1 / (1 - rate), or None where
        nothing is dropped.
    """
    return (
        tuple(_mask(p.source_dropout, x, p.fan_in) for p in graph.projections),
        tuple(_mask(p.target_dropout, x, p.fan_out) for p in graph.projections),
    )


def _opaque(graph: Graph) -> list[torch.nn.Module]:
    return [p.synapses.module for p in graph.projections if isinstance(p.synapses, Opaque)]


def _own_bias(projection: Projection, like: Tensor) -> Tensor | None:
    bias = projection.synapses.bias()
    return None if bias is None else bias.to(like)


def _bias(projection: Projection, inner: dict[str, Tensor], like: Tensor) -> Tensor | None:
    """Return a projection's bias (fan_out,), with what the constant part of its source makes of its synapses."""
    bias = _own_bias(projection, like)
    if projection.source not in inner:
        return bias
    if any(dropout.rate > 0 for dropout in projection.source_dropout):
        raise _dropped(projection)
    carried = projection.synapses.apply(inner[projection.source][None])[0]
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
            bias = _bias(projection, found, like)
            if bias is None:
                continue
            if any(dropout.rate > 0 for dropout in projection.target_dropout):
                raise _dropped(projection)
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
                _refuse_infinite(graph, like)  # NaN differs from itself
                raise UnsupportedModelError(
                    f"{name!r} pools currents whose bias differs within a window; put the pooling after the neuron"
                )
            total = positions[0].repeat(junction.size // junction.grid[0])
        found[name] = total
    return found


def _dropped(projection: Projection) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{projection.name!r}: a dropout acts on a bias before the next neuron; put the dropout after the neuron"
    )


def _refuse_infinite(graph: Graph, like: Tensor) -> None:
    """Raise UnsupportedModelError for the first projection with a value that is not finite."""
    for projection in graph.projections:
        packing = projection.synapses.pack()
        parts = {
            "weight": None if packing is None else packed([packing], like),
            "bias": _own_bias(projection, like),
        }
        for what, value in parts.items():
            if value is not None and not finite(value):
                raise UnsupportedModelError(
                    f"the {what} of {projection.name!r} is NaN or infinite; restore finite values before running"
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
