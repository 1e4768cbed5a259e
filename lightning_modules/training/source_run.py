"""The source model's own layered run: what training with the barrier and live BatchNorm needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snn_async.capture.over_time import over_time
from snn_async.graph import Graph
from snn_async.network import Plan

from .outputs import output_of
from .run_summary import RunSummary

FRAMEWORKS = ("snntorch", "spikingjelly")


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any module of the model is a BatchNorm."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def without_statistics(model: nn.Module) -> str:
    """Return the name of the first BatchNorm that has seen no data; "" if there is none."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.num_batches_tracked == 0:
            return name or "the model itself"
    return ""


def run_source(model: nn.Module, plan: Plan, x: Tensor) -> RunSummary:
    """Run the source model on x from rest, in its own framework and mode; BatchNorm acts as it does there.

    It is called as `AsyncNetwork` understood it: with all timesteps, or once per timestep. States are reset before and
    after.

    Args:
        plan: of x, from `AsyncNetwork.plan`.

    Raises:
        UnsupportedModelError: for a result without classes, see `output_of`.
    """
    _reset(model)
    try:
        with _counting(plan.graph) as counted:
            result = over_time(model, x) if plan.capture.outside else model(x)
    finally:
        _reset(model)
    recorded = {name: torch.stack(spikes).sum() for name, spikes in counted.items()}
    output = output_of(result, plan)
    return RunSummary(
        output=output,
        spikes=sum(recorded.values(), output.new_zeros(())).detach(),
        recorded=recorded,
        forward_steps=None,
    )


@contextmanager
def _counting(graph: Graph) -> Iterator[dict[str, list[Tensor]]]:
    """Give each spiking population's list of its sums of spikes, one for each call of its module within the block.

    Populations that share a module are counted with the last of them.
    """
    names = {p.neuron.module: p.name for p in graph.populations if p.neuron.spiking}
    counted: dict[str, list[Tensor]] = {name: [] for name in names.values()}

    def count(module: nn.Module, arguments: Any, result: Any) -> None:
        counted[names[module]].append((result if isinstance(result, Tensor) else result[0]).sum())

    handles = [module.register_forward_hook(count) for module in names]
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


def _reset(model: nn.Module) -> None:
    """Forget the states that neurons and layers of either framework hold."""
    for module in model.modules():
        if any(kind.__module__.split(".")[0] in FRAMEWORKS for kind in type(module).__mro__):
            reset: Any = getattr(module, "reset_mem", None) or getattr(module, "reset", None)
            if callable(reset):
                reset()
