"""How a configuration names any factory of networks, and calling it."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from snn_async.errors import CheckpointError, ConfigError

from ..user_errors import OURS, blame, is_own


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


def check_may_be_called(path: str) -> None:
    """Ask whether a checkpoint may name `path` for the factory of its network.

    A file that came from elsewhere must not choose what runs here: this package's models and the user's own code may
    be named, the standard library and installed packages not, whatever the user's code imports from them.

    Raises:
        CheckpointError: if not.
    """
    top, _, name = path.partition(":")
    spec = None if top.startswith("__") else importlib.util.find_spec(top.partition(".")[0])
    places = [spec.origin] if spec and spec.origin else list((spec and spec.submodule_search_locations) or [])
    if places and all(Path(place).exists() and (is_own(place) or place.startswith(OURS)) for place in places):
        factory = getattr(importlib.import_module(top), name, None) if name else None
        home = sys.modules.get(getattr(factory, "__module__", None) or "")
        file = Path(getattr(home, "__file__", None) or "/")
        if file.is_file() and (is_own(str(file)) or Path(__file__).parent in file.parents):
            return
    raise CheckpointError(
        f"the checkpoint names {path!r} for what makes its network, which is neither one of this package's models nor "
        f"code of yours, so it is not run; if you know it, give it yourself: network={path!r}"
    )


def _check_arguments(factory: Callable[..., nn.Module], what: str, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # as of some built-in callables, which have none
        return
    with blame(what, "change model_args"):
        signature.bind(**arguments)
