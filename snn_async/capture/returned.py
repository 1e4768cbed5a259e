"""What a forward returns: a neuron's spikes or potentials of every step, or a current that no neuron follows."""

from typing import Any

from snn_async.capture.expressions import (
    Argument,
    Expression,
    Fired,
    Potential,
    Recording,
    describe_expression,
    parts_of,
    relative,
)
from snn_async.capture.interpreting import Held, Interpretation
from snn_async.errors import UnsupportedModelError


class Returned:
    """One value that forward returns: a neuron's spikes or potentials, or a current without a neuron.

    Attributes:
        neuron: whose spikes or potentials it holds, if it does.
        spikes: the same, if they are spikes.
        readout: the current of one step, if it is one.
    """

    def __init__(self, value: Any, traced: Interpretation) -> None:
        self.neuron: str | None = None
        self.spikes: str | None = None
        self.readout: Expression | None = None
        items = value.values if isinstance(value, Recording) else (value,)
        steps = max(map(len, traced.calls.values()))
        if isinstance(value, Recording) and len(items) != steps:
            raise UnsupportedModelError(
                f"a stacked output must hold one neuron's spikes, or its potential, of every step in order; it holds "
                f"{len(items)} of {steps}"
            )
        first = 0 if isinstance(value, Recording) else steps - 1
        found = {self._item(item, first + k) for k, item in enumerate(items)}
        if len(found) > 1:
            raise UnsupportedModelError(
                "a stacked output must hold one neuron's spikes, or its potential, of every step in order; it holds "
                "different ones"
            )

    def _item(self, item: Any, step: int) -> object:
        if item is None or isinstance(item, Argument | Held):
            return None
        if isinstance(item, Fired | Potential):
            self.neuron = item.neuron
            self.spikes = item.neuron if isinstance(item, Fired) else None
            return (type(item), item.neuron, item.step - step)
        if not isinstance(item, Expression):
            raise UnsupportedModelError(
                f"forward returns a {type(item).__name__.lower()}; return the output neuron's spikes or potential"
            )
        item = relative(item, step)
        sources = {part.step for part in parts_of(item) if isinstance(part, Fired)}
        sources |= {part.path[0] for part in parts_of(item) if isinstance(part, Argument) and part.path}  # type: ignore[misc]
        if sources - {0}:
            raise UnsupportedModelError(
                f"forward returns {describe_expression(item)}, which joins several timesteps; return every timestep, "
                "and join those of net(x): net(x).sum(0) or net(x).mean(0)"
            )
        self.readout = item
        return item
