"""Which models are trained and how each is evaluated: the rows of a comparison, before they exist."""

from dataclasses import dataclass
from itertools import product

from .settings import CompareSettings, Method


@dataclass(frozen=True)
class Case:
    """One trained model: a training method with a seed and, in cross-validation, a fold."""

    training: Method
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        """Names the checkpoint file."""
        fold = "" if self.fold is None else f"_fold{self.fold}"
        return f"{self.training}{fold}_seed{self.seed}"


@dataclass(frozen=True)
class Condition:
    """One execution under which a model is evaluated; layered has no forward group size."""

    execution: Method
    forward_group_size: int | None
    stop: str

    @property
    def size(self) -> str:
        """F as results name it: a number, "all", or "-" for layered execution."""
        if self.execution == "layered":
            return "-"
        return "all" if self.forward_group_size is None else str(self.forward_group_size)


def cases(settings: CompareSettings) -> list[Case]:
    """Return all models, seed by seed, so that an interrupted comparison has complete seeds."""
    folds = [None] * len(settings.seeds) if settings.folds is None else range(settings.folds)
    runs = zip(settings.seeds, folds, strict=True)
    return [Case(method, seed, fold) for seed, fold in runs for method in settings.training.methods]


def conditions(settings: CompareSettings) -> list[Condition]:
    """Return all executions of the evaluation, without repetition."""
    evaluation = settings.evaluation
    found: dict[Condition, None] = {}
    for execution in evaluation.executions:
        if execution == "layered":
            found[Condition("layered", None, "quiescent")] = None
            continue
        for size, stop in product(evaluation.forward_group_sizes, evaluation.stops):
            found[Condition(execution, size, stop)] = None
        for steps in evaluation.steps:
            found[Condition(execution, evaluation.forward_group_sizes[0], f"after({steps})")] = None
    return list(found)
