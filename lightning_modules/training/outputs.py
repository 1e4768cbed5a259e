"""What classes are read from: a model's result, whatever its form."""

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from snn_async.errors import DataError, UnsupportedModelError
from snn_async.network import Plan


def output_of(result: Any, plan: Plan) -> Tensor:
    """Return spikes or potentials over time, (T, B, classes), or logits, (B, classes).

    It is the first tensor of the result; the last one, such as snnTorch's potential after spikes, where the last
    neurons never spike.

    Raises:
        UnsupportedModelError: for a result of another form.
    """
    graph, steps, samples = plan.graph, plan.capture.steps, plan.capture.samples
    tensors = [value for value in pytree.tree_leaves(result) if isinstance(value, Tensor)]
    last = graph.populations[graph.index[graph.output]]
    output = tensors[0 if last.neuron.spiking else -1]
    if output.shape[:-1] not in ((steps, samples), (samples,)):
        raise UnsupportedModelError(
            f"the model returned a tensor of shape {tuple(output.shape)} for T = {steps} timesteps of B = {samples} "
            "samples; a classifier returns (T, B, classes), or (B, classes), first of all it returns"
        )
    return output


def scores_of(output: Tensor) -> Tensor:
    """Return (B, classes): outputs summed over time, or the logits."""
    return output.sum(0) if output.dim() == 3 else output


def check_labels(y: Tensor, classes: int) -> None:
    """Raise DataError unless y holds classes of a network with so many outputs, (B,)."""
    if y.ndim != 1 or y.is_floating_point() or len(y) and not 0 <= y.min() <= y.max() < classes:
        raise DataError(
            f"labels of shape {tuple(y.shape)} and type {y.dtype} from {y.min()} to {y.max()} do not fit a "
            f"network with {classes} outputs; give one class per sample, (B,), from 0 to "
            f"{classes - 1}, or the network more outputs"
        )
