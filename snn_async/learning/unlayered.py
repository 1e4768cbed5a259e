"""Unlayered backprop: the gradient of an asynchronous run (docs/design.md, section 5; Koopman et al., TMLR 2025)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_async.engines.contract import (
    DIFFERENTIABLE,
    Adjoints,
    Engine,
    Execution,
    Simulation,
    Start,
    Values,
)
from snn_async.graph import Graph
from snn_async.learning.rule import Job, Rule, Trajectory, detached
from snn_async.learning.slopes import surrogate_slopes


class UnlayeredBackprop(Rule):
    """Forward simulates the events, backward replays the event log; exact for every engine."""

    name = "unlayered"

    def timestep(
        self, engine: Engine, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        call = _Call(engine, graph, execution, values, start, keep_log, torch.is_grad_enabled())
        tensors = [getattr(values, name) for name in DIFFERENTIABLE]
        spikes, current, potential, left = _Timestep.apply(call, *tensors, *values.parameters)
        assert call.simulation is not None
        return replace(
            call.simulation,
            spikes=spikes,
            current=current,
            potential=potential,
            pending=replace(call.simulation.pending, amplitude=left),
        )

    def run(self, job: Job) -> Trajectory:
        """Run T timesteps, in one call where the engine has a way for that."""
        runs_sequences = getattr(job.engine, "runs_sequences", None)
        simple = all(what in ("spikes", 0) for _, what in job.shown)
        simple = (
            simple
            and job.memories is None
            and len(job.parameters) == 1
            and not any(population.detached for population in job.graph.populations)
        )
        if job.keep_log or not simple or runs_sequences is None or not runs_sequences(job.graph):
            return super().run(job)
        from snn_async.engines.numba.whole_run import run_whole

        return run_whole(job)


@dataclass
class _Call:
    """One call of an engine, and where `_Timestep` leaves the simulation."""

    engine: Engine
    graph: Graph
    execution: Execution
    values: Values
    start: Start
    keep_log: bool
    grad: bool  # whether a gradient may be asked for
    simulation: Simulation | None = None

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> Values:
        count = len(DIFFERENTIABLE)
        named: dict[str, Any] = dict(zip(DIFFERENTIABLE, tensors[:count], strict=True))
        return replace(self.values, **named, parameters=tensors[count:])


class _Timestep(torch.autograd.Function):
    """Takes the DIFFERENTIABLE tensors of `Values`, then its `parameters`.

    Returns spikes, current and potential (B, N), and the amplitudes left over (E,).
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        needs_log = call.grad and any(ctx.needs_input_grad)
        done = call.engine.simulate(
            call.graph,
            call.execution,
            call.with_tensors(tensors),
            call.start,
            needs_log or call.keep_log,
        )
        call.simulation = done
        if needs_log:
            ctx.call, ctx.simulation = replace(call, simulation=None), detached(done)
            ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return done.spikes, done.current, done.potential, done.pending.amplitude

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Any, ...]:
        call: _Call = ctx.call
        values, evaluations = call.with_tensors(ctx.saved_tensors), ctx.simulation.log.evaluations
        gradients = call.engine.replay(
            call.graph,
            call.execution,
            values,
            call.start,
            ctx.simulation,
            surrogate_slopes(call.graph, evaluations, values.threshold, evaluations.sample),
            Adjoints(*adjoints),
            needs_x=ctx.needs_input_grad[1],
        )
        return (None, *(getattr(gradients, name) for name in DIFFERENTIABLE), *gradients.parameters)
