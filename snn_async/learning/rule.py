"""What a training rule is: an object that runs a network forward and owns its backward."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from snn_async.checks import not_finite
from snn_async.engines.contract import Counts, Engine, Execution, PendingEvents, Simulation, Start, Values
from snn_async.graph import Graph
from snn_async.graph.parameters import Parameters
from snn_async.neurons import Outcome, State

Shown = tuple[str, str | int]


@dataclass(frozen=True)
class Standing:
    """Where a network stands between two timesteps, differentiable.

    Attributes:
        neurons: the state of every population.
        spikes: (B, N) of the last timestep.
        pending: events carried over.
        memories: (B, L) what the model carries on outside of neurons, the last of the next timestep's inputs.
    """

    neurons: tuple[State, ...]
    spikes: Tensor
    pending: PendingEvents
    memories: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Standing":
        """Return it with `function` applied to every differentiable tensor."""
        return Standing(
            tuple(tuple(function(value) for value in state) for state in self.neurons),
            function(self.spikes),
            replace(self.pending, amplitude=function(self.pending.amplitude)),
            function(self.memories),
        )


class Memories(Protocol):
    """What a model carries from one timestep to the next outside of neurons."""

    def after(self, t: int, inputs: Tensor, spikes: Tensor, last_spikes: Tensor) -> Tensor:
        """Return the values (B, L) after timestep t of a run, with inputs (B, S) and spikes (B, N)."""
        ...


@dataclass(frozen=True)
class Job:
    """What is run.

    Attributes:
        parameters: one for all timesteps, or one for each.
        x: (T, B, S - L) input in unit order, without the memories.
        source_scale, target_scale: gains per projection, (T, B, fan) or None (`snn_async.graph.parameters.scales_of`).
        live: the neurons' parameters, as `Neuron.read` returned them, per population.
        shown: what is returned: a population's "spikes", or its state of that number (0 the potential).
        keep_log: whether to return the event logs.
    """

    engine: Engine
    graph: Graph
    execution: Execution
    parameters: tuple[Parameters, ...]
    x: Tensor
    source_scale: tuple[Tensor | None, ...]
    target_scale: tuple[Tensor | None, ...]
    live: tuple[Any, ...]
    seed: int
    sample_ids: Tensor
    timestep: int
    standing: Standing
    shown: tuple[Shown, ...] = ()
    keep_log: bool = False
    memories: Memories | None = None

    def of_sample(self, sample: int) -> "Job":
        """Return the same run of one sample, from rest."""
        one, standing = slice(sample, sample + 1), self.standing
        return replace(
            self,
            x=self.x[:, one],
            source_scale=tuple(None if scale is None else scale[:, one] for scale in self.source_scale),
            target_scale=tuple(None if scale is None else scale[:, one] for scale in self.target_scale),
            sample_ids=self.sample_ids[one],
            standing=replace(standing.map(lambda value: value[one]), pending=standing.pending),
        )

    def input(self, t: int, standing: Standing) -> Tensor:
        """Return the inputs (B, S) of timestep t."""
        return self.x[t] if self.memories is None else torch.cat((self.x[t], standing.memories), 1)

    def values(self, t: int, standing: Standing) -> Values:
        """Return what timestep t of this run begins with."""
        like, parameters = self.input(t, standing), self.parameters[t if len(self.parameters) > 1 else 0]
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
            weights=parameters.weights,
            biases=parameters.biases,
            base=base,
            gain=gain,
            threshold=threshold,
            last_spikes=standing.spikes,
            pending=standing.pending.amplitude,
            source_scale=tuple(None if scale is None else scale[t] for scale in self.source_scale),
            target_scale=tuple(None if scale is None else scale[t] for scale in self.target_scale),
            parameters=parameters.live,
        )

    def start(self, t: int, pending: PendingEvents) -> Start:
        """Return where timestep t of this run begins."""
        return Start(self.seed, self.sample_ids, self.timestep + t, pending)


@dataclass(frozen=True)
class Trajectory:
    """The result of a run.

    Attributes:
        shown: what `Job.shown` asks for, after every timestep, (T, B, size), differentiable.
        counts: with a leading T.
        standing: at the end.
        simulations: of every timestep, if logs were asked for.
    """

    shown: dict[Shown, Tensor]
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
        if not job.x.sum().isfinite() and not job.x.isfinite().all():  # a sum is found much sooner
            raise not_finite(job.x)
        graph, standing = job.graph, job.standing
        sizes = [population.size for population in graph.populations]
        simulations: list[Simulation] = []
        shown: dict[Shown, list[Tensor]] = {what: [] for what in job.shown}
        for t in range(len(job.x)):
            standing = replace(standing, neurons=_cut(graph, standing.neurons))
            done = self.timestep(
                job.engine,
                graph,
                job.execution,
                job.values(t, standing),
                job.start(t, standing.pending),
                job.keep_log,
            )
            outcomes = [
                Outcome(*parts)
                for parts in zip(
                    *(whole.split(sizes, 1) for whole in (done.spikes, done.current, done.potential)),
                    strict=True,
                )
            ]
            neurons = tuple(
                population.neuron.end(live, state, outcome)
                for population, live, state, outcome in zip(
                    graph.populations, job.live, standing.neurons, outcomes, strict=True
                )
            )
            memories = standing.memories
            if job.memories is not None:
                memories = job.memories.after(t, job.input(t, standing), done.spikes, standing.spikes)
            standing = Standing(neurons, done.spikes, done.pending, memories)
            simulations.append(done)
            for (name, what), found in shown.items():
                p = graph.index[name]
                found.append(outcomes[p].spikes if what == "spikes" else neurons[p][int(what)])
        return Trajectory(
            shown={what: torch.stack(found) for what, found in shown.items()},
            counts=_stacked([done.counts for done in simulations]),
            standing=standing,
            simulations=tuple(simulations) if job.keep_log else (),
        )


def _cut(graph: Graph, states: tuple[State, ...]) -> tuple[State, ...]:
    """Return the states of all populations, without gradient those of `detached` ones."""
    return tuple(
        tuple(value.detach() for value in state) if population.detached else state
        for population, state in zip(graph.populations, states, strict=True)
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
