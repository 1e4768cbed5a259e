"""What a run returns: output, exact counts, the state to continue from, recorded populations."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from snn_async.engines.contract import Counts, PendingEvents
from snn_async.errors import InputError
from snn_async.graph import Graph
from snn_async.learning.rule import Standing

Layout = tuple[tuple[str, tuple[int, ...]] | tuple[str, tuple[int, ...], str], ...]


@dataclass(frozen=True)
class Activity:
    """What a run did, exactly; every member is an int64 tensor (T, B).

    Attributes:
        spikes: per population.
        forward_steps: how many there were; step 0, the delivery of the input, counts.
        first_output_step: forward step of the first output spike, -1 if there was none.
        synaptic_operations: targets reached by delivered spikes, inputs included.
        neuron_updates: evaluations, plus currents integrated by refractory neurons.
    """

    spikes: dict[str, Tensor]
    forward_steps: Tensor
    first_output_step: Tensor
    synaptic_operations: Tensor
    neuron_updates: Tensor


@dataclass(frozen=True)
class AsyncState:
    """Where a stream stands; pass it to the next `net.run`.

    Attributes:
        standing: the neurons' states, last spikes and pending events, differentiable: gradients flow into the run it
            came from.
        timestep, seed, sample_ids: continue the random numbers of the stream.
        layout: the network it belongs to: (name, grid) of every input, then (name, shape, neuron class) of every
            population.
    """

    standing: Standing
    timestep: int
    seed: int
    sample_ids: Tensor
    layout: Layout

    @property
    def potentials(self) -> Tensor:
        """(B, N) of all populations; each numbered as `snn_async.graph.grids` says."""
        return torch.cat([potential for potential, *_ in self.standing.neurons], 1)

    @property
    def pending(self) -> PendingEvents:
        """Events carried over."""
        return self.standing.pending

    def detach(self) -> "AsyncState":
        """Return it without gradient, as truncated backpropagation through time needs between its windows."""
        return replace(self, standing=self.standing.map(Tensor.detach))


@dataclass(frozen=True)
class Record:
    """Spike counts and potentials of one recorded population, (T, B, *shape), differentiable."""

    spikes: Tensor
    potentials: Tensor


@dataclass(frozen=True)
class AsyncRun:
    """The result of a run.

    Attributes:
        result: what the model returns for these spikes and potentials, differentiable.
        spikes: (T, B, *output) spike counts per timestep of `net.graph.output`, differentiable.
        potentials: (T, B, *output) output membrane potentials at the end of each timestep, as the framework
            stores them (before a delayed reset, after one that acts at once), differentiable.
        state: to continue the stream.
        activity: exact counts.
        records: the populations named in `record`.
    """

    result: Any
    spikes: Tensor
    potentials: Tensor
    state: AsyncState
    activity: Activity
    records: dict[str, Record]


def layout_of_state(graph: Graph) -> Layout:
    """Return what two networks must have in common to share a state."""
    neurons = ((p.name, p.shape, type(p.neuron.module).__name__) for p in graph.populations)
    return (*graph.input_grids.items(), *neurons)


def check_state(state: AsyncState, graph: Graph, samples: int) -> None:
    """Raise InputError unless the state is of this graph and number of samples, and finite."""
    if not isinstance(state, AsyncState):
        raise InputError(f"state is a {type(state).__name__}; pass the `state` of an earlier run, or None")
    if state.layout != layout_of_state(graph):
        raise InputError(
            f"the state is of a network with {state.layout}, this one has {layout_of_state(graph)}; "
            "pass the state of the same network or None to start from rest"
        )
    if len(state.sample_ids) != samples or len(state.standing.spikes) != samples:
        raise InputError(
            f"the state is of {len(state.standing.spikes)} samples, the run of {samples}; pass the state of the same "
            "stream or None to start from rest"
        )
    if not all(
        value.isfinite().all()
        for values in (*state.standing.neurons, (state.standing.memories,))
        for value in values
    ):
        raise InputError("the state's potentials are NaN or infinite; start from rest with state=None")


def continued(state: AsyncState, rest: Standing) -> Standing:
    """Return where a run continues that would start at `rest`; autograd can save it.

    Raises:
        InputError: for a state of another dtype, device or number of states per neuron.
    """
    given, own = _kinds(state.standing), _kinds(rest)
    if given != own:
        raise InputError(
            f"the state's populations have {given}, this network's {own}; move the network to the state's dtype and "
            "device, pass the state of the same network, or None to start from rest"
        )
    return state.standing.map(lambda value: value.clone() if value.is_inference() else value)


def _kinds(standing: Standing) -> list[str]:
    """Return how many values every neuron of each population keeps, and as what."""
    return [f"{len(values)} states of {values[0].dtype} on {values[0].device}" for values in standing.neurons]


def activity_of(graph: Graph, counts: Counts) -> Activity:
    """Return the counts of a run (T, B) by population."""
    return Activity(
        spikes={p.name: counts.spikes[:, :, i] for i, p in enumerate(graph.populations)},
        forward_steps=counts.forward_steps,
        first_output_step=counts.first_output_step,
        synaptic_operations=counts.synaptic_operations,
        neuron_updates=counts.neuron_updates,
    )
