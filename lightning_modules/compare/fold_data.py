"""The data module of a comparison, made from its configuration, once per fold."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pydoc import locate
from typing import Any

from jsonargparse import ArgumentParser
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lightning_modules.user_errors import blame
from snn_async.errors import ConfigError


def make_data(
    config: Mapping[str, Any], fold: int | None = None, folds: int | None = None
) -> LightningDataModule:
    """Return the data module that `config`, {"class_path": ..., "init_args": {...}}, describes.

    Args:
        fold, folds: passed on, if not None, to the data module's options of these names.

    Raises:
        ConfigError: if folds are asked of a data module without the option `fold`.
        ArgumentError: jsonargparse's, for a configuration that does not fit the class.
    """
    arguments = dict(config.get("init_args") or {})
    if fold is not None:
        kinds: Any = locate(config["class_path"])
        known = {name for kind in kinds.__mro__ for name in inspect.signature(kind.__init__).parameters}
        if "fold" not in known:
            raise ConfigError(
                f"folds: {config['class_path']} has no option 'fold'; leave folds out or use another one"
            )
        arguments |= {"fold": fold} | ({"folds": folds} if "folds" in known else {})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    parsed = parser.parse_object({"data": {"class_path": config["class_path"], "init_args": arguments}})
    with blame("data"):
        return parser.instantiate_classes(parsed).data


def held_out(data: LightningDataModule) -> Iterable[Sequence[Tensor]]:
    """Return the loader of the test data, prepared."""
    data.prepare_data()
    data.setup("test")
    return data.test_dataloader()
