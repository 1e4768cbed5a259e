"""A graph with how it is run, for every shape of input that a model meets."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from snn_async.capture import Blueprint
from snn_async.engines.choice import choose_engine
from snn_async.engines.contract import Engine, Execution
from snn_async.errors import OptionError
from snn_async.graph import Graph
from snn_async.neurons import Refractory
from snn_async.schedulers import Scheduler
from snn_async.stopping import Output, StopRule


class Prepared(NamedTuple):
    """A graph, the engine that runs it, and the checked options."""

    graph: Graph
    engine: Engine
    execution: Execution


@dataclass(frozen=True)
class Preparation:
    """Makes the graph of a model and its execution for a shape of input.

    Attributes:
        options: of `make_execution`.
    """

    blueprint: Blueprint
    backend: str
    options: dict[str, Any]

    def prepare(self, shape: tuple[int, ...]) -> Prepared:
        """Return the graph for an input of `shape` per sample, and how it is run.

        Raises:
            InputError, UnsupportedModelError: as for `Blueprint.graph`.
            OptionError: for options that contradict the graph.
            UnsupportedByEngineError: if the engine cannot run it.
        """
        graph = self.blueprint.graph(shape)
        execution = make_execution(graph, **self.options)
        return Prepared(graph, choose_engine(self.backend, graph, execution), execution)


def make_execution(
    graph: Graph,
    *,
    scheduler: Scheduler,
    forward_group_size: int | None,
    refractory: Refractory | None,
    refractory_dropout: float,
    stop: StopRule,
    leftover: Literal["drop", "carry"],
    input: Literal["prioritized", "queued"],
    max_forward_steps: int,
) -> Execution:
    """Return the execution of `graph` under checked options; a layer's own come before the network's.

    Raises:
        OptionError: for options that contradict each other or the graph.
    """
    neurons = [population.neuron for population in graph.populations]
    modes = tuple(n.refractory or refractory or n.default_refractory for n in neurons)
    rates = tuple(
        float(refractory_dropout if n.refractory_dropout is None else n.refractory_dropout) for n in neurons
    )
    for population, mode, rate in zip(graph.populations, modes, rates, strict=True):
        if mode == "off" and rate > 0:
            raise OptionError(
                f"refractory_dropout={rate} has no effect on {population.name!r}, whose refractory is 'off'; "
                "leave one of them out"
            )
    readout = graph.populations[graph.index[graph.output]]
    if isinstance(stop, Output) and not readout.neuron.spiking:
        raise OptionError(
            f"stop={stop} waits for a spike of {readout.name!r}, which never spikes; use 'quiescent' or 'after(n)'"
        )
    waiting = [junction.name for junction in graph.junctions if junction.waits]
    if waiting and leftover == "carry":
        raise OptionError(
            f"leftover='carry' with the join {waiting[0]!r}, whose value holds for one timestep only; use "
            "leftover='drop'"
        )
    return Execution(
        scheduler=scheduler,
        forward_group_size=forward_group_size,
        refractory=modes,
        refractory_dropout=rates,
        stop=stop,
        leftover=leftover,
        input=input,
        max_forward_steps=max_forward_steps,
    )
