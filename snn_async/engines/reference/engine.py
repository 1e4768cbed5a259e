"""The reference engine: slow, readable, any float precision, any scheduler; the oracle of every test."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from snn_async.engines.contract import (
    DIFFERENTIABLE,
    Adjoints,
    Execution,
    Gradients,
    Simulation,
    Slopes,
    Start,
    Values,
)
from snn_async.engines.reference.records import simulation_of
from snn_async.engines.reference.replay import masked_sum
from snn_async.engines.reference.simulate import SampleRun
from snn_async.engines.reference.steps import Wires
from snn_async.errors import UnsupportedByEngineError
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of

MOST_ENTRIES = 1 << 26


class ReferenceEngine:
    """Sample by sample, event by event, on the CPU; gradients by autograd of the masked sum."""

    name = "reference"

    def check(self, graph: Graph, execution: Execution) -> None:
        """Raise UnsupportedByEngineError for a graph too large for tables of every synapse."""
        entries = sum(projection.fan_in * projection.fan_out for projection in graph.projections)
        if entries > MOST_ENTRIES:
            raise UnsupportedByEngineError(
                f"engine 'reference' lists every synapse, and this graph would take {entries} entries (at most "
                f"{MOST_ENTRIES}); use backend='auto'"
            )

    @torch.no_grad()
    def simulate(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        device, layout = values.x.device, layout_of(graph)
        values, start = moved(values, "cpu"), moved(start, "cpu")
        wires = Wires.of(graph, layout, values)
        runs = [
            SampleRun(graph, layout, execution, wires, values, start, b).run(frame)
            for b, frame in enumerate(values.x)
        ]
        return moved(simulation_of(runs, keep_log), device)

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
        device = values.x.device
        values, start, simulation, slopes, adjoints = (
            moved(item, "cpu") for item in (values, start, simulation, slopes, adjoints)
        )
        assert simulation.log is not None
        named = {name: getattr(values, name).detach().requires_grad_() for name in DIFFERENTIABLE}
        parameters = tuple(p.detach().requires_grad_(p.is_floating_point()) for p in values.parameters)
        leaves = [*named.values(), *(p for p in parameters if p.requires_grad)]
        with torch.enable_grad():
            tracked = replace(values, parameters=parameters, **named)
            results = masked_sum(graph, execution, tracked, start, simulation.log, slopes)
            if not torch.allclose(results[0], simulation.spikes):
                raise AssertionError("the replay of the event log does not reproduce its spikes")
            loss = torch.zeros((), dtype=values.x.dtype, requires_grad=True)
            given = (adjoints.spikes, adjoints.current, adjoints.potential, adjoints.pending)
            for result, adjoint in zip(results, given, strict=True):
                if adjoint is not None:
                    loss = loss + (result * adjoint).sum()
            found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        rest = iter(moved(found, device))
        gradients: dict[str, Any] = {name: next(rest) for name in named}
        of_parameters = tuple(next(rest) if p.requires_grad else None for p in parameters)
        return Gradients(**gradients | ({} if needs_x else {"x": None}), parameters=of_parameters)


def moved(item: Any, device: "torch.device | str") -> Any:
    """Return a tensor, or whatever holds tensors, on a device."""
    if isinstance(item, Tensor):
        return item.to(device)
    if isinstance(item, tuple):
        return tuple(moved(member, device) for member in item)
    if is_dataclass(item) and not isinstance(item, type):
        return replace(item, **{f.name: moved(getattr(item, f.name), device) for f in fields(item) if f.init})
    return item
