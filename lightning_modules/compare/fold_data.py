"""The data module of a comparison, made from its configuration, once per fold."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pydoc import locate
from typing import Any

from jsonargparse import ArgumentParser
from pytorch_lightning import LightningDataModule
from torch import Tensor

from snn_async.errors import ConfigError

from ..training.batches import turned
from ..user_errors import blame


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


def held_out(data: LightningDataModule, batch_first: bool = False) -> Iterable[Sequence[Tensor]]:
    """Return the batches of the test data, prepared, x time first."""
    data.prepare_data()
    data.setup("test")
    loader = data.test_dataloader()
    return (turned(batch) for batch in loader) if batch_first else loader
