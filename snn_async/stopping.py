"""Stop rules: when a timestep ends (docs/design.md, section 3). They act per sample."""

import re
from dataclasses import dataclass

from snn_async.errors import OptionError

MOST_STEPS = 2**31 - 1


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Quiescent:
    """Nothing is pending and no turn that could change anything is still to come."""


@dataclass(frozen=True)
class Output:
    """`extra_steps` forward steps after the first output spike of the timestep."""

    extra_steps: int = 0

    def __post_init__(self) -> None:
        if not _whole(self.extra_steps) or not 0 <= self.extra_steps <= MOST_STEPS:
            raise OptionError(
                f"output({self.extra_steps!r}): extra steps are an integer from 0 to {MOST_STEPS}"
            )


@dataclass(frozen=True)
class After:
    """After `steps` forward steps; step 0 counts, so `After(1)` delivers (or, if queued, queues) the input only."""

    steps: int

    def __post_init__(self) -> None:
        if not _whole(self.steps) or not 1 <= self.steps <= MOST_STEPS:
            raise OptionError(
                f"after({self.steps!r}): a timestep has at least 1 and at most {MOST_STEPS} steps"
            )


StopRule = Quiescent | Output | After


def make_stop_rule(stop: str | StopRule) -> StopRule:
    """Return the stop rule for `"quiescent"`, `"output"`, `"output(k)"`, `"after(n)"` or pass a rule through.

    Raises:
        OptionError: for anything else.
    """
    if isinstance(stop, Quiescent | Output | After):
        return stop
    if isinstance(stop, str):
        if stop == "quiescent":
            return Quiescent()
        if match := re.fullmatch(r"output(?:\((\d+)\))?", stop):
            return Output(int(match[1] or 0))
        if match := re.fullmatch(r"after\((\d+)\)", stop):
            return After(int(match[1]))
    raise OptionError(
        f"stop={stop!r} is unknown; choose 'quiescent', 'output', 'output(extra_steps)', 'after(n)' "
        "or a rule from snn_async.stopping"
    )
