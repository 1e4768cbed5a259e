"""Populations, projections and the graph they form: checked once, immutable (docs/design.md, section 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.neurons import Neuron

INPUT = "input"


@dataclass(frozen=True)
class Population:
    """One layer of `size` neurons of one model; `name` is its module's path in the source model."""

    name: str
    size: int
    neuron: Neuron


@dataclass(frozen=True)
class Dropout:
    """A dropout module; its mask is drawn anew in every timestep, or once per run if `per_run`."""

    module: nn.Module
    per_run: bool = False

    @property
    def rate(self) -> float:
        """The live probability of dropping, 0 in evaluation."""
        return float(self.module.p) if self.module.training else 0.0  # type: ignore[arg-type]


@dataclass(frozen=True)
class Projection:
    """The synapses from `source` (a population's name or `INPUT`) to the population `target`.

    `layers` are the source model's Linear modules, applied in order (several are one product);
    `source_dropout` acts on the spikes before them, `target_dropout` on the currents after them.
    """

    name: str
    source: str
    target: str
    layers: tuple[nn.Linear, ...]
    source_dropout: tuple[Dropout, ...] = ()
    target_dropout: tuple[Dropout, ...] = ()

    @property
    def fan_in(self) -> int:
        return self.layers[0].in_features

    @property
    def fan_out(self) -> int:
        return self.layers[-1].out_features

    def weight(self) -> Tensor:
        """Return the live weight, (fan_out, fan_in)."""
        weight = self.layers[0].weight
        for layer in self.layers[1:]:
            weight = layer.weight @ weight
        return weight

    def bias(self) -> Tensor | None:
        """Return the live bias, (fan_out,), or None."""
        bias: Tensor | None = None
        for layer in self.layers:
            if bias is not None:
                bias = layer.weight @ bias
            if layer.bias is not None:
                bias = layer.bias if bias is None else bias + layer.bias
        return bias


class Graph:
    """A feed-forward graph: populations in topological order, projections, one output population.

    Args:
        populations: in any order; names unique.
        projections: in any order.
        output: name of the output population.
        flatten: whether the input may come in any shape per sample and is flattened first.
        reads: what the source model returns of the output; a population that never spikes is always read by
            its potentials.

    Raises:
        UnsupportedModelError: for names that do not exist, sizes that do not fit, a cycle without delay,
            a population that the input does not reach or that does not reach the output.
    """

    def __init__(
        self,
        populations: Sequence[Population],
        projections: Sequence[Projection],
        output: str,
        *,
        flatten: bool = False,
        reads: Literal["spikes", "potentials"] = "spikes",
    ) -> None:
        self.populations = _topological(populations, projections)
        self.projections = tuple(projections)
        self.output = output
        self.flatten = flatten
        self._check()
        spiking = self.populations[self.index[output]].neuron.spiking
        self.reads: Literal["spikes", "potentials"] = reads if spiking else "potentials"

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of every population in `populations`."""
        return {population.name: i for i, population in enumerate(self.populations)}

    @cached_property
    def input_size(self) -> int:
        """Features of one input frame."""
        return next(p.fan_in for p in self.projections if p.source == INPUT)

    @cached_property
    def size(self) -> int:
        """Number of neurons."""
        return sum(population.size for population in self.populations)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each population's neurons lie among all neurons."""
        slices, start = {}, 0
        for population in self.populations:
            slices[population.name] = slice(start, start + population.size)
            start += population.size
        return slices

    @cached_property
    def turns(self) -> tuple[int, ...]:
        """Fewest hops from the input to each population, 0 where the input arrives."""
        turns: dict[str, int] = {INPUT: -1}
        for population in self.populations:
            turns[population.name] = 1 + min(turns[p.source] for p in self.into(population.name))
        return tuple(turns[population.name] for population in self.populations)

    def into(self, name: str) -> list[Projection]:
        """Return the projections into a population."""
        return [p for p in self.projections if p.target == name]

    def out_of(self, name: str) -> list[Projection]:
        """Return the projections out of a population or the input."""
        return [p for p in self.projections if p.source == name]

    def describe(self) -> str:
        """Return the graph as lines of text: populations, projections, neuron models."""
        lines = [f"{INPUT} ({self.input_size})"]
        for population in self.populations:
            for projection in self.into(population.name):
                lines.append(f"  {projection.source} -> {population.name}: {_describe(projection)}")
            neuron = population.neuron
            kind = (
                type(neuron.module).__name__
                if neuron.spiking
                else type(neuron.module).__name__ + " (readout)"
            )
            end = f"  <- output, read by its {self.reads}" if population.name == self.output else ""
            lines.append(f"{population.name} ({population.size} x {kind}: {_dynamics(neuron)}){end}")
        return "\n".join(lines)

    def _check(self) -> None:
        names = self.index
        if INPUT in names or len(names) != len(self.populations):
            raise UnsupportedModelError(f"population names must be unique and not {INPUT!r}: {list(names)}")
        if self.output not in names:
            raise UnsupportedModelError(
                f"the output {self.output!r} is no population; there are {list(names)}"
            )
        if not self.out_of(INPUT):
            raise UnsupportedModelError(
                "no projection leaves the input: the model has no Linear on its input"
            )
        for population in self.populations:
            if population.name != self.output and not self.out_of(population.name):
                raise UnsupportedModelError(
                    f"population {population.name!r} leads nowhere: only the output {self.output!r} may"
                )
            if not population.neuron.spiking and population.name != self.output:
                raise UnsupportedModelError(
                    f"population {population.name!r} never spikes, so it can only be the output"
                )
        sizes = {INPUT: self.input_size} | {p.name: p.size for p in self.populations}
        for projection in self.projections:
            if (projection.fan_in, projection.fan_out) != (
                sizes[projection.source],
                sizes[projection.target],
            ):
                raise UnsupportedModelError(
                    f"projection {projection.name!r} maps {projection.fan_in} to {projection.fan_out}, but "
                    f"{projection.source!r} has {sizes[projection.source]} and {projection.target!r} "
                    f"{sizes[projection.target]}"
                )


