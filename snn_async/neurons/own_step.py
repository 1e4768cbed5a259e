"""The own step of a neuron class: run on a copy of its module, with another function in its surrogate function's place.

So a class is read, and its states are carried on, without a second implementation of its rules. What a class needs to
be run this way (how its states go in and come out) is a subclass of `OwnStep`, in `snn_async.frameworks`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

States = tuple[Tensor, ...]
Answer = Callable[[int, Tensor], Tensor]  # to call number k, with what it is asked


class StandIn:
    """Stands in for a surrogate function during one step: notes what it is asked, answers what it is told to."""

    spiking = (
        False  # of a function that also counts in evaluation (SpikingJelly's ComplementaryLIFNode asks this)
    )

    def __init__(self, answer: Answer) -> None:
        self.asked: list[Tensor] = []
        self._answer = answer

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x)
        return self._answer(len(self.asked) - 1, x)


class Done(NamedTuple):
    """One step: what the surrogate function was asked, what the class sends, and its states afterwards."""

    asked: list[Tensor]
    sent: Tensor
    states: States


@dataclass(frozen=True)
class OwnStep(ABC):
    """How to run one timestep of a class. Tensors are (B, *shape), as the class has them.

    Attributes:
        names: of the states, the membrane potential first.
        surrogate: the attribute that holds the surrogate function.
    """

    names: tuple[str, ...]
    surrogate: ClassVar[str]
    changing: ClassVar[frozenset[str]] = frozenset()  # attributes that say nothing of how the class works

    def copy(self, module: nn.Module, charging: bool = False) -> nn.Module:
        """Return a copy of `module` to run; `charging`: only for what the surrogate function is asked."""
        return twin(module)

    @abstractmethod
    def rest(self, own: Any, like: Tensor) -> States:
        """Return the states of a copy before the first timestep."""

    @abstractmethod
    def call(self, own: Any, current: Tensor, states: States | None) -> tuple[Any, States]:
        """Run a copy for one timestep; return what it sends, and its states afterwards.

        Args:
            states: None to start as the class itself starts, if `starts`.
        """

    def starts(self, own: Any) -> bool:
        """Whether `rest` is a guess, which a copy can be asked to show by a timestep without states."""
        return False

    @abstractmethod
    def threshold(self, own: Any, like: Tensor) -> Any:
        """Return what the class calls its threshold, which gives potentials their scale; 0 without one."""

    def start(self, module: nn.Module) -> None:  # noqa: B027
        """Do to the module itself what a call of it does before its first timestep.

        Raises:
            UnsupportedModelError: if it is no longer what the step was made for.
        """

    def run(self, own: Any, current: Tensor, states: States | None, answer: Answer) -> Done:
        """Run a copy for one timestep with `answer` in the place of its surrogate function."""
        stand_in = StandIn(answer)
        own._modules.pop(self.surrogate, None)
        own.__dict__[self.surrogate] = stand_in
        sent, after = self.call(own, current, states)
        return Done(stand_in.asked, sent, after)


def twin(module: nn.Module) -> nn.Module:
    """Return a copy that shares the parameters of `module` but no table, buffer or method bound to it."""
    own: Any = object.__new__(type(module))
    own.__dict__.update(
        {name: copy.copy(v) if isinstance(v, dict | list | set) else v for name, v in vars(module).items()}
    )
    for name, value in vars(own).items():
        if isinstance(value, MethodType) and value.__self__ is module:  # snnTorch's state_function
            own.__dict__[name] = MethodType(value.__func__, own)
    for name, buffer in own._buffers.items():
        own._buffers[name] = None if buffer is None else buffer.clone()
    for name, child in own._modules.items():
        own._modules[name] = None if child is None else twin(child)
    return own


def spread(value: Any, like: Tensor) -> Tensor:
    """Return a value that broadcasts to `like` with its shape, dtype and device."""
    value = value if isinstance(value, Tensor) else like.new_tensor(value)
    return value.to(like).expand(like.shape)
