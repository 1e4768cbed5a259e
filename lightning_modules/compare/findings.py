"""What a comparison found: differences of accuracy over the same seeds, with their uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.special import stdtrit

from .plan import Condition
from .results import Row

ENOUGH = 3  # seeds for an interval: Student's t of two is so wide that it says nothing
FEW = {
    1: " (one seed, which says nothing about others)",
    2: " (2 seeds: too few for an interval that means anything)",
}


@dataclass(frozen=True)
class Difference:
    """Accuracy of one cell minus that of another, in points, paired by seed and fold.

    Attributes:
        trained, run: the one cell in words.
        against: the other one, where it differs.
        value: mean over seeds.
        margin: half the width of the 95 % interval of Student's t; NaN for fewer than `ENOUGH` seeds.
        seeds: how many.
    """

    trained: str
    run: str
    against: str
    value: float
    margin: float
    seeds: int

    @property
    def measurable(self) -> bool:
        """Whether there are seeds enough for an interval."""
        return self.seeds >= ENOUGH

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside the interval."""
        return abs(self.value) > self.margin

    @property
    def interval(self) -> str:
        """The interval as text."""
        return f"{self.value - self.margin:+.1f} to {self.value + self.margin:+.1f}"

    def told(self, than: str) -> str:
        """Return it as words, "4.2 points lower than ...", with " (95 % interval ...)" where it has one."""
        points = f"{abs(self.value):.1f} points {'higher' if self.value >= 0 else 'lower'} than {than}"
        if not self.measurable:
            return points
        doubt = "" if self.significant else ": not significant with these seeds"
        return f"{points} (95 % interval {self.interval}, {self.seeds} seeds{doubt})"


def differences(rows: Sequence[Row], trained_size: str = "") -> list[Difference]:
    """Return what the barrier and training without it change, at one F of each execution.

    For every execution without the barrier: what the network trained layered loses in it, and what every other training
    wins there; then what these lose with the barrier.

    Args:
        trained_size: F of unlayered training, as in `Condition.size`; where it was not evaluated the first F counts.
    """
    trained = dict.fromkeys(row.case.training for row in rows if row.case.training != "layered")
    layered = Condition("layered", None, "quiescent")
    found = []
    for condition in _main_conditions(rows, trained_size):
        found.append(_difference(rows, "layered", condition, layered))
        found += [_difference(rows, training, condition, condition) for training in trained]
    found += [_difference(rows, training, layered, layered) for training in trained]
    return [difference for difference in found if difference is not None]


def headline(rows: Sequence[Row], trained_size: str = "") -> str:
    """Return a sentence about each training without the barrier, run as it was trained; "" if there is none to compare.

    Where no execution is one of the trainings', the sentence is about the first execution.
    """
    mains: dict[str, Condition] = {}
    for condition in _main_conditions(rows, trained_size):
        mains.setdefault(condition.execution, condition)
    trained = {row.case.training for row in rows}
    own = [condition for condition in mains.values() if condition.execution in trained]
    told = [_told(rows, condition) for condition in own or list(mains.values())[:1]]
    seeds = len({(row.case.seed, row.case.fold) for row in rows})
    sentences = [f"Without the barrier ({name}), {'; '.join(parts)}" for name, parts in told if parts]
    return f"{'. '.join(sentences)}{FEW.get(seeds, '')}." if sentences else ""


def _told(rows: Sequence[Row], condition: Condition) -> tuple[str, list[str]]:
    """Return in words an execution, and what it costs the layered training and wins the one of its own name."""
    breaks = _difference(rows, "layered", condition, Condition("layered", None, "quiescent"))
    mends = _difference(rows, condition.execution, condition, condition)
    parts = []
    if breaks:
        parts.append(f"the accuracy of the network trained layered is {breaks.told('with it')}")
    if mends:
        parts.append(f"trained {condition.execution}, it is {mends.told('trained layered')}")
    return _named(condition), parts


def _named(condition: Condition) -> str:
    stop = "" if condition.stop == "quiescent" else f", stop {condition.stop}"
    size = "" if condition.size == "-" else f", F = {condition.size}"
    return f"{condition.execution}{size}{stop}"


def _main_conditions(rows: Sequence[Row], trained_size: str) -> list[Condition]:
    """Return the executions without the barrier, at the F trained with or else the first, without early stops."""
    every = dict.fromkeys(row.condition for row in rows)
    wanted = [c for c in every if c.execution != "layered" and not c.stop.startswith("after")]
    sizes = [c.size for c in wanted]
    return [c for c in wanted if c.size == (trained_size if trained_size in sizes else sizes[0])]


def _difference(
    rows: Sequence[Row], training: str, condition: Condition, other: Condition
) -> Difference | None:
    """Return a training in one execution minus the layered training in another; None where they share no seed."""
    one, two = _accuracies(rows, training, condition), _accuracies(rows, "layered", other)
    values = [100 * (one[seed] - two[seed]) for seed in one if seed in two]
    if not values:
        return None
    count = len(values)
    margin = stdtrit(count - 1, 0.975) * stdev(values) / math.sqrt(count) if count >= ENOUGH else math.nan
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
