"""`asynchronize`: a source model in, a network without layer synchronization out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snn_async import checks
from snn_async.capture import check_model, kind_of
from snn_async.engines.choice import check_backend
from snn_async.engines.contract import Engine
from snn_async.errors import OptionError, UnsupportedModelError
from snn_async.network import AsyncNetwork
from snn_async.options import Options


def asynchronize(
    model: nn.Module,
    *,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
    backend: str | Engine = "auto",
    seed: int = 0,
    **options: Any,
) -> AsyncNetwork:
    """Return `model` as a network without layer synchronization; parameters are shared, not copied.

    The network is called as the model is. The model's forward is run once on fake tensors for every shape of input, and
    everything that it calls is followed: loops over time, lists and dictionaries of states, encoders in front of the
    first neuron and readouts behind the last one. `net.describe()` shows how it was understood.

    Args:
        model: an snnTorch or SpikingJelly model. Its forward runs all timesteps, in a loop or as an axis in front of
            its neurons, or one timestep per call.
        example_inputs: what the network will be called with (a tensor, a sequence of arguments, or a mapping of keyword
            arguments), so that everything that can be refused is refused now; if None, at the first call.
        input_shape: of one sample in one timestep, such as (2, 34, 34): for example inputs of T = 2, B = 1.
        backend: "numba", "torch", "reference", or "auto": numba where it can run the graph, else torch (`net.backend`
            says which it chose); or an object with the interface of `snn_async.engines.contract.Engine`.
        seed: of the schedule in evaluation; in training it comes from torch's generator.
        options: those of `snn_async.options.Options`: scheduler, forward_group_size, refractory, refractory_dropout,
            stop, leftover, input, momentum_noise, max_forward_steps, batch_norm, rule.

    Raises:
        OptionError: for an option out of range or unknown.
        InputError: for example inputs that cannot be run.
        UnsupportedModelError: for a model, module or parameter that cannot be mapped exactly.
        UnsupportedByEngineError: if the chosen engine cannot run the graph or an option.
    """
    if isinstance(model, AsyncNetwork):
        raise UnsupportedModelError(
            "the model is an AsyncNetwork already; pass its source model, `net.model`"
        )
    checked = Options(**options)
    check_backend(backend)
    if example_inputs is not None and input_shape is not None:
        raise OptionError("example_inputs and input_shape both say what the network is called with; give one")
    net = AsyncNetwork(check_model(model), checked, backend, checks.check_seed(seed))
    if input_shape is not None:
        dtype, device = kind_of(model)
        shape = checks.check_input_shape(input_shape)
        net.plan(torch.zeros((2, 1, *shape), dtype=dtype, device=device))
    elif isinstance(example_inputs, Mapping):
        net.plan(**example_inputs)
    elif example_inputs is not None:
        net.plan(*([example_inputs] if isinstance(example_inputs, Tensor) else example_inputs))
    return net
