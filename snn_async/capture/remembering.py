"""Values that a model carries from one timestep to the next outside of neurons, such as a synaptic current that decays.

Within a timestep they are inputs; after it, the model's own operators make the next ones of the spikes that there were.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snn_async.capture.expression import Expression
from snn_async.graph.grids import Grid, from_units, to_units
from snn_async.graph.live import Found, Live


@dataclass(frozen=True)
class Part:
    """What one source of a memory's expression is: columns of what a timestep had, in unit order of a grid.

    Attributes:
        of: "inputs", "spikes" or "last spikes".
    """

    of: str
    columns: slice
    grid: Grid


@dataclass(frozen=True)
class Memory:
    """One value that is carried on.

    Attributes:
        grid: of its units, which are among the inputs.
        expression: the new value, given the rows of `parts` and the values of `live`.
    """

    grid: Grid
    expression: Expression
    parts: tuple[Part, ...]
    live: tuple[Live, ...]

    def after(self, found: Found, inputs: Tensor, spikes: Tensor, last_spikes: Tensor) -> Tensor:
        """Return the value (B, units) after a timestep with inputs (B, S) and spikes (B, N)."""
        had = {"inputs": inputs, "spikes": spikes, "last spikes": last_spikes}
        rows = [from_units(had[part.of][:, part.columns], part.grid) for part in self.parts]
        return to_units(self.expression(torch.cat(rows, 1), [one(found) for one in self.live]), self.grid)


@dataclass(frozen=True)
class Memories:
    """All that is carried on, one after another at the end of the inputs; it is 0 before the first timestep."""

    parts: Sequence[Memory]
    found: tuple[Found, ...]

    def after(self, t: int, inputs: Tensor, spikes: Tensor, last_spikes: Tensor) -> Tensor:
        """Return the values (B, L) after timestep t of a run."""
        found = self.found[t if len(self.found) > 1 else 0]
        return torch.cat([one.after(found, inputs, spikes, last_spikes) for one in self.parts], 1)
