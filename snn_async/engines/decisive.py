"""Surrogate derivatives at decisive evaluations, from the neurons' own surrogate functions."""

from collections.abc import Callable

import torch
from torch import Tensor

from snn_async.engines.contract import Values
from snn_async.engines.eventlog import EventLog
from snn_async.engines.layout import layout_of
from snn_async.errors import GradientError
from snn_async.graph import Graph

# torch runs an elementwise operation of up to this size on one thread, so that blocks of it give the same
# bits whatever the number of threads
BLOCK = 32_768


def surrogate_derivatives(graph: Graph, values: Values, log: EventLog) -> tuple[Tensor, Tensor]:
    """Return the derivative at every event of the log, (E,), and at every silent evaluation, (T, B, N).

    Queued inputs and populations that never spike get 0.

    Raises:
        GradientError: if a surrogate's derivative is not finite.
    """
    layout = layout_of(graph)
    silent_x = torch.from_numpy(log.silent_potential) - values.threshold
    neuron = torch.from_numpy(log.source).long() - layout.inputs
    event_x = torch.from_numpy(log.potential) - values.threshold[neuron.clamp(min=0)]
    at_event, at_silent = torch.zeros_like(event_x), torch.zeros_like(silent_x)
    for population in graph.populations:
        if not population.neuron.spiking:
            continue
        here = graph.slices[population.name]
        rows = ((neuron >= here.start) & (neuron < here.stop)).nonzero().squeeze(1)
        part = silent_x[..., here]
        derivative = _derivative(
            population.neuron.surrogate, torch.cat((part.reshape(-1), event_x[rows])), population.name
        )
        at_silent[..., here] = derivative[: part.numel()].view(part.shape)
        at_event[rows] = derivative[part.numel() :]
    return at_event, at_silent


def _derivative(surrogate: Callable[[Tensor], Tensor], x: Tensor, name: str) -> Tensor:
    blocks = []
    for block in x.detach().split(BLOCK):
        block = block.clone().requires_grad_()
        with torch.enable_grad():
            spikes = surrogate(block)
        if not spikes.requires_grad:  # snnTorch's surrogate_disable
            blocks.append(torch.zeros_like(block))
            continue
        (gradient,) = torch.autograd.grad(spikes, block, torch.ones_like(spikes))
        blocks.append(gradient)
    derivative = torch.cat(blocks)
    if not bool(derivative.isfinite().all()):
        worst = float(x[(~derivative.isfinite()).nonzero()[0, 0]])
        raise GradientError(
            f"the surrogate of {name!r} has no finite derivative at u - threshold = {worst}; "
            "use a smaller slope or another surrogate (snnTorch's sigmoid overflows in float32)"
        )
    return derivative
