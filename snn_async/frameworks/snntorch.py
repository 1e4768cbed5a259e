"""snnTorch 1.0: its conventions. What its neurons are is in `snn_async.frameworks.snntorch_neurons`."""

from dataclasses import dataclass
from typing import Any, Literal

import snntorch
from torch import nn

from snn_async.capture.layers import Form, LinearLayer, Operation, Unitwise
from snn_async.errors import InputError
from snn_async.frameworks import snntorch_neurons
from snn_async.frameworks.libraries import check_sizes, check_supported, describe
from snn_async.graph.grids import size_of
from snn_async.graph.synapses import Convolution, Dense, OneToOne, Synapses
from snn_async.neurons import Neuron

SUPPORTED = (
    *(snntorch.Leaky, snntorch.Lapicque, snntorch.RLeaky, snntorch.Synaptic, snntorch.RSynaptic),
    *(snntorch.Alpha, snntorch.DeltaLeaky, snntorch.StateLeaky, snntorch.LinearLeaky),
)
_GATES = "its gates multiply what reaches it, so that currents of events do not add up in it"
REASONS = {
    "SLSTM": _GATES,
    "SConv2dLSTM": _GATES,
    "AssociativeLeaky": "it computes all timesteps at once, with a decay that is computed from its input",
    "LeakyParallel": "it computes all timesteps at once, as a rectified recurrent network without a reset",
}
BASES = {
    "SpikingNeuron": "a base class, without dynamics of its own",
    "LIF": "a base class, without dynamics of its own",
}


@dataclass(frozen=True)
class GradedLayer(Unitwise):
    """A neuron's `graded_spikes_factor`, on the spikes that leave it."""

    module: Any

    def synapses(self, form: Form) -> Synapses:
        per_unit = self.module.graded_spikes_factor.numel() > 1
        return OneToOne(form.grid, owner=self.module, parameter="graded_spikes_factor", per_unit=per_unit)


def is_neuron(module: nn.Module) -> bool:
    """Return whether a module of this library is a neuron rather than some other layer."""
    return isinstance(module, snntorch.SpikingNeuron) or type(module).__name__ in REASONS


def is_container(module: nn.Module) -> bool:
    """Return whether a module of this library only applies its children one after another."""
    return False


def is_recurrent(module: nn.Module) -> bool:
    """Return whether a container feeds its last output back to its module."""
    return False


def layer_base(module: nn.Module) -> type | None:
    """Return the class of this library that a layer without neurons derives from: there is none."""
    return None


def layer_refusal(module: nn.Module) -> str | None:
    """Return why a layer without neurons cannot be one of a graph, None if that is not known beforehand."""
    return None


def read_layer(name: str, place: str, module: nn.Module) -> None:
    """Return a layer that only this library has: there is none."""
    return None


def is_run_dropout(module: nn.Module) -> bool:
    """Return whether a module drops the same values in all timesteps of a run."""
    return False


def flatten_start(module: nn.Module) -> int | None:
    """Return the first dimension that a Flatten of this library flattens, None for other modules."""
    return None


def step_mode(module: nn.Module) -> str:
    """Return "s" for a neuron that takes one timestep per call, "m" for one that takes all."""
    return "m" if isinstance(module, snntorch.StateLeaky) else "s"


def state_names(module: nn.Module) -> tuple[str | tuple[str, ...], ...]:
    """Return the states that a call takes and gives, in order; those in a tuple go together, under the first's name."""
    if isinstance(module, snntorch.DeltaLeaky):
        return (("mem", "mem_prev"),)
    return snntorch_neurons.state_names(module) or ("mem",)


def potential_name(module: nn.Module) -> str:
    """Return which of the states is the membrane potential."""
    return snntorch_neurons.potential_name(snntorch_neurons.state_names(module) or ("mem",))


def recurrent_synapses(path: str, module: Any, form: Form) -> Synapses | None:
    """Return the synapses by which last timestep's spikes of a neuron reach its own layer, None if it has none.

    Args:
        form: of the layer.

    Raises:
        InputError: if the layer has another size than they take.
        UnsupportedModelError: for weights V of another shape.
    """
    if not isinstance(module, snntorch.RLeaky | snntorch.RSynaptic):
        return None
    grid, layer = form.grid, module.recurrent
    size = size_of(grid)
    if isinstance(layer, nn.Linear):
        fits, takes = grid == (layer.in_features, 1, 1), f"{layer.in_features} features"
        synapses: Synapses = Dense((layer,), grid)
    elif isinstance(layer, nn.Conv2d):
        fits, takes = grid[0] == layer.in_channels, f"{layer.in_channels} channels"
        synapses = Convolution(layer, grid)
        fits = fits and synapses.target == grid
    else:
        check_sizes(path, module, form.shape, V=layer.V)
        values = layer.V.numel()
        fits, takes = values in (1, size), f"V for {values} neurons"
        synapses = OneToOne(grid, owner=layer, parameter="V", per_unit=values > 1)
    if not fits:
        shape = "x".join(map(str, grid if grid[1:] != (1, 1) else grid[:1]))
        raise InputError(
            f"{describe(path, module)}: the recurrent layer takes {takes}, but its neurons are {shape}; "
            f"give {type(module).__name__} the shape of its input"
        )
    return synapses


def layers_before(path: str, place: str, module: Any) -> tuple[Operation, ...]:
    """Return the layers that a neuron module applies to its input itself."""
    inside = isinstance(module, snntorch.LinearLeaky)
    return (LinearLayer(f"{path}.linear", place, module.linear),) if inside else ()


def layers_after(path: str, place: str, module: Any) -> tuple[Operation, ...]:
    """Return the layers that a neuron module applies to its spikes itself."""
    if not snntorch_neurons.grades(module):
        return ()
    layer = GradedLayer(f"{path}.graded_spikes_factor", place, module)
    twice = isinstance(
        module, snntorch.StateLeaky
    )  # in snnTorch 1.0: `fire` applies it, and `forward` once more
    return (layer, layer) if twice else (layer,)


def returns(module: Any) -> Literal["spikes", "both", "potentials"]:
    """Return what a call gives: spikes, potentials, or (spikes, *states)."""
    if isinstance(module, snntorch.StateLeaky):
        return "both" if module.output else "potentials"
    if isinstance(module, snntorch.DeltaLeaky):
        return "both"
    takes_states = bool(snntorch_neurons.state_names(module))
    return "both" if takes_states and (module.output or not module.init_hidden) else "spikes"


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
