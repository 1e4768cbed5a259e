"""Surrogate derivatives at decisive evaluations, from the neurons' own surrogate functions."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async.engines.contract import Values
from snn_async.engines.event_log import EventLog
from snn_async.errors import GradientError
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of

# torch runs an elementwise operation of up to this size on one thread, so that blocks of it give the same
# bits whatever the number of threads
BLOCK = 32_768
Floats = NDArray[np.floating]


def surrogate_derivatives(graph: Graph, values: Values, log: EventLog) -> tuple[Floats, Floats]:
    """Return the derivative at every event of the log, (E,), and at every silent evaluation, (T, B, N).

    Queued inputs and populations that never spike get 0.

    Raises:
        GradientError: if a surrogate's derivative is not finite.
    """
    threshold = values.threshold.detach().numpy()
    neuron = log.source - layout_of(graph).inputs
    at_event, at_silent = np.zeros_like(log.potential), np.zeros_like(log.silent_potential)
    for population in graph.populations:
        if not population.neuron.spiking:
            continue
        here = graph.slices[population.name]
        rows = np.flatnonzero((neuron >= here.start) & (neuron < here.stop))
        silent = log.silent_potential[..., here] - threshold[here]
        x = np.concatenate((silent.reshape(-1), log.potential[rows] - threshold[neuron[rows]]))
        slope = _derivative(population.neuron.surrogate, x, population.name)
        at_silent[..., here] = slope[: silent.size].reshape(silent.shape)
        at_event[rows] = slope[silent.size :]
    return at_event, at_silent


def _derivative(surrogate: Callable[[Tensor], Tensor], x: Floats, name: str) -> Floats:
    derivative = np.zeros_like(x)
    for first in range(0, len(x), BLOCK):
        block = torch.from_numpy(x[first : first + BLOCK]).requires_grad_()
        with torch.enable_grad():
            spikes = surrogate(block)
        if spikes.requires_grad:  # not so with snnTorch's surrogate_disable: the derivative is 0
            (slope,) = torch.autograd.grad(spikes, block, torch.ones_like(spikes))
            derivative[first : first + BLOCK] = slope.numpy()
    if not np.isfinite(derivative.sum()) and not np.isfinite(derivative).all():
        raise GradientError(
            f"the surrogate of {name!r} has no finite derivative at u - threshold = "
            f"{x[~np.isfinite(derivative)][0]}; use a smaller slope or another surrogate "
            "(snnTorch's sigmoid overflows in float32)"
        )
    return derivative
