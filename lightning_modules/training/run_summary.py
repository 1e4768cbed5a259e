"""What a training or evaluation step needs to know of a run, whoever made it."""

from typing import NamedTuple

import torch
from torch import Tensor

from snn_async import AsyncRun
from snn_async.network import Plan

from .outputs import output_of


class RunSummary(NamedTuple):
    """One run on a batch.

    Attributes:
        output: (T, B, classes) or (B, classes), see `output_of`, differentiable.
        spikes: number of spikes of all populations and samples, ().
        recorded: those of each recorded or, in a source model's own run, spiking population, (), differentiable.
        forward_steps: mean per timestep, (); None where there are none, as in a source model's own run.
    """

    output: Tensor
    spikes: Tensor
    recorded: dict[str, Tensor]
    forward_steps: Tensor | None


def summary_of(run: AsyncRun, plan: Plan) -> RunSummary:
    """Return what matters of a run."""
    activity = run.activity
    return RunSummary(
        output=output_of(run.result, plan),
        spikes=torch.stack([spikes.sum() for spikes in activity.spikes.values()]).sum(),
        recorded={name: record.spikes.sum() for name, record in run.records.items()},
        forward_steps=activity.forward_steps.float().mean(),
    )
