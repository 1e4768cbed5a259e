"""What a Lightning module needs to run one network with or without the barrier, in training and evaluation."""

import logging
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from snn_async import AsyncRun, asynchronize
from snn_async.errors import OptionError

from .run_summary import RunSummary, summary_of
from .source_run import has_batch_norm, run_source, without_statistics


class NetworkModule(pl.LightningModule):
    """Holds `net` and runs it; what it is trained for is the subclass's matter.

    Args:
        model: the source model.
        execution: "layered" or "asynchronous".
        spike_penalty: if above 0, runs record all populations.
        warmup_layered_steps: number of first optimizer steps that are layered whatever the execution.
        options: of `snn_async.asynchronize`.

    Raises:
        OptionError: for options out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        execution: str,
        spike_penalty: float,
        warmup_layered_steps: int,
        **options: Any,
    ) -> None:
        super().__init__()
        if execution not in ("layered", "asynchronous"):
            raise OptionError(f"execution={execution!r} is unknown; choose 'layered' or 'asynchronous'")
        if not 0 <= spike_penalty < float("inf"):
            raise OptionError(f"spike_penalty={spike_penalty} must be finite and at least 0")
        if warmup_layered_steps < 0 or warmup_layered_steps and execution == "layered":
            raise OptionError(
                f"warmup_layered_steps={warmup_layered_steps} with execution={execution!r}: give at least 0, and 0 "
                "where every step is layered"
            )
        self.execution, self.spike_penalty = execution, spike_penalty
        self.warmup_layered_steps = warmup_layered_steps
        self.net = asynchronize(model, **options)

    @property
    def untaught_norm(self) -> str:
        """What is the matter, in words, if training as it is now would keep a BatchNorm that has seen no data."""
        if self.execution == "layered" or self.warmup_layered_steps:
            return ""
        name = without_statistics(self.net.model)
        return name and (
            f"BatchNorm {name!r} has seen no data, and unlayered training keeps its running statistics (mean 0, "
            "variance 1) as they are"
        )

    def on_fit_start(self) -> None:
        if self.untaught_norm and self.global_rank == 0:
            logging.getLogger("snn_async").warning(
                f"{self.untaught_norm}; give warmup_layered_steps=..., or start from a trained network"
            )

    def run(self, x: Tensor, barrier: bool | None = None, **options: Any) -> AsyncRun:
        """Run x under the module's execution, or as `barrier` says; options are those of `net.run`."""
        barrier = self.execution == "layered" if barrier is None else barrier
        return (self.net.layered if barrier else self.net.run)(x, **options)

    def summarized(self, x: Tensor, stage: str, sample_ids: Tensor | None) -> RunSummary:
        """Run x as the stage, "train", "val" or "test", wants it.

        In training with the barrier BatchNorm is alive, so the source model itself is run.
        """
        plan = self.net.plan(x)
        warming = stage == "train" and self.global_step < self.warmup_layered_steps
        if stage == "train" and self.warmup_layered_steps:
            samples = plan.capture.samples
            self.log("train_layered", float(warming), on_step=False, on_epoch=True, batch_size=samples)
        barrier = warming or self.execution == "layered"
        if stage == "train" and barrier and has_batch_norm(self.net.model):
            return run_source(self.net.model, plan, x)
        record = [p.name for p in plan.graph.populations] if self.spike_penalty else ()
        return summary_of(self.run(x, barrier, sample_ids=sample_ids, record=record), plan)

    def penalty(self, run: RunSummary) -> Tensor | float:
        """Return the weighted number of spikes of the hidden populations, those that are not the output neurons.

        The last population's neurons are, if there is one for each class.

        Raises:
            OptionError: if there are no hidden neurons.
        """
        if not self.spike_penalty:
            return 0.0
        graph, classes = self.net.graph, run.output.shape[-1]
        populations = graph.populations
        hidden = [p.name for p in populations if p.name != graph.output or p.size != classes]
        if not hidden:
            raise OptionError(
                f"spike_penalty={self.spike_penalty}: the network has no hidden neurons; leave it out"
            )
        spikes = [run.recorded[name] for name in hidden if name in run.recorded]
        return self.spike_penalty * sum(spikes, run.output.new_zeros(()))
