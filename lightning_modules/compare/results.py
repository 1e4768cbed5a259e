"""results.csv: one row per training, seed, execution, F and stop rule."""

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from lightning_modules.compare.plan import Case, Condition
from lightning_modules.files import write_whole
from snn_async.errors import ConfigError

KEYS = ("training", "seed", "fold", "execution", "forward_group_size", "stop")
MEASURES = {
    "samples": "test samples",
    "accuracy": "share of samples classified correctly",
    "spikes": "spikes per sample, all populations",
    "forward_steps": "forward steps per timestep",
    "first_output_step": "forward step of a timestep's first output spike, where there is one",
    "silent_timesteps": "share of timesteps without an output spike",
    "latency": "forward steps from a sample's start up to its first output spike, where there is one",
    "synaptic_operations": "targets reached by delivered spikes and inputs, per sample",
    "neuron_updates": "evaluations of a neuron per sample",
    "spikes_NAME": "spikes per sample of population NAME",
}


@dataclass(frozen=True)
class Row:
    """One model under one execution."""

    case: Case
    condition: Condition
    measures: dict[str, float]

    def cells(self) -> dict[str, str]:
        """Return the row as text, six significant digits."""
        case, condition = self.case, self.condition
        fold = "" if case.fold is None else str(case.fold)
        keys = (case.training, str(case.seed), fold, condition.execution, condition.size, condition.stop)
        values = {name: "" if math.isnan(value) else f"{value:.6g}" for name, value in self.measures.items()}
        return dict(zip(KEYS, keys, strict=True)) | values


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            cells = [row.cells() for row in rows]
            table = csv.DictWriter(file, fieldnames=list(cells[0]) if cells else list(KEYS))
            table.writeheader()
            table.writerows(cells)

    write_whole(path, write)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a results.csv, none if there is no such file.

    Raises:
        ConfigError: if it is not one that `write_rows` wrote.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_row(cells) for cells in csv.DictReader(file)]
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{str(path)!r} is damaged ({error}); use another folder or --overwrite") from error


def _row(cells: dict[str, str]) -> Row:
    fold, size = cells["fold"], cells["forward_group_size"]
    case = Case(cells["training"], int(cells["seed"]), int(fold) if fold else None)  # type: ignore[arg-type]
    number = None if size in ("-", "all") else int(size)
    condition = Condition(cells["execution"], number, cells["stop"])  # type: ignore[arg-type]
    measures = {k: float(v) if v else float("nan") for k, v in cells.items() if k not in KEYS}
    return Row(case, condition, measures)


def populations(rows: Sequence[Row]) -> list[str]:
    """Return the populations' names in graph order."""
    return [name.removeprefix("spikes_") for name in rows[0].measures if name.startswith("spikes_")]


def over_seeds(rows: Iterable[Row], measure: str, where: Callable[[Row], bool]) -> tuple[float, float]:
    """Return mean and standard deviation (0 for one value, NaN for none) of a measure over matching rows."""
    values = [row.measures[measure] for row in rows if where(row) and not math.isnan(row.measures[measure])]
    if not values:
        return float("nan"), float("nan")
    return mean(values), stdev(values) if len(values) > 1 else 0.0
