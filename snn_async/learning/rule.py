"""What a training rule is: an object that runs a network forward and owns its backward."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from snn_async.checks import not_finite
from snn_async.engines.contract import Counts, Engine, Execution, PendingEvents, Simulation, Start, Values
from snn_async.graph import Graph
from snn_async.graph.parameters import Parameters
from snn_async.neurons import Outcome, State


@dataclass(frozen=True)
class Standing:
    """Where a network stands between two timesteps, differentiable.

    Attributes:
        neurons: the state of every population.
        spikes: (B, N) of the last timestep.
        pending: events carried over.
    """

    neurons: tuple[State, ...]
    spikes: Tensor
    pending: PendingEvents


@dataclass(frozen=True)
class Job:
    """What is run.

    Attributes:
        x: (T, B, S) input in unit order.
        source_scale, target_scale: dropout factors per projection, (T, B, fan) or None.
        live: the neurons' parameters, as `Neuron.read` returned them, per population.
        shown: the populations whose spikes and potentials are returned.
        keep_log: whether to return the event logs.
    """

    engine: Engine
    graph: Graph
    execution: Execution
    parameters: Parameters
    x: Tensor
    source_scale: tuple[Tensor | None, ...]
    target_scale: tuple[Tensor | None, ...]
    live: tuple[Any, ...]
    seed: int
    sample_ids: Tensor
    timestep: int
    standing: Standing
    shown: tuple[str, ...]
    keep_log: bool = False

    def values(self, t: int, standing: Standing) -> Values:
        """Return what timestep t of this run begins with."""
        like = self.x[t]
        charges = [
            population.neuron.begin(live, state)
            for population, live, state in zip(
                self.graph.populations, self.live, standing.neurons, strict=True
            )
        ]
        sizes = [(len(like), population.size) for population in self.graph.populations]
        base, gain, threshold = (
            torch.cat([value.expand(size) for value, size in zip(column, sizes, strict=True)], 1)
            for column in zip(*charges, strict=True)
        )
        return Values(
            x=like,
            weights=self.parameters.weights,
            biases=self.parameters.biases,
            base=base,
            gain=gain,
            threshold=threshold,
            last_spikes=standing.spikes,
            pending=standing.pending.amplitude,
            source_scale=tuple(None if scale is None else scale[t] for scale in self.source_scale),
            target_scale=tuple(None if scale is None else scale[t] for scale in self.target_scale),
            parameters=self.parameters.opaque,
        )

    def start(self, t: int, pending: PendingEvents) -> Start:
        """Return where timestep t of this run begins."""
        return Start(self.seed, self.sample_ids, self.timestep + t, pending)


@dataclass(frozen=True)
class Trajectory:
    """The result of a run.

    Attributes:
        spikes, potentials: of every population shown, (T, B, size), differentiable.
        counts: with a leading T.
        standing: at the end.
        simulations: of every timestep, if logs were asked for.
    """

    spikes: tuple[Tensor, ...]
    potentials: tuple[Tensor, ...]
    counts: Counts
    standing: Standing
    simulations: tuple[Simulation, ...] = ()


class Rule(ABC):
    """A training rule. `timestep` is a rule's own; `run` is time: neurons begin, events run, neurons end."""

    name: str

    def check(self, graph: Graph, execution: Execution) -> None:  # noqa: B027 - most rules train any graph
        """Raise OptionError for a graph or option that this rule cannot train."""

    @abstractmethod
    def timestep(
        self, engine: Engine, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        """Run one timestep's events; spikes, current, potential and the amplitudes left over are differentiable."""

    def run(self, job: Job) -> Trajectory:
        """Run T timesteps.

        Raises:
            InputError: if x is not finite.
            RunawayError: if a timestep exceeds `max_forward_steps`.
        """
        if not job.x.isfinite().all():
            raise not_finite(job.x)
        graph, standing = job.graph, job.standing
        here = list(graph.slices.values())
        simulations, potentials = [], []
        for t in range(len(job.x)):
            done = self.timestep(
                job.engine,
                graph,
                job.execution,
                job.values(t, standing),
                job.start(t, standing.pending),
                job.keep_log,
            )
            neurons = tuple(
                population.neuron.end(
                    live, state, Outcome(done.spikes[:, at], done.current[:, at], done.potential[:, at])
                )
                for population, live, state, at in zip(
                    graph.populations, job.live, standing.neurons, here, strict=True
                )
            )
            standing = Standing(neurons, done.spikes, done.pending)
            simulations.append(done)
            potentials.append([neurons[graph.index[name]][0] for name in job.shown])
        spikes = torch.stack([done.spikes for done in simulations])
        return Trajectory(
            spikes=tuple(spikes[..., graph.slices[name]] for name in job.shown),
            potentials=tuple(torch.stack(column) for column in zip(*potentials, strict=True)),
            counts=_stacked([done.counts for done in simulations]),
            standing=standing,
            simulations=tuple(simulations) if job.keep_log else (),
        )


def _stacked(counts: Sequence[Counts]) -> Counts:
    names = [member.name for member in fields(Counts)]
    return Counts(*(torch.stack([getattr(one, name) for one in counts]) for name in names))


def detached(simulation: Simulation) -> Simulation:
    """Return the same results without a graph."""
    return replace(
        simulation,
        spikes=simulation.spikes.detach(),
        current=simulation.current.detach(),
        potential=simulation.potential.detach(),
        pending=replace(simulation.pending, amplitude=simulation.pending.amplitude.detach()),
    )
