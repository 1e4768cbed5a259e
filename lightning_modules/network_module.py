"""What a Lightning module needs to run one network with or without the barrier, in training and evaluation."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from lightning_modules.outcome import Outcome, outcome_of
from lightning_modules.source_run import has_batch_norm, run_source
from snn_async import AsyncNetwork, asynchronize
from snn_async.errors import OptionError, SnnAsyncError


class NetworkModule(pl.LightningModule):
    """Holds `net` and runs it; what it is trained for is the subclass's matter.

    Args:
        execution: "layered" or "asynchronous".
        options: of `snn_async.asynchronize`, fitting the execution.
        spike_penalty: if above 0, runs record the hidden populations.
        warmup_layered_steps: number of first optimizer steps that are layered whatever the execution.

    Raises:
        OptionError: for options out of range.
    """

    net: AsyncNetwork

    def __init__(
        self, execution: str, options: dict[str, Any], spike_penalty: float, warmup_layered_steps: int
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
        self.execution, self.options = execution, options
        self.spike_penalty, self.warmup_layered_steps = spike_penalty, warmup_layered_steps

    def connect(self, model: nn.Module, input_shape: Sequence[int] | None = None) -> None:
        """Make `net` of the model, for one sample's shape per timestep; None: that of the first batch, if it matters.

        Raises: see `prepare`.
        """
        shape: dict[str, Any] = {} if input_shape is None else {"input_shape": tuple(input_shape)}
        self.net = asynchronize(model, **self.options | shape)
        self.connected = input_shape is not None or _has_graph(self.net)
        if self.connected and self.spike_penalty and not self.hidden:
            raise OptionError(
                f"spike_penalty={self.spike_penalty}: the network has no hidden neurons; leave it out"
            )

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
        """Build the network for inputs x (T, B, ...), unless its input shape is known.

        Raises:
            UnsupportedModelError, UnsupportedByEngineError: for a network that cannot be run on them.
            OptionError: for a spike penalty without hidden neurons.
        """
        if not self.connected and x.dim() > 2:  # else the run says what is wrong with it
            self.connect(self.net.model, x.shape[2:])

    def run(self, x: Tensor, stage: str, sample_ids: Tensor | None) -> Outcome:
        """Run x (T, B, ...) as the stage, "train", "val" or "test", wants it.

        In training with the barrier BatchNorm is alive, so the source model itself is run.
        """
        warming = stage == "train" and self.global_step < self.warmup_layered_steps
        if stage == "train" and self.warmup_layered_steps:
            self.log("train_layered", float(warming), on_step=False, on_epoch=True, batch_size=x.shape[1])
        layered = warming or stage == "train" and self.execution == "layered"
        if layered and has_batch_norm(self.net.model):
            return run_source(self.net.model, self.net.graph, x)
        record = self.hidden if self.spike_penalty else ()
        run = self.net.layered if warming else self.net.run
        return outcome_of(run(x, sample_ids=sample_ids, record=record))


def _has_graph(net: AsyncNetwork) -> bool:
    """Whether the network needs no input shape to know its graph."""
    try:
        return net.graph is not None
    except SnnAsyncError:
        return False
