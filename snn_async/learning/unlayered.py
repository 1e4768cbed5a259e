"""Unlayered backprop: the gradient of an asynchronous run (DESIGN section 5; Koopman et al., TMLR 2025)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_async.engines.contract import Engine, Execution, Simulation, Start, Values
from snn_async.graph import Graph


@dataclass
class Job:
    """What is run, and where `UnlayeredBackprop` leaves the simulation."""

    engine: Engine
    graph: Graph
    execution: Execution
    start: Start
    source_scale: tuple[Tensor | None, ...]
    target_scale: tuple[Tensor | None, ...]
    simulation: Simulation | None = None

    def values(self, tensors: tuple[Tensor, ...]) -> Values:
        return Values(*tensors, source_scale=self.source_scale, target_scale=self.target_scale)


class UnlayeredBackprop(torch.autograd.Function):
    """Forward simulates the events, backward replays the event log."""

    @staticmethod
    def forward(ctx: Any, job: Job, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        keep_log = any(ctx.needs_input_grad)
        job.simulation = job.engine.simulate(
            job.graph, job.execution, job.values(tensors), job.start, keep_log
        )
        if keep_log:
            ctx.job, ctx.simulation = job, job.simulation
            ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return job.simulation.spikes, job.simulation.potentials

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_spikes: Tensor | None, grad_potentials: Tensor | None) -> tuple[Any, ...]:
        job: Job = ctx.job
        gradients = job.engine.replay(
            job.graph,
            job.execution,
            job.values(ctx.saved_tensors),
            job.start,
            ctx.simulation,
            grad_spikes,
            grad_potentials,
            needs_x=ctx.needs_input_grad[1],
        )
        return (
            None,
            gradients.x,
            gradients.weights,
            gradients.biases,
            gradients.leak,
            gradients.offset,
            gradients.threshold,
            gradients.potentials,
        )
