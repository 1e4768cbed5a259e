"""cells.json: the measures of every result that the folder's models ever gave, by fingerprint."""

import json
from pathlib import Path

from snn_async.errors import ConfigError

from ..output_files import write_text

Cells = dict[str, dict[str, float]]


def read_cells(path: Path) -> Cells:
    """Return what `write_cells` wrote, nothing if there is no such file.

    Raises:
        ConfigError: if it is damaged.
    """
    if not path.exists():
        return {}
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(cells, dict):
            raise ValueError("it holds no results")
        for key, cell in cells.items():
            if not isinstance(cell, dict) or not all(
                isinstance(value, int | float) for value in cell.values()
            ):
                raise ValueError(f"the result {key} is not made of numbers")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{str(path)!r} is damaged: {error}. Delete it to evaluate the models again, or use --overwrite to "
            "train them again too"
        ) from error
    return cells


def write_cells(path: Path, cells: Cells) -> None:
    """Write all results, whole or not at all."""
    write_text(path, json.dumps(cells, indent=0))
