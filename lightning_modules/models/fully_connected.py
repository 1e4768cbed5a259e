"""Fully connected networks, of either framework's neurons."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import nn


def mlp(
    inputs: int,
    hidden: Sequence[int] = (64, 64),
    classes: int = 10,
    beta: float = 0.9,
    threshold: float = 1.0,
    reset_mechanism: Literal["subtract", "zero", "none"] = "subtract",
    reset_delay: bool = True,
    bias: bool = False,
) -> nn.Sequential:
    """Return Flatten, then Linear and `snntorch.Leaky` for every width in `hidden` and for `classes`.

    Args:
        inputs: features per timestep (channels x height x width).
        beta: leak factor per timestep, 0..1.
        threshold: of every neuron.
        reset_mechanism, reset_delay: as in `snntorch.Leaky`.
        bias: whether the Linear layers have one.
    """
    from snntorch import Leaky

    options = {"reset_mechanism": reset_mechanism, "reset_delay": reset_delay, "init_hidden": True}
    return _dense([inputs, *hidden, classes], bias, lambda: Leaky(beta=beta, threshold=threshold, **options))


def spikingjelly_mlp(
    inputs: int,
    hidden: Sequence[int] = (64, 64),
    classes: int = 10,
    tau: float = 2.0,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    decay_input: bool = False,
    bias: bool = False,
) -> nn.Sequential:
    """Return Flatten, then Linear and SpikingJelly `LIFNode` for every width; see `mlp` and `LIFNode`."""
    from spikingjelly.activation_based.neuron import LIFNode

    options = {"tau": tau, "decay_input": decay_input, "v_threshold": v_threshold, "v_reset": v_reset}
    return _dense([inputs, *hidden, classes], bias, lambda: LIFNode(**options))


def _dense(widths: Sequence[int], bias: bool, make_neuron: Callable[[], nn.Module]) -> nn.Sequential:
    layers = [(nn.Linear(*fans, bias=bias), make_neuron()) for fans in pairwise(widths)]
    return nn.Sequential(nn.Flatten(), *(module for pair in layers for module in pair))
