"""The options of asynchronous execution, spelled and checked once."""

from dataclasses import dataclass, field, replace
from typing import Literal

from snn_async import checks
from snn_async.engines.contract import Execution
from snn_async.errors import OptionError
from snn_async.graph import Graph
from snn_async.learning import Rule, make_rule
from snn_async.neurons import Refractory
from snn_async.schedulers import Layered, Scheduler, make_scheduler
from snn_async.stopping import Output, Quiescent, StopRule, make_stop_rule


@dataclass(frozen=True)
class Options:
    """How a network is executed and trained; checked when made.

    Args:
        scheduler: "random", "momentum", "fifo", "layered", or an object with the interface of
            `snn_async.schedulers.Scheduler` (engines torch and reference).
        forward_group_size: F, how many pending spikes are delivered per forward step; None for all.
        refractory: within a timestep, a neuron that spiked ignores later currents ("discard"), keeps them
            ("integrate"), or may spike again ("off"). None, the default, takes per neuron what keeps the layered
            limit for its reset: "discard" for a hard reset that acts at once (it forgets the timestep's currents
            anyway), "integrate" for every other (it keeps the surplus). What a neuron that spiked carries to the
            next timestep is then the same as with the barrier, whatever the order of its currents. (With F = None
            any mode equals layered execution.) A drop-in layer's own option comes first.
        refractory_dropout: probability that a spike leaves its neuron able to spike again; in training only.
        stop: when a timestep ends: "quiescent", "output" (first output spike), "output(k)" (k forward steps
            later), "after(n)" forward steps, or a rule from `snn_async.stopping`.
        leftover: what is pending when a timestep ends: "drop" it or "carry" it over.
        input: "prioritized": a timestep's input is delivered at once in forward step 0; "queued": step 0 only
            queues it, and input events compete for the F places like spikes, their amplitude for a potential.
        momentum_noise: with "momentum", adds this times U(0, 1) to the potentials.
        max_forward_steps: per timestep; exceeding it is an error.
        batch_norm: "frozen", the only value: BatchNorm uses its running statistics, in training too.
        rule: of training: "unlayered" (the replay of docs/design.md, section 5), "through_the_loop" (autograd through
            the event loop, as first published), or an object with the interface of `snn_async.learning.Rule`.

    Raises:
        OptionError: for an option out of range, unknown, or in contradiction to another.
    """

    scheduler: str | Scheduler = "momentum"
    forward_group_size: int | None = 8
    refractory: Refractory | None = None
    refractory_dropout: float = 0.0
    stop: str | StopRule = "quiescent"
    leftover: Literal["drop", "carry"] = "drop"
    input: Literal["prioritized", "queued"] = "prioritized"
    momentum_noise: float = 0.0
    max_forward_steps: int = 100_000
    batch_norm: Literal["frozen"] = "frozen"
    rule: str | Rule = "unlayered"

    order: Scheduler = field(init=False, repr=False)  # the scheduler, as an object
    stop_rule: StopRule = field(init=False, repr=False)
    training_rule: Rule = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.forward_group_size is not None:
            checks.check_count("forward_group_size", self.forward_group_size)
        checks.check_refractory(self.refractory, self.refractory_dropout)
        checks.check_choice("leftover", self.leftover, ("drop", "carry"))
        checks.check_choice("input", self.input, ("prioritized", "queued"))
        checks.check_count("max_forward_steps", self.max_forward_steps)
        checks.check_batch_norm(self.batch_norm)
        object.__setattr__(self, "order", make_scheduler(self.scheduler, self.momentum_noise))
        object.__setattr__(self, "stop_rule", make_stop_rule(self.stop))
        object.__setattr__(self, "training_rule", make_rule(self.rule))
        if (
            isinstance(self.order, Layered)
            and self.leftover == "carry"
            and not isinstance(self.stop_rule, Quiescent)
        ):
            raise OptionError(
                f"leftover='carry' with scheduler='layered' and stop={self.stop!r}: behind a barrier a spike may have "
                "reached some targets only; use leftover='drop' or stop='quiescent'"
            )

    def execution(self, graph: Graph) -> Execution:
        """Return how `graph` is run in training; a layer's own options come before the network's.

        Raises:
            OptionError: for options that contradict the graph.
        """
        neurons = [population.neuron for population in graph.populations]
        modes = tuple(n.refractory or self.refractory or n.default_refractory for n in neurons)
        rates = tuple(
            float(self.refractory_dropout if n.refractory_dropout is None else n.refractory_dropout)
            for n in neurons
        )
        for population, mode, rate in zip(graph.populations, modes, rates, strict=True):
            if mode == "off" and rate > 0:
                raise OptionError(
                    f"refractory_dropout={rate} has no effect on {population.name!r}, whose refractory is 'off'; "
                    "leave one of them out"
                )
            if (mode == "off" or rate > 0) and not population.neuron.repeats:
                option = "refractory='off'" if mode == "off" else f"refractory_dropout={rate}"
                raise OptionError(
                    f"{option}: {population.name!r} ({type(population.neuron.module).__name__}) cannot spike twice in "
                    "a timestep, since its reset is more than a change of its potential; leave it out, or set it on "
                    "other layers alone, with drop-in layers"
                )
        readout = graph.populations[graph.index[graph.output]]
        if isinstance(self.stop_rule, Output) and not readout.neuron.spiking:
            raise OptionError(
                f"stop={self.stop_rule} waits for a spike of {readout.name!r}, which never spikes; use 'quiescent' or "
                "'after(n)'"
            )
        waiting = [junction.name for junction in graph.junctions if junction.waits]
        if waiting and self.leftover == "carry":
            raise OptionError(
                f"leftover='carry' with the join {waiting[0]!r}, whose value holds for one timestep only; use "
                "leftover='drop'"
            )
        return Execution(
            scheduler=self.order,
            forward_group_size=self.forward_group_size,
            refractory=modes,
            refractory_dropout=rates,
            stop=self.stop_rule,
            leftover=self.leftover,
            input=self.input,
            max_forward_steps=self.max_forward_steps,
        )


def in_evaluation(execution: Execution) -> Execution:
    """Return the same execution without what acts in training only."""
    return replace(execution, refractory_dropout=(0.0,) * len(execution.refractory_dropout))


def with_barrier(execution: Execution) -> Execution:
    """Return the layered execution of the same graph."""
    return replace(in_evaluation(execution), scheduler=Layered(), stop=Quiescent(), input="prioritized")
