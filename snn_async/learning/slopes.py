"""Surrogate slopes at decisive evaluations, from the neurons' own surrogate functions: an input of every replay."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from snn_async.engines.contract import Slopes
from snn_async.errors import GradientError
from snn_async.graph import Graph

# On the CPU torch runs an elementwise operation of up to this size on one thread, so that blocks of it give the same
# bits whatever the number of threads.
BLOCK = 32_768


class Evaluations(Protocol):
    """What a log tells of decisive evaluations.

    Attributes:
        source: (E,) source indices of the events.
        potential: (E,) at their decisive evaluation; anything for other than neurons.
        silent_potential: (..., N) at the silent evaluations, and at all that are kept neuron by neuron.
    """

    @property
    def source(self) -> Tensor: ...
    @property
    def potential(self) -> Tensor: ...
    @property
    def silent_potential(self) -> Tensor: ...


def surrogate_slopes(
    graph: Graph, log: Evaluations, threshold: Tensor, sample: Tensor | None = None
) -> Slopes:
    """Return the derivative of a spike's value by the potential at every event and at every silent evaluation.

    Queued inputs, junctions and populations that never spike get 0.

    Args:
        threshold: (N,), or (B, N) with the `sample` (E,) of every event.

    Raises:
        GradientError: if a surrogate's derivative is not finite.
    """
    events, silent = torch.empty_like(log.potential), torch.empty_like(log.silent_potential)
    potentials, slopes, thresholds = (
        tensor.reshape(-1, graph.size)
        for tensor in (log.silent_potential, silent, threshold.expand_as(log.silent_potential))
    )
    spiking = [
        (graph.slices[population.name], _Surrogate(population.name, population.neuron.surrogate))
        for population in graph.populations
        if population.neuron.spiking
    ]
    for part in _blocks(len(events), 1, events):
        events[part] = 0
        source, potential = log.source[part], log.potential[part]
        for here, surrogate in spiking:
            first, last = graph.input_size + here.start, graph.input_size + here.stop
            rows = ((source >= first) & (source < last)).nonzero()[:, 0]
            neuron = source.gather(0, rows).long() - graph.input_size  # indexing would use all threads
            at = threshold.gather(0, neuron) if sample is None else threshold[sample[part][rows], neuron]
            slope = surrogate.derivative(potential.gather(0, rows) - at)
            events[part].scatter_(0, rows, slope)
    if len(spiking) < len(graph.populations):
        silent.zero_()
    for here, surrogate in spiking:
        for part in _blocks(len(slopes), here.stop - here.start, slopes):
            slopes[part, here] = surrogate.derivative(potentials[part, here] - thresholds[part, here])
    for _, surrogate in spiking:
        surrogate.check()
    return Slopes(events, silent)


def _blocks(rows: int, size: int, like: Tensor) -> list[slice]:
    """Return slices of `rows` rows of `size` elements, of one block each on the CPU."""
    count = max(1, BLOCK // size if like.device.type == "cpu" else rows)
    return [slice(first, min(first + count, rows)) for first in range(0, rows, count)]


class _Surrogate:
    """A population's surrogate function, and the sums of what it gave, which are finite unless a value is not."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        self.name, self.function = name, function
        self.sums: list[Tensor] = []
        self.asked: list[tuple[Tensor, Tensor]] = []

    def derivative(self, x: Tensor) -> Tensor:
        """Return the derivative at x, elementwise."""
        block = x.detach().requires_grad_()
        with torch.enable_grad():
            spikes = self.function(block)
        if not spikes.requires_grad:  # snnTorch's surrogate_disable: the derivative is 0
            return torch.zeros_like(x)
        (slope,) = torch.autograd.grad(spikes, block, torch.ones_like(spikes))
        self.sums.append(slope.sum())
        self.asked.append((x, slope))
        return slope

    def check(self) -> None:
        """Raise GradientError if a value was not finite."""
        if not self.sums or torch.stack(self.sums).isfinite().all():
            return
        for x, slope in self.asked:
            infinite = ~slope.isfinite()
            if infinite.any():
                raise GradientError(
                    f"the surrogate of {self.name!r} has no finite derivative at u - threshold = {x[infinite][0]}; use "
                    "a smaller slope or another surrogate (snnTorch's sigmoid overflows in float32)"
                )
