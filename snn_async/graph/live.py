"""Live values: read anew in every run, so that gradients reach what they were computed from."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

Found = tuple[Tensor, ...]  # the tensors that were computed for a run


class Live(ABC):
    """Called with what was computed for a run, returns a differentiable tensor."""

    @abstractmethod
    def __call__(self, found: Found) -> Tensor:
        """Return the tensor as it is now."""


@dataclass(frozen=True)
class Held(Live):
    """What a module holds by a name: a parameter or buffer."""

    module: nn.Module
    name: str

    def __call__(self, found: Found) -> Tensor:
        value: Tensor = getattr(self.module, self.name)
        return value


@dataclass(frozen=True)
class Computed(Live):
    """What a run computed."""

    index: int

    def __call__(self, found: Found) -> Tensor:
        return found[self.index]


@dataclass(frozen=True, eq=False)
class Derived(Live):
    """A function of live values."""

    function: Callable[..., Tensor]
    parts: tuple[Live, ...]

    def __call__(self, found: Found) -> Tensor:
        return self.function(*(part(found) for part in self.parts))


def held(module: nn.Module, name: str) -> Held | None:
    """Return what a module holds by a name, None if it has none."""
    return None if getattr(module, name) is None else Held(module, name)
