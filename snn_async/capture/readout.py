"""What a model returns without a neuron, as a population that shows each timestep's current as its potential."""

import torch
from torch import Tensor, nn

from snn_async.neurons import Neuron, NeuronParameters


def passing(module: nn.Module) -> Neuron:
    """Return the neuron model of a readout without neurons; `module` is the layer whose currents it shows."""
    return Neuron(module, _read, _silent, inclusive=False, reset="none", spiking=False)


def _read(module: nn.Module) -> NeuronParameters:
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    return NeuronParameters(leak=zero, gain=one, offset=zero, threshold=one)


def _silent(u: Tensor) -> Tensor:
    return torch.zeros_like(u)
