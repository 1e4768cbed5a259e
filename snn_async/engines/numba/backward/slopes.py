"""Slopes of the surrogate functions that are known in closed form, computed by the replay itself.

A surrogate is known by the autograd function that it calls, whose parameter is read at every replay; any other one is
differentiated by autograd (`snn_async.learning.slopes`).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async.engines.numba.jit import compiled
from snn_async.graph import Graph

Forms = tuple[NDArray[np.int64], NDArray[np.float64]]
GIVEN, ATAN, FAST_SIGMOID, SIGMOID, LOGISTIC, CONSTANT = range(6)
# name of the autograd function -> (code, name of its parameter)
_KNOWN = {
    "snntorch.surrogate.ATan": (ATAN, "alpha"),
    "snntorch.surrogate.FastSigmoid": (FAST_SIGMOID, "slope"),
    "snntorch.surrogate.Sigmoid": (SIGMOID, "slope"),
    "snntorch.surrogate.StraightThroughEstimator": (CONSTANT, None),
    "spikingjelly.activation_based.surrogate.atan": (ATAN, "alpha"),
    "spikingjelly.activation_based.surrogate.sigmoid": (LOGISTIC, "alpha"),
}


def closed_forms(graph: Graph) -> Forms | None:
    """Return every population's function and its parameter, None if one is not known."""
    found = [
        _closed_form(p.neuron.surrogate) if p.neuron.spiking else (GIVEN, 0.0) for p in graph.populations
    ]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    codes, parameters = zip(*known, strict=True)
    return np.array(codes, dtype=np.int64), np.array(parameters, dtype=np.float64)


def _closed_form(surrogate: Callable[[Tensor], Tensor]) -> tuple[int, float] | None:
    with torch.enable_grad():
        node: Any = surrogate(torch.zeros(1, requires_grad=True)).grad_fn
    function = getattr(type(node), "_forward_cls", None)
    if function is None or [type(one[0]).__name__ for one in node.next_functions if one[0] is not None] != [
        "AccumulateGrad"
    ]:
        return None
    code, name = _KNOWN.get(f"{function.__module__}.{function.__name__}", (GIVEN, None))
    if code == GIVEN:
        return None
    value = 0.0 if name is None else getattr(node, name, None)
    return (code, float(value)) if isinstance(value, int | float) else None


@compiled
def slope_of(code, parameter, x):
    """The derivative of a surrogate at x."""
    one = type(x)(1)
    if code == ATAN:
        scaled = parameter * x * type(x)(math.pi / 2)
        return parameter / ((one + one) * (one + scaled * scaled))
    if code == FAST_SIGMOID:
        scaled = parameter * abs(x) + one
        return one / (scaled * scaled)
    if code == SIGMOID:
        power = np.exp(-parameter * x)
        return parameter * power / ((power + one) * (power + one))
    if code == LOGISTIC:
        value = one / (one + np.exp(-parameter * x))
        return parameter * value * (one - value)
    return one


@compiled
def fill_slopes(code, parameter, u, threshold, slopes):
    """Write the slopes of a population; return whether all are finite."""
    infinite = False
    for i in range(len(u)):
        slopes[i] = slope_of(code, parameter, u[i] - threshold[i])
    for i in range(len(u)):
        infinite |= not np.isfinite(slopes[i])
    return not infinite
