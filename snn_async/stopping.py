"""Stop rules: when a timestep ends (DESIGN section 3). They act per sample."""

import re
from dataclasses import dataclass

from snn_async.errors import OptionError


@dataclass(frozen=True)
class Quiescent:
    """Nothing is pending and no turn that could change anything is still to come."""


@dataclass(frozen=True)
class Output:
    """`extra_steps` forward steps after the first output spike of the timestep."""

    extra_steps: int = 0

    def __post_init__(self) -> None:
        if self.extra_steps < 0:
            raise OptionError(f"output(extra_steps={self.extra_steps}): extra_steps must be at least 0")


@dataclass(frozen=True)
class After:
    """After `steps` forward steps; step 0 counts, so `After(1)` delivers the input only."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"after({self.steps}): a timestep has at least 1 forward step")


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
