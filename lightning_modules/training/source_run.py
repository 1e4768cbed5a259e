"""The source model's own layered run: what training with the barrier and live BatchNorm needs."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_modules.training.run_summary import RunSummary
from snn_async.errors import UnsupportedModelError
from snn_async.graph import Graph


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any module of the model is a BatchNorm."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def run_source(model: nn.Module, graph: Graph, x: Tensor) -> RunSummary:
    """Run the source model on x (T, B, ...) from rest, in its own framework and mode; BatchNorm acts as it does there.

    SpikingJelly models in multi-step mode get x whole; every other model one frame at a time, its neurons holding
    their states. States are reset before and after.

    Args:
        graph: the model's, from `AsyncNetwork.graph`.

    Raises:
        UnsupportedModelError: for a model that takes its states as arguments, or whose output for what it is given
            has not the shape of the graph's output.
    """
    counted: dict[str, list[Tensor]] = {p.name: [] for p in graph.populations if p.neuron.spiking}
    multistep = any(getattr(module, "step_mode", "s") == "m" for module in model.modules())
    _check_signature(model, "x" if multistep else "x[t]")
    _reset(model)
    try:
        with _counting(graph, counted):
            results = [_output(model(frames), graph) for frames in ([x] if multistep else x)]
    finally:
        _reset(model)
    output = results[0] if multistep else torch.stack(results)
    population = graph.populations[graph.index[graph.output]]
    expected = (*x.shape[:2], *population.shape)
    if output.shape != expected:
        raise UnsupportedModelError(
            f"the model returned {tuple(output.shape)} for x of {tuple(x.shape)} instead of {expected}; {WAY_OUT}"
        )
    totals = {name: torch.stack(spikes).sum() for name, spikes in counted.items()}
    zero = output.new_zeros(())
    return RunSummary(
        output=output,
        reads=graph.reads,
        spikes=sum(totals.values(), zero).detach(),
        hidden=sum((total for name, total in totals.items() if name != graph.output), zero),
        forward_steps=None,
    )


WAY_OUT = (
    "layered training with BatchNorm runs the source model itself: write one timestep whose neurons hold their states "
    "(snnTorch's init_hidden=True, any SpikingJelly model), or train with execution='asynchronous'"
)


def _check_signature(model: nn.Module, x: str) -> None:
    """Raise UnsupportedModelError for a forward that takes other arguments; what it raises itself is its own matter."""
    try:
        inspect.signature(model.forward).bind(x)
    except TypeError as error:
        raise UnsupportedModelError(
            f"the model cannot be called as model({x}): {error}; {WAY_OUT}"
        ) from error


def _output(result: Any, graph: Graph) -> Tensor:
    """Return the output; a snnTorch neuron that returns its potential as well does so after its spikes."""
    return result if isinstance(result, Tensor) else result[0 if graph.reads == "spikes" else -1]


@contextmanager
def _counting(graph: Graph, counted: dict[str, list[Tensor]]) -> Iterator[None]:
    """Within the block: add each population's sum of spikes to its list whenever its module is called."""

    def count(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, result: Any) -> None:
            counted[name].append((result if isinstance(result, Tensor) else result[0]).sum())

        return hook

    neurons = [(p.name, p.neuron.module) for p in graph.populations if p.name in counted]
    handles = [module.register_forward_hook(count(name)) for name, module in neurons]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reset(model: nn.Module) -> None:
    """Forget the states that neurons of either framework hold."""
    for module in model.modules():
        reset: Any = getattr(module, "reset_mem", None) or getattr(module, "reset", None)
        if callable(reset):
            reset()
