"""A whole run as one node of autograd: T timesteps of `LinearNeuron` simulated and replayed in one call each.

Copies are numpy's, on one thread: torch's threads would go on spinning beside the kernels.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn_async.engines.numba.engine import NumbaEngine
from snn_async.engines.numba.sequence import SequenceAdjoints, SequenceSimulation, SequenceValues
from snn_async.learning.rule import Job, Standing, Trajectory

# of `SequenceValues`, beside the potentials, which come population by population
DIFFERENTIABLE = ("x", "weights", "biases", "leak", "gain", "offset", "threshold", "last_spikes", "pending")


def run_whole(job: Job) -> Trajectory:
    """Return what `Rule.run` returns, differentiable by unlayered backprop."""
    graph, standing = job.graph, job.standing
    assert isinstance(job.engine, NumbaEngine)
    potentials, fired = zip(*standing.neurons, strict=True)
    leak, gain, offset, threshold = (torch.cat(column) for column in zip(*job.live, strict=True))
    values = SequenceValues(
        x=job.x,
        weights=job.parameters[0].weights,
        biases=job.parameters[0].biases,
        potentials=_joined(potentials),
        fired=_joined(fired),
        leak=leak,
        gain=gain,
        offset=offset,
        threshold=threshold,
        last_spikes=standing.spikes,
        pending=standing.pending.amplitude,
        source_scale=job.source_scale,
        target_scale=job.target_scale,
    )
    call = _Call(job.engine, job, values)
    named = [getattr(values, name) for name in DIFFERENTIABLE]
    final, last_spikes, left, *shown = _WholeRun.apply(call, *named, *potentials)
    done = call.simulation
    assert done is not None
    states = tuple((final[:, here], last_spikes[:, here].detach()) for here in graph.slices.values())
    return Trajectory(
        shown=dict(zip(job.shown, shown, strict=True)),
        counts=done.counts,
        standing=Standing(states, last_spikes, replace(done.pending, amplitude=left), job.standing.memories),
    )


class _Call:
    """One run, and where `_WholeRun` leaves the simulation."""

    def __init__(self, engine: NumbaEngine, job: Job, values: SequenceValues) -> None:
        self.engine, self.graph, self.execution = engine, job.graph, job.execution
        self.values, self.start = values, job.start(0, job.standing.pending)
        self.places = [(what == "spikes", job.graph.slices[name]) for name, what in job.shown]
        self.simulation: SequenceSimulation | None = None

    def with_tensors(self, tensors: Sequence[Tensor]) -> SequenceValues:
        named: dict[str, Any] = dict(zip(DIFFERENTIABLE, tensors, strict=False))
        return replace(self.values, **named)


class _WholeRun(torch.autograd.Function):
    """Takes the DIFFERENTIABLE tensors of `SequenceValues`, then the potentials (B, size) of every population.

    Returns the final potentials and last spikes (B, N), the amplitudes left over (E,), then the spikes or potentials
    (T, B, size) that are shown.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        values = call.with_tensors(tensors)
        needs_log = any(ctx.needs_input_grad)
        done = call.engine.simulate_sequence(call.graph, call.execution, values, call.start, needs_log)
        call.simulation = replace(done, log=None)
        if needs_log:
            ctx.call, ctx.simulation = call, done
            ctx.save_for_backward(*tensors[: len(DIFFERENTIABLE)])
        ctx.set_materialize_grads(False)
        spikes, potentials = done.spikes.numpy(), done.potentials.numpy()
        shown = [(spikes if fired else potentials)[..., here] for fired, here in call.places]
        parts = (potentials[-1], spikes[-1], *shown)
        final, last_spikes, *rest = (torch.from_numpy(part.copy()) for part in parts)
        return final, last_spikes, done.pending.amplitude.clone(), *rest

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, final: Tensor | None, last_spikes: Tensor | None, left: Tensor | None, *shown: Tensor | None
    ) -> tuple[Any, ...]:
        call, done = ctx.call, ctx.simulation
        values = call.with_tensors(ctx.saved_tensors)
        of_spikes, of_potentials = (
            [(here, grad) for (fired, here), grad in zip(call.places, shown, strict=True) if fired == wanted]
            for wanted in (True, False)
        )
        gradients = call.engine.replay_sequence(
            call.graph,
            call.execution,
            values,
            call.start,
            done,
            SequenceAdjoints(
                _scattered(done.spikes, of_spikes, last_spikes),
                _scattered(done.spikes, of_potentials, final),
                left,
            ),
            needs_x=ctx.needs_input_grad[1],
        )
        named = [getattr(gradients, name) for name in DIFFERENTIABLE]
        return (None, *named, *(gradients.potentials[:, here] for here in call.graph.slices.values()))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return (B, N) values, without gradient, from those of all populations."""
    return torch.from_numpy(np.concatenate([part.detach().numpy() for part in parts], 1))


def _scattered(like: Tensor, parts: list[tuple[slice, Tensor | None]], last: Tensor | None) -> Tensor | None:
    """Return the adjoint of all neurons (T, B, N) from those of populations and of the last timestep; None if zero."""
    if last is None and all(grad is None for _, grad in parts):
        return None
    total = np.zeros(like.shape, dtype=like.numpy().dtype)
    for here, grad in parts:
        if grad is not None:
            total[..., here] += grad.numpy()
    if last is not None:
        total[-1] += last.numpy()
    return torch.from_numpy(total)
