"""`asynchronize`: a source model in, a network without layer synchronization out."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from snn_async import checks
from snn_async.capture import read_model
from snn_async.engines.choice import check_backend
from snn_async.engines.contract import Engine
from snn_async.errors import UnsupportedModelError
from snn_async.network import AsyncNetwork
from snn_async.options import Options


def asynchronize(
    model: nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    backend: str | Engine = "auto",
    seed: int = 0,
    **options: Any,
) -> AsyncNetwork:
    """Return `model` as a network in which no layer waits for another; parameters are shared, not copied.

    Args:
        model: an snnTorch or SpikingJelly model that torch.fx can trace, of spiking neurons, Linear, Conv1d and
            Conv2d, BatchNorm, pooling, nearest upsampling, Flatten, Dropout, sums (residual ADD), products of spikes
            (SEW's AND and IAND), recurrent edges, and other layers that are linear: an `nn.Sequential` (nested too), a
            module whose forward is one timestep, or one that loops over a fixed number of equal steps. A model that
            ends in a layer without a neuron returns that layer's currents as potentials.
        input_shape: of one sample, such as (2, 34, 34). Convolutional models get their sizes from it; if None, at the
            first run, which then raises what would be raised here.
        backend: "numba", "torch", "reference", or "auto": numba where it can run the graph, else torch (`net.backend`
            says which it chose); or an object with the interface of `snn_async.engines.contract.Engine`.
        seed: of the schedule in evaluation; in training it comes from torch's generator.
        options: those of `snn_async.options.Options`: scheduler, forward_group_size, refractory, refractory_dropout,
            stop, leftover, input, momentum_noise, max_forward_steps, batch_norm, rule.

    Raises:
        OptionError: for an option out of range or unknown.
        InputError: for an `input_shape` that a layer cannot take.
        UnsupportedModelError: for a model, module or parameter that cannot be mapped exactly.
        UnsupportedByEngineError: if the chosen engine cannot run the graph or an option.
    """
    if isinstance(model, AsyncNetwork):
        raise UnsupportedModelError(
            "the model is an AsyncNetwork already; pass its source model, `net.model`"
        )
    checked = Options(**options)
    check_backend(backend)
    shape = None if input_shape is None else checks.check_input_shape(input_shape)
    net = AsyncNetwork(model, read_model(model), checked, backend, checks.check_seed(seed))
    if shape is not None:
        net.plan(shape)
    return net
