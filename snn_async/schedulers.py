"""Schedulers: in which order pending spikes are delivered (docs/design.md, section 3).

A scheduler gives every pending spike a priority; the lowest ones go first, ties are broken by lower
neuron index. The built-in ones are data: every engine knows them. Any other object with a `priorities`
method runs on the torch and reference engines.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from snn_async.errors import OptionError


@dataclass(frozen=True)
class Pending:
    """The pending spikes of one sample, oldest first.

    Attributes:
        index: (P,) position of the emitter, inputs first, then every population in order.
        potential: (P,) float64, membrane potential at the moment of spiking; the amplitude for queued inputs.
        uniform: (P,) float64 in [0, 1), fresh in every forward step, from the counter-based generator.
        timestep, step: (P,) when it was emitted.
    """

    index: NDArray[np.int64]
    potential: NDArray[np.float64]
    uniform: NDArray[np.float64]
    timestep: NDArray[np.int64]
    step: NDArray[np.int64]


@runtime_checkable
class Scheduler(Protocol):
    """Anything that orders pending spikes."""

    def priorities(self, pending: Pending) -> NDArray[np.float64]:
        """Return (P,) priorities: the lowest are delivered first."""
        ...


@dataclass(frozen=True)
class Random:
    """A fresh uniform key per pending spike and forward step (RS in Koopman et al., TMLR 2025)."""

    def priorities(self, pending: Pending) -> NDArray[np.float64]:
        return pending.uniform


def momentum_key(potential: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return potentials rounded to 20 significant bits.

    Sums of the same currents in another order, or in another engine, then order alike and tie by neuron index.
    """
    bits = np.ascontiguousarray(potential, dtype=np.float64).view(np.int64)
    return ((bits + (1 << 32)) & ~((1 << 33) - 1)).view(np.float64)


@dataclass(frozen=True)
class Momentum:
    """Highest membrane potential at the moment of spiking first, plus `noise` * U(0, 1) (MS, ibid.).

    Potentials count as `momentum_key` rounds them.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        number = isinstance(self.noise, int | float) and not isinstance(self.noise, bool)
        if not number or not 0 <= self.noise < float("inf"):
            raise OptionError(f"momentum_noise={self.noise!r} must be a finite number of at least 0")

    def priorities(self, pending: Pending) -> NDArray[np.float64]:
        return -(momentum_key(pending.potential) + self.noise * pending.uniform)


@dataclass(frozen=True)
class Fifo:
    """Oldest spike first."""

    def priorities(self, pending: Pending) -> NDArray[np.float64]:
        order = np.lexsort((pending.step, pending.timestep))
        rank = np.empty(len(order))
        age = np.stack((pending.timestep[order], pending.step[order]), 1)
        rank[order] = np.concatenate(([0], np.cumsum((np.diff(age, axis=0) != 0).any(1))))[: len(order)]
        return rank


@dataclass(frozen=True)
class Layered:
    """The synchronous baseline: populations in topological order, each evaluated once, whatever F."""

    def priorities(self, pending: Pending) -> NDArray[np.float64]:
        return np.zeros(len(pending.index))


SCHEDULERS: dict[str, type] = {"random": Random, "momentum": Momentum, "fifo": Fifo, "layered": Layered}


def make_scheduler(scheduler: "str | Scheduler", momentum_noise: float = 0.0) -> Scheduler:
    """Return the scheduler for a name or pass an object with the interface through.

    Raises:
        OptionError: for an unknown name, an object without `priorities`, or noise where none is used.
    """
    if isinstance(scheduler, str):
        if scheduler not in SCHEDULERS:
            raise OptionError(f"scheduler={scheduler!r} is unknown; choose one of {sorted(SCHEDULERS)}")
        if scheduler == "momentum":
            return Momentum(momentum_noise)
        if momentum_noise:
            raise OptionError(
                f"momentum_noise={momentum_noise} has no effect with scheduler={scheduler!r}; "
                "leave it out or use scheduler='momentum'"
            )
        return SCHEDULERS[scheduler]()
    method = getattr(scheduler, "priorities", None)
    if isinstance(scheduler, type) or not callable(method):
        raise OptionError(
            f"scheduler={scheduler!r} is neither one of {sorted(SCHEDULERS)} nor an object with a "
            "`priorities(pending)` method; see snn_async.schedulers.Scheduler"
        )
    if momentum_noise:
        raise OptionError(
            "momentum_noise goes with scheduler='momentum'; give noise to your scheduler itself"
        )
    return scheduler


def check_priorities(scheduler: Scheduler, pending: Pending) -> NDArray[np.float64]:
    """Return the scheduler's priorities (P,).

    Raises:
        OptionError: if they are not one real number per pending spike.
    """
    given = scheduler.priorities(pending)
    try:
        priorities = np.asarray(given)
        real = priorities.dtype.kind in "iuf" and not np.isnan(priorities).any()
    except ValueError:
        real = False
    if not real or priorities.shape != pending.index.shape:
        raise OptionError(
            f"{type(scheduler).__name__}.priorities returned {given!r} for {len(pending.index)} pending spikes; "
            "it must return one real number for each"
        )
    return priorities.astype(np.float64)
