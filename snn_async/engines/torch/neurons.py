"""The neurons of all populations as tensors, one value per neuron."""

from collections.abc import Callable

import torch
from torch import Tensor

from snn_async.engines.contract import Execution, Values
from snn_async.graph import Graph
from snn_async.neurons import Neuron


class Traits:
    """What is fixed about each neuron during a run; every attribute is (N,).

    Attributes:
        spiking, inclusive: see `Neuron`.
        integrating, discarding, has_refractoriness: the refractory mode.
        refractory_dropout: float64 probabilities of staying able to spike, None if all are 0.
    """

    def __init__(self, graph: Graph, execution: Execution, values: Values) -> None:
        device = values.x.device
        sizes = torch.tensor([p.size for p in graph.populations])

        def spread(per_population: list[bool] | list[float], dtype: torch.dtype = torch.bool) -> Tensor:
            return torch.tensor(per_population, dtype=dtype).repeat_interleave(sizes).to(device)

        def where(condition: Callable[[Neuron], bool]) -> Tensor:
            return spread([condition(p.neuron) for p in graph.populations])

        self.values = values
        self.spiking, self.inclusive = where(lambda n: n.spiking), where(lambda n: n.inclusive)
        self.swallowing = where(lambda n: n.swallow_input)
        self.retesting = where(lambda n: n.retest_residual and n.spiking)
        self.to_value_later = where(lambda n: n.delayed_reset and n.reset == "value")
        self.subtracting_later = where(lambda n: n.delayed_reset and n.reset == "subtract")
        self.to_value_now = where(lambda n: not n.delayed_reset and n.reset == "value")
        self.subtracting_now = where(lambda n: not n.delayed_reset and n.reset == "subtract")
        self.reset_value = spread([p.neuron.reset_value for p in graph.populations], values.x.dtype)
        modes = execution.refractory
        self.integrating = spread([mode == "integrate" for mode in modes])
        self.discarding = spread([mode == "discard" for mode in modes])
        self.has_refractoriness = spread([mode != "off" for mode in modes])
        rates = spread(list(execution.refractory_dropout), torch.float64)
        self.refractory_dropout = rates if any(execution.refractory_dropout) else None

    def begin(self, potential: Tensor, spikes: Tensor, tested: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Leak and delayed reset at the start of a timestep.

        Args:
            potential: (B, N) as kept by the timestep before.
            spikes: (B, N) its spike counts.
            tested: (B, N) the potentials that are compared for the residual: `potential`, or what it was in the
                simulation.

        Returns:
            The base (B, N), the residual (B, N) to subtract from it during the timestep, and who ignores every
            current of it (B, N).
        """
        fired, values = spikes > 0, self.values
        kept = torch.where(fired & self.to_value_later, self.reset_value, potential)
        base = values.leak * kept + values.offset
        base = torch.where(self.subtracting_later, base - spikes.to(base) * values.threshold, base)
        swallowed = fired & self.swallowing
        base = torch.where(swallowed, self.reset_value, base)
        residual = torch.where(self.retesting & self.above(tested), values.threshold, 0.0)
        return base, residual, swallowed

    def above(self, potential: Tensor) -> Tensor:
        """Return who would fire at potentials (B, N)."""
        threshold = self.values.threshold
        return torch.where(self.inclusive, potential >= threshold, potential > threshold)

    def reset(self, potential: Tensor, fires: Tensor) -> Tensor:
        """Return the potentials (B, N) after the resets that act at once."""
        potential = torch.where(fires & self.subtracting_now, potential - self.values.threshold, potential)
        return torch.where(fires & self.to_value_now, self.reset_value, potential)
