"""Evaluate one trained model under every execution."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.compare.plan import Condition
from lightning_modules.compare.settings import CompareSettings
from lightning_modules.compare.tally import Tally
from snn_async import AsyncNetwork, asynchronize


def make_networks(
    model: nn.Module,
    conditions: Sequence[Condition],
    settings: CompareSettings,
    input_shape: tuple[int, ...] | None = None,
) -> dict[Condition, AsyncNetwork]:
    """Return one execution of the same parameters per condition, in evaluation mode.

    Args:
        input_shape: of one sample in one timestep; None: that of the first batch.

    Raises:
        OptionError, UnsupportedModelError, UnsupportedByEngineError: if one cannot be run.
    """
    return {
        c: asynchronize(
            model,
            input_shape=input_shape,
            seed=settings.evaluation.seed,
            forward_group_size=c.forward_group_size,
            stop=c.stop,
            **settings.options(c.execution),
        ).eval()
        for c in conditions
    }


def evaluate(
    networks: dict[Condition, AsyncNetwork],
    batches: Iterable[Sequence[Tensor]],
    report: Callable[[], None] = lambda: None,
) -> dict[Condition, Tally]:
    """Run every network on every batch, (x, y) or (x, y, sample_ids); `report` is called after each run."""
    tallies = {condition: Tally() for condition in networks}
    seen = 0
    with torch.no_grad():
        for batch in batches:
            x, y = batch[0], batch[1]
            ids = batch[2] if len(batch) > 2 else torch.arange(seen, seen + len(y))
            seen += len(y)
            for condition, network in networks.items():
                tallies[condition].add(network.run(x, sample_ids=ids), y)
                report()
    return tallies
