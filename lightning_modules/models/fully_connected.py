"""Fully connected networks of snnTorch neurons."""

from collections.abc import Sequence
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
    layers = [
        (nn.Linear(*fans, bias=bias), Leaky(beta=beta, threshold=threshold, **options))
        for fans in pairwise((inputs, *hidden, classes))
    ]
    return nn.Sequential(nn.Flatten(), *(module for pair in layers for module in pair))
