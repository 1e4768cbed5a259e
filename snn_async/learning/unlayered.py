"""Unlayered backprop: the gradient of an asynchronous run (docs/design.md, section 5; Koopman et al., TMLR 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_async.engines.contract import Engine, Execution, Simulation, Start, Values
from snn_async.graph import Graph

DIFFERENTIABLE = ("x", "weights", "biases", "leak", "offset", "threshold", "potentials")


@dataclass
class Job:
    """What is run, which neurons are returned, and where `UnlayeredBackprop` leaves the simulation."""

    engine: Engine
    graph: Graph
    execution: Execution
    start: Start
    source_scale: tuple[Tensor | None, ...]
    target_scale: tuple[Tensor | None, ...]
    returned: tuple[slice, ...]
    simulation: Simulation | None = None

    def values(self, tensors: tuple[Tensor, ...]) -> Values:
        named: dict[str, Any] = dict(zip(DIFFERENTIABLE, tensors, strict=False))
        return Values(
            **named,
            source_scale=self.source_scale,
            target_scale=self.target_scale,
            parameters=tensors[len(DIFFERENTIABLE) :],
        )


class UnlayeredBackprop(torch.autograd.Function):
    """Forward simulates the events, backward replays the event log.

    Takes the DIFFERENTIABLE tensors of `Values`, then its `parameters`; returns the final potentials (B, N),
    then the spikes and the potentials (T, B, size) of every slice in `Job.returned`.
    """

    @staticmethod
    def forward(ctx: Any, job: Job, *tensors: Tensor) -> tuple[Tensor, ...]:
        keep_log = any(ctx.needs_input_grad)
        simulation = job.engine.simulate(job.graph, job.execution, job.values(tensors), job.start, keep_log)
        job.simulation = simulation
        if keep_log:
            ctx.job, ctx.simulation = job, simulation
            ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        spikes, potentials = simulation.spikes.numpy(), simulation.potentials.numpy()
        parts = [kind[..., here] for here in job.returned for kind in (spikes, potentials)]
        # numpy copies on one thread; torch's threads would go on spinning beside the engine's
        return tuple(torch.from_numpy(part.copy()) for part in (potentials[-1], *parts))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_final: Tensor | None, *grads: Tensor | None) -> tuple[Any, ...]:
        job: Job = ctx.job
        like = ctx.simulation.spikes
        gradients = job.engine.replay(
            job.graph,
            job.execution,
            job.values(ctx.saved_tensors),
            job.start,
            ctx.simulation,
            _scatter(like, job.returned, grads[::2], None),
            _scatter(like, job.returned, grads[1::2], grad_final),
            needs_x=ctx.needs_input_grad[1],
        )
        return (None, *(getattr(gradients, name) for name in DIFFERENTIABLE), *gradients.parameters)


def _scatter(
    like: Tensor, places: Sequence[slice], grads: Sequence[Tensor | None], final: Tensor | None
) -> Tensor | None:
    """Return the adjoint of all neurons (T, B, N) from those of the returned slices, None if it is zero."""
    if final is None and all(grad is None for grad in grads):
        return None
    total = np.zeros(like.shape, dtype=like.numpy().dtype)
    for here, grad in zip(places, grads, strict=True):
        if grad is not None:
            total[..., here] += grad.numpy()
    if final is not None:
        total[-1] += final.numpy()
    return torch.from_numpy(total)
