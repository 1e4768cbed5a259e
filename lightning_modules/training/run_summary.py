"""What a training or evaluation step needs to know of a run, whoever made it."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from snn_async import AsyncRun


class RunSummary(NamedTuple):
    """One run on a batch.

    Attributes:
        output: (T, B, classes) spikes or potentials, differentiable.
        reads: which of them.
        spikes: number of spikes of all populations and samples, ().
        hidden: those of the recorded or, in a source model's own run, all hidden populations, (), differentiable.
        forward_steps: mean per timestep, (); None where there are none, as in a source model's own run.
    """

    output: Tensor
    reads: Literal["spikes", "potentials"]
    spikes: Tensor
    hidden: Tensor
    forward_steps: Tensor | None


def summary_of(run: AsyncRun) -> RunSummary:
    """Return what matters of a run."""
    activity = run.activity
    zero = run.output.new_zeros(())
    return RunSummary(
        output=run.spikes if run.reads == "spikes" else run.potentials,
        reads=run.reads,
        spikes=torch.stack([spikes.sum() for spikes in activity.spikes.values()]).sum(),
        hidden=sum((record.spikes.sum() for record in run.records.values()), zero),
        forward_steps=activity.forward_steps.float().mean(),
    )
