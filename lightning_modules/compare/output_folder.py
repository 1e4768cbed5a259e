"""The output folder: whose results it holds, and what of them is done."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.output_files import check_writable, write_text
from snn_async.errors import ConfigError

SETTINGS, RESULTS, REPORT = "settings.yaml", "results.csv", "report.html"
FIGURES = ("accuracy_matrix.png", "accuracy_steps.png", "spikes.png", "raster.png")
OWN = (SETTINGS, RESULTS, REPORT, *FIGURES, "models", "logs")


def open_folder(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make `folder` that of `settings`, a nested dict of plain values, or find that it is.

    A folder without a model or results takes any settings.

    Raises:
        ConfigError: if it cannot be written, or holds results of other settings and `overwrite` is False.
    """
    check_writable(folder)
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
    changed = differences(old, settings)
    if changed:
        raise ConfigError(
            f"{str(known.parent)!r} holds results of other settings ({'; '.join(changed[:3])}"
            f"{' ...' if len(changed) > 3 else ''}); use another --output or --overwrite"
        )


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
