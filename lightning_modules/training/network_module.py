"""What a Lightning module needs to run one network with or without the barrier, in training and evaluation."""

from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from lightning_modules.training.run_summary import RunSummary, summary_of
from lightning_modules.training.source_run import has_batch_norm, run_source
from snn_async import AsyncRun, asynchronize
from snn_async.errors import InputError, OptionError


class NetworkModule(pl.LightningModule):
    """Holds `net` and runs it; what it is trained for is the subclass's matter.

    Args:
        model: the source model.
        execution: "layered" or "asynchronous".
        spike_penalty: if above 0, runs record the hidden populations.
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
        with suppress(InputError):  # sizes that follow from the first batch, see `prepare`
            self._check_penalty()

    @property
    def classes(self) -> int:
        """Number of output neurons."""
        return self.net.graph.populations[self.net.graph.index[self.net.graph.output]].size

    @property
    def hidden(self) -> tuple[str, ...]:
        """Names of the populations before the output."""
        graph = self.net.graph
        return tuple(p.name for p in graph.populations if p.name != graph.output)

    def prepare(self, x: Tensor) -> None:
        """Plan runs of inputs x (T, B, ...), so that the network's sizes are known.

        Raises:
            UnsupportedModelError, UnsupportedByEngineError: for a network that cannot be run on them.
            OptionError: for a spike penalty without hidden neurons.
        """
        if x.dim() > 2:  # else the run says what is wrong with it
            self.net.plan(tuple(x.shape[2:]))
            self._check_penalty()

    def run(self, x: Tensor, barrier: bool | None = None, **options: Any) -> AsyncRun:
        """Run x (T, B, ...) under the module's execution, or as `barrier` says; options are those of `net.run`."""
        barrier = self.execution == "layered" if barrier is None else barrier
        return (self.net.layered if barrier else self.net.run)(x, **options)

    def summarized(self, x: Tensor, stage: str, sample_ids: Tensor | None) -> RunSummary:
        """Run x (T, B, ...) as the stage, "train", "val" or "test", wants it.

        In training with the barrier BatchNorm is alive, so the source model itself is run.
        """
        warming = stage == "train" and self.global_step < self.warmup_layered_steps
        if stage == "train" and self.warmup_layered_steps:
            self.log("train_layered", float(warming), on_step=False, on_epoch=True, batch_size=x.shape[1])
        barrier = warming or self.execution == "layered"
        if stage == "train" and barrier and has_batch_norm(self.net.model):
            return run_source(self.net.model, self.net.graph, x)
        record = self.hidden if self.spike_penalty else ()
        return summary_of(self.run(x, barrier, sample_ids=sample_ids, record=record))

    def _check_penalty(self) -> None:
        if self.spike_penalty and not self.hidden:
            raise OptionError(
                f"spike_penalty={self.spike_penalty}: the network has no hidden neurons; leave it out"
            )
