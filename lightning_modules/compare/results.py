"""results.csv: one row per training, seed, execution, F and stop rule."""

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from ..output_files import write_whole
from .plan import Case, Condition

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
    """One model under one execution; `fingerprint` is of all that it was made of."""

    case: Case
    condition: Condition
    measures: dict[str, float]
    fingerprint: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The values of `KEYS`, as text."""
        case, condition = self.case, self.condition
        fold = "" if case.fold is None else str(case.fold)
        return case.training, str(case.seed), fold, condition.execution, condition.size, condition.stop

    def cells(self) -> dict[str, str]:
        """Return the row as text, six significant digits."""
        values = {name: "" if math.isnan(value) else f"{value:.6g}" for name, value in self.measures.items()}
        return dict(zip(KEYS, self.keys, strict=True)) | values | {"fingerprint": self.fingerprint}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            cells = [row.cells() for row in rows]
            table = csv.DictWriter(file, fieldnames=list(cells[0]) if cells else list(KEYS))
            table.writeheader()
            table.writerows(cells)

    write_whole(path, write)


def populations(rows: Sequence[Row]) -> list[str]:
    """Return the populations' names in graph order."""
    return [name.removeprefix("spikes_") for name in rows[0].measures if name.startswith("spikes_")]


def over_seeds(rows: Iterable[Row], measure: str, where: Callable[[Row], bool]) -> tuple[float, float]:
    """Return mean and standard deviation (NaN for fewer than two values) of a measure over matching rows."""
    values = [row.measures[measure] for row in rows if where(row) and not math.isnan(row.measures[measure])]
    if not values:
        return float("nan"), float("nan")
    return mean(values), stdev(values) if len(values) > 1 else float("nan")


def in_percent(mean: float, deviation: float) -> str:
    """Return "93.5 ± 0.3" from fractions, "93.5" where one seed gives no deviation."""
    return f"{100 * mean:.1f}" + ("" if math.isnan(deviation) else f" ± {100 * deviation:.1f}")
