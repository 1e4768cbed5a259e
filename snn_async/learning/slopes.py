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
        silent_potential: (..., N) at the silent evaluations.
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
    neuron = log.source - graph.input_size
    events, silent = torch.zeros_like(log.potential), torch.zeros_like(log.silent_potential)
    for population in graph.populations:
        if not population.neuron.spiking:
            continue
        here = graph.slices[population.name]
        rows = ((neuron >= here.start) & (neuron < here.stop)).nonzero()[:, 0]
        place = neuron[rows].long()
        of_events = threshold[place] if sample is None else threshold[sample[rows], place]
        quiet = log.silent_potential[..., here] - threshold[..., here]
        at = torch.cat((quiet.reshape(-1), log.potential[rows] - of_events))
        slope = _derivative(population.neuron.surrogate, at, population.name)
        silent[..., here] = slope[: quiet.numel()].view(quiet.shape)
        events[rows] = slope[quiet.numel() :]
    return Slopes(events, silent)


def _derivative(surrogate: Callable[[Tensor], Tensor], x: Tensor, name: str) -> Tensor:
    derivative = torch.zeros_like(x)
    size = BLOCK if x.device.type == "cpu" else max(1, len(x))
    for first in range(0, len(x), size):
        block = x[first : first + size].detach().requires_grad_()
        with torch.enable_grad():
            spikes = surrogate(block)
        if spikes.requires_grad:  # not so with snnTorch's surrogate_disable: the derivative is 0
            (slope,) = torch.autograd.grad(spikes, block, torch.ones_like(spikes))
            derivative[first : first + size] = slope
    finite = derivative.isfinite()
    if not finite.all():
        raise GradientError(
            f"the surrogate of {name!r} has no finite derivative at u - threshold = "
            f"{x[~finite][0]}; use a smaller slope or another surrogate "
            "(snnTorch's sigmoid overflows in float32)"
        )
    return derivative
