"""snnTorch 1.0: its conventions. What its neurons are is in `snn_async.frameworks.snntorch_neurons`."""

import snntorch
from torch import nn

from snn_async.frameworks import snntorch_neurons
from snn_async.frameworks.libraries import check_supported, describe
from snn_async.neurons import Neuron

SUPPORTED = (
    *(snntorch.Leaky, snntorch.Lapicque, snntorch.RLeaky, snntorch.Synaptic, snntorch.RSynaptic),
    *(snntorch.Alpha, snntorch.DeltaLeaky, snntorch.StateLeaky, snntorch.LinearLeaky),
)
_GATES = "its gates multiply what reaches it, so that currents of events do not add up in it"
REASONS = {
    "SLSTM": _GATES,
    "SConv2dLSTM": _GATES,
    "AssociativeLeaky": _GATES,
    "LeakyParallel": "it is a recurrent layer (nn.RNN) over all timesteps, without a reset; use Linear and Leaky",
}
BASES = {
    "SpikingNeuron": "a base class, without dynamics of its own",
    "LIF": "a base class, without dynamics of its own",
}


def is_neuron(module: nn.Module) -> bool:
    """Return whether a module of this library is a neuron rather than some other layer."""
    return isinstance(module, snntorch.SpikingNeuron) or type(module).__name__ in REASONS


def check_class(path: str, module: nn.Module) -> type:
    """Return the class of `module`, or raise UnsupportedModelError if it is refused."""
    return check_supported(path, module, REASONS, BASES)


def make_neuron(path: str, module: nn.Module, shape: tuple[int, ...] | None) -> Neuron:
    """Return the neuron model of `module`, a population of neurons of `shape` (None if that is not known yet).

    Raises:
        UnsupportedModelError: for a class or parameter that cannot be mapped exactly.
    """
    check_class(path, module)
    return snntorch_neurons.make(describe(path, module), path, module, shape)
