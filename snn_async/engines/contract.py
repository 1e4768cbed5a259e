"""What every engine offers: `simulate` -> event log and activity, `replay` -> gradients."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snn_async.engines.event_log import EventLog
from snn_async.graph import Graph
from snn_async.neurons import Refractory
from snn_async.schedulers import Layered, Scheduler
from snn_async.stopping import StopRule


@dataclass(frozen=True)
class Execution:
    """How a graph is run: the options of `asynchronize`, checked."""

    scheduler: Scheduler
    forward_group_size: int | None
    refractory: tuple[Refractory, ...]  # per population
    refractory_dropout: tuple[float, ...]  # per population, 0 outside training
    stop: StopRule
    leftover: Literal["drop", "carry"]
    input: Literal["prioritized", "queued"]
    max_forward_steps: int

    @property
    def layered(self) -> bool:
        """Whether populations wait for each other."""
        return isinstance(self.scheduler, Layered)

    @property
    def queues_input(self) -> bool:
        """Whether input events compete for places; behind a barrier there is nothing to compete for."""
        return self.input == "queued" and not self.layered


@dataclass(frozen=True)
class PendingEvents:
    """Events that were not delivered by the end of a run, by sample, oldest first.

    Attributes:
        offsets: (B + 1,) rows of each sample.
        source: (E,) source index (inputs first).
        amplitude, potential: (E,) float64.
        timestep, step: (E,) when they were emitted; timesteps count from the start of the stream.
    """

    offsets: NDArray[np.int64]
    source: NDArray[np.int32]
    amplitude: NDArray[np.float64]
    potential: NDArray[np.float64]
    timestep: NDArray[np.int64]
    step: NDArray[np.int32]

    @classmethod
    def none(cls, samples: int) -> "PendingEvents":
        """Return that nothing is pending."""
        return cls(
            offsets=np.zeros(samples + 1, dtype=np.int64),
            source=np.zeros(0, dtype=np.int32),
            amplitude=np.zeros(0),
            potential=np.zeros(0),
            timestep=np.zeros(0, dtype=np.int64),
            step=np.zeros(0, dtype=np.int32),
        )


@dataclass(frozen=True)
class Values:
    """The tensors of one run, all of one floating dtype; autograd sees them as the inputs.

    Attributes:
        x: (T, B, S) input.
        weights: (W,) all projections' packed weights (`Synapses.pack`) times their targets' gain, one after another.
        biases: (V,) biases times gain of the projections into populations, one fan_out each, zero where there is
            none. Biases that meet in a junction arrive with the projections that leave it.
        leak, offset, threshold: (N,).
        potentials: (B, N) at the start.
        source_scale, target_scale: per projection (T, B, fan_in) or (T, B, fan_out) dropout factors, or None.
        parameters: of the `Opaque` modules, one after another in order of the projections; the torch engine's.
    """

    x: Tensor
    weights: Tensor
    biases: Tensor
    leak: Tensor
    offset: Tensor
    threshold: Tensor
    potentials: Tensor
    source_scale: tuple[Tensor | None, ...]
    target_scale: tuple[Tensor | None, ...]
    parameters: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Start:
    """Where a run begins, and its random numbers.

    Attributes:
        seed: keys every random number together with `sample_ids`, the timestep, step and neuron.
        sample_ids: (B,) int64.
        timestep: index of the first timestep in its stream.
        spikes: (B, N) int32, spike counts of the timestep before.
        pending: events carried over.
    """

    seed: int
    sample_ids: NDArray[np.int64]
    timestep: int
    spikes: NDArray[np.int32]
    pending: PendingEvents


@dataclass(frozen=True)
class Counts:
    """Exact activity, all (T, B) integers except `spikes` (T, B, P); see `AsyncRun`."""

    spikes: NDArray[np.int64]
    forward_steps: NDArray[np.int64]
    first_output_step: NDArray[np.int64]
    synaptic_operations: NDArray[np.int64]
    neuron_updates: NDArray[np.int64]


@dataclass(frozen=True)
class Simulation:
    """Result of `simulate`: `spikes` and `potentials` (T, B, N), the latter as kept for the next timestep."""

    spikes: Tensor
    potentials: Tensor
    counts: Counts
    pending: PendingEvents
    log: EventLog | None


@dataclass(frozen=True)
class Gradients:
    """Adjoints of the differentiable members of `Values`; `x` is None unless it was asked for."""

    weights: Tensor
    biases: Tensor
    leak: Tensor
    offset: Tensor
    threshold: Tensor
    potentials: Tensor
    x: Tensor | None
    parameters: tuple[Tensor, ...] = ()


class Engine(Protocol):
    """One implementation of the rules; all give the same events."""

    name: str

    def check(self, graph: Graph, execution: Execution) -> None:
        """Raise UnsupportedByEngineError if this engine cannot run the graph or an option."""
        ...

    def simulate(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        """Run the events without gradients.

        Raises:
            InputError: if x is not finite.
            RunawayError: if a timestep exceeds `max_forward_steps`.
        """
        ...

    def replay(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        simulation: Simulation,
        grad_spikes: Tensor | None,
        grad_potentials: Tensor | None,
        needs_x: bool,
    ) -> Gradients:
        """Return the adjoints given those of `simulation.spikes` and `.potentials`, (T, B, N) or None.

        The gradient is that of docs/design.md, section 5: the masked sum, differentiated at decisive evaluations.
        """
        ...
