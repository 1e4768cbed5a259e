"""What neurons whose equations are written out have in common: live parameters, one value per neuron."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from snn_async.errors import UnsupportedModelError
from snn_async.graph.grids import to_units
from snn_async.neurons.base import Neuron, Refractory

if TYPE_CHECKING:
    from snn_async.graph import Population


@dataclass(frozen=True)
class WrittenNeuron(Neuron):
    """A neuron with parameters that `read` returns as its `parameters` do, but one value per neuron each.

    Attributes:
        parameters: returns the live parameters of `module`, a named tuple; each is a scalar or of the neurons' shape in
            the source model.
    """

    parameters: Callable[[nn.Module], Any] = None  # type: ignore[assignment]

    @property
    def default_refractory(self) -> Refractory:
        return "integrate"

    def read(self, population: "Population", like: Tensor) -> Any:
        values = self.parameters(self.module)
        live = type(values)(*(per_neuron(value.to(like), population) for value in values))
        check_finite(population, **live._asdict())
        return live


def per_neuron(value: Tensor, population: "Population") -> Tensor:
    """Return a parameter as one value per neuron, (size,) in unit order.

    Raises:
        UnsupportedModelError: for a shape that does not broadcast to the neurons'.
    """
    if value.numel() == 1:
        return value.reshape(1).expand(population.size)
    sides = tuple(value.shape)
    while len(sides) > len(population.shape) and sides[0] == 1:
        sides = sides[1:]
    try:
        spread = value.reshape(sides).expand(population.shape)
    except RuntimeError:
        raise UnsupportedModelError(
            f"{population.name!r}: a parameter has shape {tuple(value.shape)} for neurons of shape {population.shape}; "
            "give one value or one per neuron"
        ) from None
    return to_units(spread.reshape(-1), population.grid)


def check_finite(population: "Population", **live: Tensor) -> None:
    """Raise UnsupportedModelError if a live parameter is NaN or infinite."""
    for name, value in live.items():
        if not bool(value.isfinite().all()):
            raise UnsupportedModelError(
                f"{population.name!r}: {name} of its {type(population.neuron.module).__name__} is NaN or infinite; "
                "restore finite values"
            )


def span(value: Tensor) -> str:
    """Return the values that neurons have, as text."""
    low, high = float(value.detach().min()), float(value.detach().max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
