"""A readout without neurons: what a model that ends in a Linear returns."""

import torch
from torch import nn

from snn_async.neurons import LinearNeuron, LinearParameters


def passing(module: nn.Module) -> LinearNeuron:
    """Return a neuron that only shows its current: no leak from one timestep to the next, no spikes."""
    return LinearNeuron(
        module=module,
        surrogate=torch.zeros_like,
        inclusive=False,
        reset="none",
        spiking=False,
        parameters=_read,
    )


def _read(module: nn.Module) -> LinearParameters:
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    return LinearParameters(leak=zero, gain=one, offset=zero, threshold=one)
