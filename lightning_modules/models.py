"""Network factories that the configurations name, and how any other factory is named."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from lightning_modules.blame import blame
from snn_async.errors import ConfigError


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
    import snntorch

    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in zip([inputs, *hidden], [*hidden, classes], strict=True):
        neuron = snntorch.Leaky(
            beta=beta,
            threshold=threshold,
            reset_mechanism=reset_mechanism,
            reset_delay=reset_delay,
            init_hidden=True,
        )
        layers += [nn.Linear(fan_in, fan_out, bias=bias), neuron]
    return nn.Sequential(*layers)


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

    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in zip([inputs, *hidden], [*hidden, classes], strict=True):
        neuron = LIFNode(tau=tau, decay_input=decay_input, v_threshold=v_threshold, v_reset=v_reset)
        layers += [nn.Linear(fan_in, fan_out, bias=bias), neuron]
    return nn.Sequential(*layers)


def find_factory(path: str) -> Callable[..., nn.Module]:
    """Return the object that `path`, "package.module:factory", names.

    Raises:
        ConfigError: if the path has another form, the module raises, or it or the name is not there.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ConfigError(
            f"model={path!r} is no factory; write 'package.module:factory', e.g. 'my_models:make_net'"
        )
    try:
        with blame(f"model={path!r}: importing {module!r}"):
            found = importlib.import_module(module)
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{module}.".startswith(f"{cause.name}."):
            raise ConfigError(
                f"model={path!r}: there is no module {cause.name!r}; the current directory and installed "
                "packages count"
            ) from cause
        raise
    factory = getattr(found, name, None)
    if factory is None:
        raise ConfigError(f"model={path!r}: module {module!r} has no {name!r}")
    if not callable(factory):
        raise ConfigError(
            f"model={path!r} is a {type(factory).__name__}, not a function or class that makes a model"
        )
    return factory


def make_model(path: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Call the factory named by `path` with `arguments`.

    Raises:
        ConfigError: if there is no such factory, it does not take the arguments, it raises, or it returns
            no module.
    """
    factory, arguments = find_factory(path), dict(arguments or {})
    _check_arguments(factory, f"model={path!r} with {arguments}", arguments)
    with blame(f"model={path!r} with {arguments}"):
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model={path!r} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _check_arguments(factory: Callable[..., nn.Module], what: str, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # as of some built-in callables, which have none
        return
    with blame(what, "change model_args"):
        signature.bind(**arguments)
