"""What a batch did in a timestep, as `replay` reads it; the lists of an event log are made when they are asked for."""

from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snn_async.engines.contract import NEVER, NOT_YET
from snn_async.engines.event_log import Evaluations, EventLog
from snn_async.engines.torch.structure import Structure
from snn_async.engines.torch.table import Places, Table

NOWHERE = -2  # the forward step of a sample that takes no part


class Iteration(NamedTuple):
    """A forward step of some samples: its number (B, 1), int32, `NOWHERE` for the others, and who delivered in it."""

    step: Tensor
    nodes: frozenset[int]


class Relay(NamedTuple):
    """What a junction passed on at once, (B, U): which units did, what, and the cells that hold the maxima then."""

    iteration: int
    passed: Tensor
    amounts: Tensor
    holders: Tensor | None


class TorchLog(EventLog):
    """The event log of one timestep.

    Attributes:
        table: events and decisive evaluations; one without a spike is in the plane after the neuron's last spike.
        iterations, relays, arrived: see `ForwardSteps`; `arrived` is None but behind a barrier.
        able, currents, potentials, cells: (B, ...) at the end of the timestep.
        places: of what is left over.
    """

    structure: Structure
    table: Table
    iterations: list[Iteration]
    relays: dict[int, list[Relay]]
    arrived: dict[int, Tensor] | None
    able: Tensor
    currents: Tensor
    potentials: Tensor
    cells: Tensor
    places: Places | None

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        if name not in {field.name for field in fields(EventLog)}:
            raise AttributeError(name)
        self.__dict__.update(self._listed())
        return self.__dict__[name]

    @property
    def evaluations(self) -> Evaluations:
        decided = torch.stack([plane.potential[:, self.neurons] for plane in self.table.planes])
        nothing = self.turn_step[:0, 0]
        return Evaluations(nothing, decided.new_zeros(0), decided, nothing)

    @property
    def neurons(self) -> slice:
        """The table's columns of all neurons."""
        layout = self.structure.layout
        return self.table.here(slice(layout.inputs, layout.inputs + layout.neurons))

    def silent(self, m: int) -> Tensor:
        """Return whose m-th decisive evaluation, (B, N), was the last one and gave no spike."""
        plane = self.table.planes[m]
        return self.able & (plane.step[:, self.neurons] != NOT_YET) & (plane.amplitude[:, self.neurons] == 0)

    # -- lists -----------------------------------------------------------------------------------------

    def _listed(self) -> dict[str, Tensor]:
        """Return the lists of `EventLog`."""
        table, samples = self.table, torch.arange(len(self.able) + 1, device=self.able.device)
        rows = {name: torch.cat(parts) for name, parts in self._rows().items()}
        order = rows["rank"].argsort(stable=True)
        for key in ("turn", "step", "own", "sample"):
            values = rows[key] if key in ("own", "sample") else rows[key] * rows["own"]
            order = order[values[order].argsort(stable=True)]
        rows = {name: column[order] for name, column in rows.items()}
        offsets = torch.searchsorted(rows["sample"], samples)
        carried = torch.searchsorted(rows["sample"][rows["own"] == 0], samples).diff()
        left = offsets[:0]
        if self.places is not None:
            place, at = rows["place"].sort()
            left = at[torch.searchsorted(place, self._place(*self.places))]
        silent_step = self.turn_step.new_full(self.able.shape, NOT_YET)
        silent_potential = torch.zeros_like(self.currents)
        for m, plane in enumerate(table.planes):
            silent, here = self.silent(m), self.neurons
            silent_step = torch.where(silent, plane.step[:, here].long(), silent_step)
            silent_potential = torch.where(silent, plane.potential[:, here], silent_potential)
        names = ("source", "amplitude", "step", "potential", "current", "cell")
        return {name: rows[name] for name in names} | {
            "offsets": offsets,
            "carried": carried,
            "left": left,
            "silent_step": silent_step,
            "silent_potential": silent_potential,
            **self._deliveries(rows),
        }

    def _place(self, m: "Tensor | int", sample: Tensor, column: Tensor) -> Tensor:
        return (m * len(self.able) + sample) * (self.table.end - self.table.first) + column

    def _rows(self) -> dict[str, list[Tensor]]:
        """Return the emissions, in any order; of one sample they come by own, step, turn and rank."""
        table, layout, first = self.table, self.structure.layout, self.structure.layout.inputs
        planes, found = list(table.every()), []
        for m, plane in enumerate(planes):
            sample, column = (plane.amplitude != 0).nonzero().unbind(1)
            if m < len(table.carried):
                index = (table.row[2] == m).nonzero()[:, 0]  # in the order in which they were given
                sample, column = table.row[0][index], table.row[1][index]
            source, own = column + table.first, torch.full_like(sample, m >= len(table.carried))
            neuron, nothing = source - first, torch.zeros_like(plane.amplitude[sample, column])
            # within a step, queued inputs come first, then what passes on at once, then neurons, then what waits
            turn = 2 * (neuron >= 0) + 1 * (neuron >= layout.neurons)
            currents = self.currents if plane.current is None else plane.current
            current = currents[sample, neuron.clamp(0, layout.neurons - 1)]
            found.append(
                dict(
                    sample=sample,
                    source=source,
                    amplitude=plane.amplitude[sample, column],
                    step=plane.step[sample, column].long(),
                    potential=plane.potential[sample, column],
                    current=torch.where((turn == 2) & (own == 1), current, nothing),
                    cell=torch.full_like(sample, NOT_YET),
                    delivered=plane.delivered[sample, column].long(),
                    place=self._place(m, sample, column),
                    own=own,
                    turn=turn,
                    rank=source if m >= len(table.carried) else index,
                )
            )
        for j, relay in ((j, relay) for j, relays in self.relays.items() for relay in relays):
            sample, unit = relay.passed.nonzero().unbind(1)
            step = self.iterations[relay.iteration].step[sample, 0].long()
            amplitude, one = relay.amounts[sample, unit], torch.ones_like(sample)
            found.append(
                dict(
                    sample=sample,
                    source=unit + self.structure.sources(j).start,
                    amplitude=amplitude,
                    step=step,
                    potential=amplitude,
                    current=torch.zeros_like(amplitude),
                    cell=-one if relay.holders is None else relay.holders[sample, unit],
                    delivered=step,
                    place=-one,
                    own=one,
                    turn=one,
                    rank=unit + self.structure.sources(j).start,
                )
            )
        return {name: [part[name] for part in found] for name in found[0]}

    def _deliveries(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the deliveries of rows of the log."""
        found = [torch.zeros(0, 4, dtype=torch.int64, device=self.able.device)]
        for k in range(len(self.structure.layout.source)):
            if k in self.structure.delayed:
                continue
            sources = self.structure.sources_of(k)
            step = rows["delivered"]
            if self.arrived is not None:
                step = self.arrived[k][rows["sample"], 0].long()
            here = (rows["source"] >= sources.start) & (rows["source"] < sources.stop) & (step < NEVER)
            row = here.nonzero()[:, 0]
            found.append(torch.stack((rows["sample"][row], row, torch.full_like(row, k), step[row]), 1))
        listed = torch.cat(found)
        order = listed[:, 3].argsort(stable=True)
        order = order[listed[order, 0].argsort(stable=True)]
        _, event, projection, step = listed[order].unbind(1)
        return {"event": event, "projection": projection, "step_of_delivery": step}
