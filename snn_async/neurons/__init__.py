"""Neuron models."""

from snn_async.neurons.base import REFRACTORY_MODES, Neuron, NeuronParameters, Refractory, probe_comparison

__all__ = ["REFRACTORY_MODES", "Neuron", "NeuronParameters", "Refractory", "probe_comparison"]
