"""Evaluate one trained model under every execution."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snn_async import AsyncNetwork, Options
from snn_async.capture import Captured, Observed, capture

from ..training.batches import check_samples
from ..training.outputs import output_of, scores_of
from .plan import Condition
from .settings import CompareSettings
from .tally import Tally


def make_networks(
    model: nn.Module, conditions: Sequence[Condition], settings: CompareSettings
) -> dict[Condition, AsyncNetwork]:
    """Return one execution of the same parameters per condition, in evaluation mode; they share their captures.

    Raises:
        OptionError: for options out of range.
    """
    captures: dict[Observed, Captured] = {}

    def captured(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
        key = Observed(model, args, kwargs)
        if key not in captures:
            captures[key] = capture(model, args, kwargs)
        return captures[key]

    networks = {}
    for c in conditions:
        options = settings.options(c.execution)
        backend = options.pop("backend", "auto")
        chosen = Options(forward_group_size=c.forward_group_size, stop=c.stop, **options)
        networks[c] = AsyncNetwork(model, chosen, backend, settings.evaluation.seed, captured).eval()
    return networks


def evaluate(
    networks: dict[Condition, AsyncNetwork],
    batches: Iterable[Sequence[Tensor]],
    report: Callable[[], None] = lambda: None,
) -> dict[Condition, Tally]:
    """Run every network on every batch, (x, y) or (x, y, sample_ids); `report` is called after each run.

    Raises:
        UnsupportedModelError, UnsupportedByEngineError: if a network cannot be run.
    """
    tallies = {condition: Tally() for condition in networks}
    seen = 0
    with torch.no_grad():
        for batch in batches:
            x, y = batch[0], batch[1]
            ids = batch[2] if len(batch) > 2 else torch.arange(seen, seen + len(y))
            seen += len(y)
            for condition, network in networks.items():
                check_samples(network.plan(x), x, len(y), f"y has {len(y)}")
                run = network.run(x, sample_ids=ids)
                scores = scores_of(output_of(run.result, network.shown))
                tallies[condition].add(run.activity, scores, y)
                report()
    return tallies
