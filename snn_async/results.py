"""What a run returns: output, exact counts, the state to continue from, recorded populations."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from snn_async.engines.contract import Counts, PendingEvents, Simulation, Start
from snn_async.errors import InputError
from snn_async.graph import Graph

Layout = tuple[tuple[int, ...] | tuple[str, tuple[int, ...]], ...]


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
        potentials: (B, N) of all populations, differentiable; each numbered as `snn_async.graph.grids` says.
        spikes: (B, N) int32, spike counts of the last timestep (for delayed resets).
        pending: events carried over, without gradient.
        timestep, seed, sample_ids: continue the random numbers of the stream.
        layout: the network it belongs to: input shape, then (name, shape) of every population.
    """

    potentials: Tensor
    spikes: Tensor
    pending: PendingEvents
    timestep: int
    seed: int
    sample_ids: Tensor
    layout: Layout

    def detach(self) -> "AsyncState":
        """Return it without gradient, as truncated backpropagation through time needs between its windows."""
        return replace(self, potentials=self.potentials.detach())


@dataclass(frozen=True)
class Record:
    """Spike counts and potentials of one recorded population, (T, B, *shape), differentiable."""

    spikes: Tensor
    potentials: Tensor


@dataclass(frozen=True)
class AsyncRun:
    """The result of a run.

    Attributes:
        spikes: (T, B, *output) output spike counts per timestep, differentiable.
        potentials: (T, B, *output) output membrane potentials at the end of each timestep, as the framework
            stores them (before a delayed reset, after one that acts at once), differentiable.
        state: to continue the stream.
        activity: exact counts.
        records: the populations named in `record`.
        reads: which of `spikes` and `potentials` the source model returns.
    """

    spikes: Tensor
    potentials: Tensor
    state: AsyncState
    activity: Activity
    records: dict[str, Record]
    reads: Literal["spikes", "potentials"]

    @property
    def output(self) -> Tensor:
        """What `net(x)` returns: spikes, or the potentials of a readout."""
        return self.spikes if self.reads == "spikes" else self.potentials


def _layout(graph: Graph) -> Layout:
    return (graph.input_shape, *((p.name, p.shape) for p in graph.populations))


def check_state(state: AsyncState, graph: Graph, samples: int) -> None:
    """Raise InputError unless the state is of this graph and number of samples, and finite."""
    if not isinstance(state, AsyncState):
        raise InputError(f"state is a {type(state).__name__}; pass the `state` of an earlier run, or None")
    if state.layout != _layout(graph):
        raise InputError(
            f"the state is of a network with {state.layout}, this one has {_layout(graph)}; "
            "pass the state of the same network or None to start from rest"
        )
    shapes = (tuple(state.potentials.shape), tuple(state.spikes.shape), len(state.pending.offsets) - 1)
    if shapes != ((samples, graph.size), (samples, graph.size), samples):
        raise InputError(
            f"the state is of {shapes[-1]} samples (potentials {shapes[0]}, spikes {shapes[1]}), the run of "
            f"{samples}; pass the state of the same stream or None to start from rest"
        )
    if not np.isfinite(state.potentials.detach().numpy()).all():
        raise InputError("the state's potentials are NaN or infinite; start from rest with state=None")


def state_of(graph: Graph, simulation: Simulation, start: Start, potentials: Tensor) -> AsyncState:
    """Return the state after a run that ended with `potentials` (B, N)."""
    return AsyncState(
        potentials=potentials,
        spikes=torch.from_numpy(simulation.spikes[-1].numpy().astype(np.int32)),
        pending=simulation.pending,
        timestep=start.timestep + len(simulation.spikes),
        seed=start.seed,
        sample_ids=torch.from_numpy(start.sample_ids),
        layout=_layout(graph),
    )


def activity_of(graph: Graph, counts: Counts) -> Activity:
    """Return an engine's counts as tensors by population."""
    return Activity(
        spikes={
            p.name: torch.from_numpy(counts.spikes[:, :, i].copy()) for i, p in enumerate(graph.populations)
        },
        forward_steps=torch.from_numpy(counts.forward_steps),
        first_output_step=torch.from_numpy(counts.first_output_step),
        synaptic_operations=torch.from_numpy(counts.synaptic_operations),
        neuron_updates=torch.from_numpy(counts.neuron_updates),
    )
