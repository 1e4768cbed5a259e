"""What every engine offers: the events of one timestep (`simulate`) and their gradient (`replay`).

Engines know a base potential, a gain, a threshold and arriving currents. What happens between timesteps (leak, delayed
resets, second states) is the neurons' own (`snn_async.neurons`). Everything is a torch tensor on the model's device.

T timesteps, B samples, S features of all inputs, N neurons of all populations in graph order, P populations, J
junctions, E events. A *source* index counts inputs first: source s < S is feature s, source S + n is neuron n, source
S + N + u is unit u of all junctions (`snn_async.graph.layout`).
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from snn_async.engines.event_log import EventLog
from snn_async.graph import Graph
from snn_async.neurons import Refractory
from snn_async.schedulers import Layered, Scheduler
from snn_async.stopping import StopRule

NEVER = 1 << 30  # a forward step after all others
NOT_YET = -1


@dataclass(frozen=True)
class Execution:
    """How a graph is run: `Options`, resolved for the graph and for training or evaluation.

    Attributes:
        refractory: of each population.
        refractory_dropout: of each population, 0 outside training.
    """

    scheduler: Scheduler
    forward_group_size: int | None
    refractory: tuple[Refractory, ...]
    refractory_dropout: tuple[float, ...]
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
    """Events that were not delivered by the end of a timestep, by sample, oldest first.

    Attributes:
        sample, source: (E,) integers; samples ascend.
        amplitude: (E,) of the run's dtype, differentiable.
        potential: (E,) float64, at the moment of emission.
        timestep, step: (E,) when they were emitted; timesteps count from the start of the stream.
    """

    sample: Tensor
    source: Tensor
    amplitude: Tensor
    potential: Tensor
    timestep: Tensor
    step: Tensor

    @classmethod
    def none(cls, like: Tensor) -> "PendingEvents":
        """Return that nothing is pending, with the dtype and device of `like`."""
        integers, floats = like.new_zeros(0, dtype=torch.int64), like.new_zeros(0)
        return cls(integers, integers, floats, floats.double(), integers, integers)


@dataclass(frozen=True)
class Values:
    """The tensors of one timestep, all of one floating dtype; autograd sees those of `DIFFERENTIABLE` as the inputs.

    Attributes:
        x: (B, S) input frame.
        weights: (W,) all projections' packed weights (`Synapses.pack`), one after another.
        biases: (V,) currents of the projections into populations and "wait" junctions, one fan_out each, zero where
            there is none. Biases that meet in another junction arrive with the projections that leave it.
        base: (B, N) potentials before any current of the timestep.
        gain: (B, N) potential per unit of current.
        threshold: (B, N).
        last_spikes: (B, N) of the timestep before, which delayed projections deliver.
        pending: (E,) amplitudes of `Start.pending`.
        source_scale, target_scale: per projection (B, fan_in) or (B, fan_out) dropout factors, or None.
        parameters: live tensors of the `Affine` synapses, one after another in order of the projections;
            then of the "wait" junctions, in order; differentiable where they are floating.

    `gain` and `threshold` may be expanded views (stride 0).
    """

    x: Tensor
    weights: Tensor
    biases: Tensor
    base: Tensor
    gain: Tensor
    threshold: Tensor
    last_spikes: Tensor
    pending: Tensor
    source_scale: tuple[Tensor | None, ...]
    target_scale: tuple[Tensor | None, ...]
    parameters: tuple[Tensor, ...] = ()


DIFFERENTIABLE = ("x", "weights", "biases", "base", "gain", "threshold", "last_spikes", "pending")


@dataclass(frozen=True)
class Start:
    """Where a timestep begins, and its random numbers.

    Attributes:
        seed: keys every random number together with `sample_ids`, the timestep, step and neuron.
        sample_ids: (B,) int64.
        timestep: index in its stream.
        pending: events carried over; their amplitudes are `Values.pending`.
    """

    seed: int
    sample_ids: Tensor
    timestep: int
    pending: PendingEvents


@dataclass(frozen=True)
class Counts:
    """Exact activity of a timestep, (B,) int64 except `spikes` (B, P); see `Activity`."""

    spikes: Tensor
    forward_steps: Tensor
    first_output_step: Tensor
    synaptic_operations: Tensor
    neuron_updates: Tensor


@dataclass(frozen=True)
class Simulation:
    """Result of `simulate`.

    Attributes:
        spikes: (B, N) sum of each neuron's spikes in the timestep (their number, where spikes are binary); of an analog
            neuron its potential.
        current: (B, N) what arrived at each neuron and was not ignored, unscaled.
        potential: (B, N) base + gain * current at the end, with what spikes did at once (`Neuron.reset`).
        pending: what is left over.
        log: None unless it was asked for.
    """

    spikes: Tensor
    current: Tensor
    potential: Tensor
    counts: Counts
    pending: PendingEvents
    log: EventLog | None


@dataclass(frozen=True)
class Slopes:
    """Derivative of a spike's value by the potential at every decisive evaluation; 0 where there is none.

    Attributes:
        events: (E,) rows of the log.
        silent: (B, N).
    """

    events: Tensor
    silent: Tensor


@dataclass(frozen=True)
class Adjoints:
    """Of the results of `simulate`; None for zero.

    Attributes:
        spikes, current, potential: (B, N).
        pending: (E,) of the amplitudes left over.
    """

    spikes: Tensor | None
    current: Tensor | None
    potential: Tensor | None
    pending: Tensor | None


@dataclass(frozen=True)
class Gradients:
    """Adjoints of the `DIFFERENTIABLE` members of `Values`, `x` only if asked for, and of its floating `parameters`.

    `gain` and `threshold` may be None where those of `Values` take no gradient.
    """

    x: Tensor | None
    weights: Tensor
    biases: Tensor
    base: Tensor
    gain: Tensor | None
    threshold: Tensor | None
    last_spikes: Tensor
    pending: Tensor
    parameters: tuple[Tensor | None, ...] = ()


class Engine(Protocol):
    """One implementation of the rules; all give the same events."""

    name: str

    def check(self, graph: Graph, execution: Execution) -> None:
        """Raise UnsupportedByEngineError if this engine cannot run the graph or an option."""
        ...

    def simulate(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        """Run the events of one timestep without gradients (docs/design.md, section 3); x is finite.

        Raises:
            RunawayError: if the timestep exceeds `max_forward_steps`.
        """
        ...

    def replay(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        simulation: Simulation,
        slopes: Slopes,
        adjoints: Adjoints,
        needs_x: bool,
    ) -> Gradients:
        """Return the gradients of docs/design.md, section 5: the masked sum, differentiated at decisive evaluations."""
        ...