def _topological(
    populations: Sequence[Population], projections: Sequence[Projection]
) -> tuple[Population, ...]:
    names = {population.name for population in populations} | {INPUT}
    for projection in projections:
        for end in (projection.source, projection.target):
            if end not in names:
                raise UnsupportedModelError(
                    f"projection {projection.name!r} refers to {end!r}, which is not there"
                )
    done, ordered, waiting = {INPUT}, [], list(populations)
    while waiting:
        for population in waiting:
            sources = [p.source for p in projections if p.target == population.name]
            if sources and all(source in done for source in sources):
                break
        else:
            stuck = [population.name for population in waiting]
            raise UnsupportedModelError(
                f"the input does not reach {stuck}, or they form a cycle without delay; remove the cycle"
            )
        waiting.remove(population)
        done.add(population.name)
        ordered.append(population)
    return tuple(ordered)


def _dynamics(neuron: Neuron) -> str:
    leak, gain, offset, threshold = (_range(value) for value in neuron.parameters())
    parts = (
        [f"leak {leak}"]
        + ([f"gain {gain}"] if gain != "1" else [])
        + ([f"offset {offset}"] if offset != "0" else [])
    )
    if not neuron.spiking:
        return ", ".join(parts)
    reset = {
        "none": "no reset",
        "subtract": "reset by subtraction",
        "value": f"reset to {neuron.reset_value:g}",
    }
    when = "" if neuron.reset == "none" else " at the next timestep" if neuron.delayed_reset else " at once"
    fires = "at" if neuron.inclusive else "above"
    return ", ".join([*parts, f"fires {fires} {threshold}", reset[neuron.reset] + when])


def _range(value: Tensor) -> str:
    low, high = float(value.detach().min()), float(value.detach().max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _describe(projection: Projection) -> str:
    parts = [f"Linear {projection.fan_in}x{projection.fan_out}"]
    if len(projection.layers) > 1:
        parts[0] += f" (product of {len(projection.layers)})"
    if any(layer.bias is not None for layer in projection.layers):
        parts.append("bias once per timestep")
    if projection.source_dropout or projection.target_dropout:
        parts.append("dropout in training")
    return ", ".join(parts)
