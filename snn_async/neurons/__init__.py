"""Neuron models (docs/design.md, section 4), one family a file."""

from snn_async.neurons.base import (
    REFRACTORY_MODES,
    Charge,
    Neuron,
    Outcome,
    Refractory,
    State,
)
from snn_async.neurons.linear import LinearNeuron, LinearParameters

__all__ = [
    "REFRACTORY_MODES",
    "Charge",
    "LinearNeuron",
    "LinearParameters",
    "Neuron",
    "Outcome",
    "Refractory",
    "State",
]
