"""The output folder: whose results it holds, and what of them is done."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import yaml
from filelock import FileLock, Timeout

from snn_async.errors import ConfigError

from ..output_files import check_writable, write_text

SETTINGS, CELLS, RESULTS, REPORT = "settings.yaml", "cells.json", "results.csv", "report.html"
FIGURES = ("accuracy_matrix.png", "accuracy_steps.png", "spikes.png", "raster.png")
OWN = (SETTINGS, CELLS, RESULTS, REPORT, *FIGURES, "models", "logs")


# Which models and results there are, not what they are: a comparison grows by these.
GROWS = {"": ("seeds", "evaluation"), "training": ("methods",)}


@contextmanager
def opened(folder: Path, settings: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """Within the block `folder` is this process's alone, and that of `settings`, a nested dict of plain values.

    A folder without a model or results takes any settings; one with them takes other seeds (without folds), training
    methods and evaluations, which add to it.

    Raises:
        ConfigError: if it cannot be written, another process is at work in it, or it holds results of other settings
            and `overwrite` is False.
    """
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            _claim(folder, settings, overwrite)
            yield
    except Timeout as error:
        raise ConfigError(
            f"another process is at work in {str(folder)!r}; wait for it, or use another --output"
        ) from error


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    known = folder / SETTINGS
    if overwrite:
        _clear(folder)
    for name in ("models", "logs"):
        check_writable(folder / name)
    if known.exists():
        if (folder / RESULTS).exists() or any((folder / "models").glob("*.ckpt")):
            _check_same(known, settings)
    elif any((folder / name).exists() for name in OWN):
        raise ConfigError(
            f"{str(folder)!r} holds files of unknown settings; use another --output or --overwrite"
        )
    files = [Path(name) for name in OWN if Path(name).suffix]
    patterns = [f".{file.stem}.[0-9]*{file.suffix}" for file in files] + ["models/.*.ckpt"]
    for unfinished in (
        path for pattern in patterns for path in folder.glob(pattern)
    ):  # of a process that was killed
        unfinished.unlink()
    (folder / "models").mkdir(parents=True, exist_ok=True)
    write_text(known, yaml.safe_dump(settings, sort_keys=False))


def _check_same(known: Path, settings: dict[str, Any]) -> None:
    try:
        old = yaml.safe_load(known.read_text(encoding="utf-8"))
        if not isinstance(old, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{str(known)!r} is damaged ({error}), so nobody knows what the results beside it are; use another "
            "--output or --overwrite"
        ) from error
    changed = differences(_fixed(old), _fixed(settings))
    if changed:
        raise ConfigError(
            f"{str(known.parent)!r} holds results of other settings ({'; '.join(changed[:3])}"
            f"{' ...' if len(changed) > 3 else ''}); use another --output or --overwrite"
        )


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that all models and results of a folder share."""
    fixed = {k: v for k, v in settings.items() if k not in GROWS[""]}
    training = fixed.get("training")
    if isinstance(training, dict):
        fixed["training"] = {k: v for k, v in training.items() if k not in GROWS["training"]}
    return fixed


def as_plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as YAML can hold them, functions and classes by their import paths."""

    def text(value: Any) -> str:
        named = isinstance(value, type | FunctionType)
        return f"{value.__module__}.{value.__qualname__}" if named else str(value)

    return json.loads(json.dumps(record, default=text))


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return a line per value that differs between two nested dicts."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(old) + [key for key in new if key not in old]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if old == new else [f"{name} was {old}, is {new}"]


def _clear(folder: Path) -> None:
    for name in OWN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
