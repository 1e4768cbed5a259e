"""The source model's live weights and biases as engines take them, and the gains of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

import torch
from torch import Tensor

from snn_async.errors import UnsupportedModelError
from snn_async.graph.graph import Graph
from snn_async.graph.grids import to_units
from snn_async.graph.live import Found
from snn_async.graph.nodes import Population, Projection
from snn_async.graph.packing import finite, packed
from snn_async.graph.synapses.affine import values_of

Gains = Sequence[Tensor | None]


@dataclass(frozen=True)
class Parameters:
    """What all projections bring to a run, differentiable.

    Attributes:
        weights: (W,) packed weights (`Synapses.pack`), one projection after another.
        biases: (V,) currents of the projections into populations and "wait" junctions, one fan_out each, zero where
            there is none.
        live: what `Affine` synapses take, in order of the projections, then what "wait" junctions take.
    """

    weights: Tensor
    biases: Tensor
    live: tuple[Tensor, ...]


def collect(graph: Graph, like: Tensor, gains: Gains = (), found: Found = ()) -> Parameters:
    """Read the weights and biases, with the dtype and device of `like`.

    Args:
        gains: of the run, see `scales_of`; none if empty.
        found: the live values of this run that were computed.

    Raises:
        UnsupportedModelError: if one has another shape than when the graph was built or is not finite, or for a bias
            that neither a population nor a junction can take.
    """
    with torch.autocast(like.device.type, enabled=False):
        inner = _junction_biases(graph, like, gains, found)
        packings, biases = [], [like.new_zeros(0)]
        for projection in graph.projections:
            packing = projection.synapses.pack(found)
            if packing is not None:
                packings.append(packing)
            if graph.takes_bias(projection.target):
                bias = _bias(projection, inner, like, gains, found)
                biases.append(like.new_zeros(projection.fan_out) if bias is None else bias)
        live = [one for projection in graph.projections for one in projection.synapses.live]
        live += [one for junction in graph.junctions for one in junction.live]
        done = Parameters(packed(packings, like), torch.cat(biases), values_of(live, found, like))
        if not (finite(done.weights) and finite(done.biases)):
            _refuse_infinite(graph, like, found)
    return done


def dealt(graph: Graph, live: Sequence[Tensor]) -> tuple[list[tuple[Tensor, ...]], list[tuple[Tensor, ...]]]:
    """Deal `Parameters.live` out: return those of every projection, and those of every junction."""
    rest = iter(live)
    of_projections = [tuple(islice(rest, len(projection.synapses.live))) for projection in graph.projections]
    return of_projections, [tuple(islice(rest, len(junction.live))) for junction in graph.junctions]


def scales_of(
    graph: Graph, gains: Gains, steps: int
) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]]:
    """Return what multiplies every projection's events, (T, B, fan_in), and currents, (T, B, fan_out), or None.

    Args:
        gains: of a run, in unit order, each (T, B, fan) or (1, B, fan), None for one that does nothing.
    """
    return (
        tuple(_product(p.source_gain, gains, steps) for p in graph.projections),
        tuple(_product(p.target_gain, gains, steps) for p in graph.projections),
    )


def _own_bias(projection: Projection, like: Tensor, found: Found) -> Tensor | None:
    if not projection.biased:
        return None
    bias = projection.synapses.constant(found, like)
    parts = [] if bias is None else [bias.to(like)]
    if projection.constant is not None:
        parts.append(to_units(projection.constant(found).to(like), projection.synapses.target))
    return sum(parts[1:], parts[0]) if parts else None


def _bias(
    projection: Projection, inner: dict[str, Tensor], like: Tensor, gains: Gains, found: Found
) -> Tensor | None:
    """Return a projection's bias (fan_out,), with what the constant part of its source makes of its synapses."""
    bias = _own_bias(projection, like, found)
    if projection.source not in inner:
        return bias
    if _acting(projection.source_gain, gains):
        raise _dropped(projection)
    carried = projection.synapses.apply(inner[projection.source][None], found)[0]
    return carried if bias is None else bias + carried


def _junction_biases(graph: Graph, like: Tensor, gains: Gains, found: Found) -> dict[str, Tensor]:
    """Return the constant part of what each junction passes on, (units,), where there is one.

    Raises:
        UnsupportedModelError: if it is no constant: behind a dropout, or different within a pooling window.
    """
    inner: dict[str, Tensor] = {}
    for name in graph.order:
        junction = graph.nodes[name]
        if isinstance(junction, Population) or graph.takes_bias(name):
            continue
        total: Tensor | None = None
        for projection in graph.into(name):
            bias = _bias(projection, inner, like, gains, found)
            if bias is None:
                continue
            if _acting(projection.target_gain, gains):
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
                _refuse_infinite(graph, like, found)  # NaN differs from itself
                raise UnsupportedModelError(
                    f"{name!r} pools currents whose bias differs within a window; put the pooling after the neuron"
                )
            total = positions[0].repeat(junction.size // junction.grid[0])
        inner[name] = total
    return inner


def _dropped(projection: Projection) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{projection.name!r}: a dropout acts on a bias before the next neuron; put the dropout after the neuron"
    )


def _refuse_infinite(graph: Graph, like: Tensor, found: Found) -> None:
    """Raise UnsupportedModelError for the first projection with a value that is not finite."""
    for projection in graph.projections:
        packing = projection.synapses.pack(found)
        parts = {
            "weight": None if packing is None else packed([packing], like),
            "bias": _own_bias(projection, like, found),
        }
        for what, value in parts.items():
            if value is not None and not finite(value):
                raise UnsupportedModelError(
                    f"the {what} of {projection.name!r} is NaN or infinite; restore finite values before running"
                )


def _acting(numbers: tuple[int, ...], gains: Gains) -> list[Tensor]:
    found = [gains[number] for number in numbers] if gains else []
    return [gain for gain in found if gain is not None]


def _product(numbers: tuple[int, ...], gains: Gains, steps: int) -> Tensor | None:
    acting = _acting(numbers, gains)
    return prod(acting[1:], start=acting[0]).detach().expand(steps, -1, -1) if acting else None
