"""What a comparison found: differences of accuracy over the same seeds, with their uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.special import stdtrit

from .plan import Condition
from .results import Row

Cell = tuple[str, Condition]  # training, execution


@dataclass(frozen=True)
class Difference:
    """Accuracy of one cell minus that of another, in points, paired by seed and fold.

    Attributes:
        trained, run: the one cell in words.
        against: the other one, where it differs.
        value: mean over seeds.
        margin: half the width of the 95 % interval of Student's t; NaN for one seed.
        seeds: how many.
    """

    trained: str
    run: str
    against: str
    value: float
    margin: float
    seeds: int

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside the interval."""
        return abs(self.value) > self.margin

    @property
    def interval(self) -> str:
        """The interval as text."""
        if math.isnan(self.margin):
            return "none from one seed"
        return f"{self.value - self.margin:+.1f} to {self.value + self.margin:+.1f}"

    def told(self, than: str) -> str:
        """Return it as words, "4.2 points lower than ... (95 % interval ...)"."""
        points = f"{abs(self.value):.1f} points {'higher' if self.value >= 0 else 'lower'} than {than}"
        if self.seeds == 1:
            return f"{points} (one seed, which says nothing about others)"
        doubt = "" if self.significant else ": not significant with these seeds"
        return f"{points} (95 % interval {self.interval}, {self.seeds} seeds{doubt})"


def differences(rows: Sequence[Row]) -> list[Difference]:
    """Return what the barrier and training without it change, at the first F of each execution.

    For every execution without the barrier: what the network trained layered loses in it, and what every other training
    wins there; then what these lose with the barrier.
    """
    trained = dict.fromkeys(row.case.training for row in rows if row.case.training != "layered")
    layered = Condition("layered", None, "quiescent")
    found = []
    for condition in _main_conditions(rows):
        found.append(_difference(rows, "layered", condition, layered))
        found += [_difference(rows, training, condition, condition) for training in trained]
    found += [_difference(rows, training, layered, layered) for training in trained]
    return [difference for difference in found if difference is not None]


def headline(rows: Sequence[Row]) -> str:
    """Return one sentence about the first execution without the barrier; "" if nothing can be compared."""
    main = next(iter(_main_conditions(rows)), None)
    if main is None:
        return ""
    trained = list(dict.fromkeys(row.case.training for row in rows if row.case.training != "layered"))
    rule = main.execution if main.execution in trained else next(iter(trained), "")
    layered = Condition("layered", None, "quiescent")
    breaks = _difference(rows, "layered", main, layered)
    mends = _difference(rows, rule, main, main)
    parts = []
    if breaks:
        parts.append(f"the accuracy of the network trained layered is {breaks.told('with it')}")
    if mends:
        parts.append(f"trained {rule}, it is {mends.told('trained layered')}")
    return f"Without the barrier ({_named(main)}), {'; '.join(parts)}." if parts else ""


def _named(condition: Condition) -> str:
    stop = "" if condition.stop == "quiescent" else f", stop {condition.stop}"
    size = "" if condition.size == "-" else f", F = {condition.size}"
    return f"{condition.execution}{size}{stop}"


def _main_conditions(rows: Sequence[Row]) -> list[Condition]:
    """Return the executions without the barrier, at their first F, without early stops."""
    wanted = [c for c in dict.fromkeys(row.condition for row in rows) if c.execution != "layered"]
    first: dict[str, str] = {}
    for condition in wanted:
        first.setdefault(condition.execution, condition.size)
    return [c for c in wanted if c.size == first[c.execution] and not c.stop.startswith("after")]


def _difference(
    rows: Sequence[Row], training: str, condition: Condition, other: Condition
) -> Difference | None:
    """Return a training in one execution minus the layered training in another; None where they share no seed."""
    one, two = _accuracies(rows, training, condition), _accuracies(rows, "layered", other)
    values = [100 * (one[seed] - two[seed]) for seed in one if seed in two]
    if not values:
        return None
    count = len(values)
    margin = stdtrit(count - 1, 0.975) * stdev(values) / math.sqrt(count) if count > 1 else math.nan
    against = "trained layered" if condition == other else f"run {_named(other)}"
    return Difference(training, _named(condition), against, mean(values), float(margin), count)


def _accuracies(
    rows: Sequence[Row], training: str, condition: Condition
) -> dict[tuple[int, int | None], float]:
    return {
        (row.case.seed, row.case.fold): row.measures["accuracy"]
        for row in rows
        if row.case.training == training and row.condition == condition
    }
