"""What a neuron model is (docs/design.md, section 4): what a timestep starts with, when it spikes, and what it keeps.

    begin(state) -> base, gain, threshold       before any current of the timestep
    spike when base + gain * I passes threshold       I: the current that has arrived so far
    end(state, outcome) -> state                after the timestep: delayed resets, second states, adaptation

`begin` and `end` are plain torch, differentiable, elementwise over samples and neurons; time is autograd through them.
Engines (`snn_async.engines`) know nothing else of a neuron than the three values, `reset` and `fire`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from snn_async.graph import Population

Refractory = Literal["discard", "integrate", "off"]
REFRACTORY_MODES: tuple[Refractory, ...] = ("discard", "integrate", "off")

# Each (B, size), in unit order (`snn_async.graph.grids`). The first is the membrane potential, as the framework has it.
State = tuple[Tensor, ...]


class Charge(NamedTuple):
    """What a timestep starts with, each (B, size) or broadcasting to it."""

    base: Tensor  # potential before any current
    gain: Tensor  # potential per unit of current
    threshold: Tensor


class Outcome(NamedTuple):
    """What a timestep's events did to a population, each (B, size), differentiable."""

    spikes: Tensor  # sum of the spikes' values: how many there were, where spikes are binary
    current: Tensor  # what arrived and was not ignored by a refractory neuron
    potential: Tensor  # base + gain * current, with what spikes did at once (`Neuron.reset`)


@dataclass(frozen=True)
class Neuron(ABC):
    """The neuron model of one population.

    Attributes:
        module: the source model's own module; its parameters are read at every run.
        surrogate: maps potential - threshold to a spike's value, with the surrogate gradient; elementwise, any shape.
        inclusive: fires at potential == threshold (SpikingJelly) rather than only above it (snnTorch).
        reset: what a spike does to the potential at once: "subtract" the threshold, set to "value", or "none"
            (what is left to `end`). It matters within a timestep to a neuron that keeps later currents or spikes again.
        reset_value: the value of reset "value".
        detach_reset: the gradient does not pass through `reset`.
        binary: spikes have value 1; else the value is `surrogate(potential - threshold)` where that is not 0.
        spiking: False for a readout that only integrates.
        analog: sends its potential, one value per timestep, when nothing upstream can change any more; `Outcome.spikes`
            is that. `spiking` and `binary` are False then.
        repeats: may spike several times in a timestep, because `reset` is all that a spike does to it at once.
        refractory, refractory_dropout: the layer's own options; None leaves them to `asynchronize`.
    """

    module: nn.Module
    surrogate: Callable[[Tensor], Tensor]
    inclusive: bool
    reset: Literal["subtract", "value", "none"]
    reset_value: float = 0.0
    detach_reset: bool = False
    binary: bool = True
    spiking: bool = True
    analog: bool = False
    repeats: bool = True
    refractory: Refractory | None = None
    refractory_dropout: float | None = None

    @abstractmethod
    def read(self, population: "Population", like: Tensor) -> Any:
        """Return the live, differentiable parameters, with the dtype and device of `like`; once per run.

        Raises:
            UnsupportedModelError: for values that cannot be run.
        """

    @abstractmethod
    def rest(self, live: Any, samples: int, like: Tensor) -> State:
        """Return the state before the first timestep; `live` is what `read` returned."""

    def started(self, live: Any, given: State, rest: State) -> State:
        """Return the state before the first timestep where the model gives the first parts of it."""
        return (*given, *rest[len(given) :])

    @abstractmethod
    def begin(self, live: Any, state: State) -> Charge:
        """Return what a timestep starts with."""

    def value(self, potential: Tensor, threshold: Tensor) -> Tensor:
        """Return what a spike at these potentials is worth, 0 where there is none; for engines, if not `binary`."""
        return self.surrogate(potential - threshold).to(potential)

    @abstractmethod
    def end(self, live: Any, state: State, outcome: Outcome) -> State:
        """Return the state after a timestep that began with `state`."""

    @abstractmethod
    def describe(self) -> str:
        """Return the dynamics and their live parameters as text."""

    @property
    @abstractmethod
    def default_refractory(self) -> Refractory:
        """The mode under which what a neuron keeps does not depend on the order of its currents."""
