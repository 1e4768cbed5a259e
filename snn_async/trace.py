"""What one sample did, forward step by forward step: the event log as a table (docs/design.md, sections 2, 3 and 7).

What sums and max pooling pass on within a forward step is left out; the neurons that it reached are those evaluated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Literal

from torch import Tensor

from snn_async.engines.contract import Execution, Simulation
from snn_async.graph import Graph, Junction
from snn_async.learning.rule import Job, Trajectory

SHOWN = 8  # entries of one population in one cell of the text
HEADER = ("t", "step", "evaluated", "delivered", "fired", "pending")


@dataclass(frozen=True)
class TraceEvent:
    """A spike, an input value, or a value that a join (AND, IAND) released: where it comes from and when.

    Attributes:
        population: name, or the input's ("input"), or the join's.
        index: neuron, feature or unit within it, numbered as `snn_async.graph.grids` says.
        amplitude: 1 for a spike, the value for an input or join.
        timestep, step: of emission.
    """

    population: str
    index: int
    amplitude: float
    timestep: int
    step: int


@dataclass(frozen=True)
class TraceRow:
    """One forward step of one timestep.

    Attributes:
        timestep, step: which one; both count from 0.
        evaluated: populations whose neurons were evaluated: those that got current, and those of `turns`.
        turns: populations whose turn it was: bias added, every neuron evaluated.
        delivered: events whose currents arrived.
        fired: spikes emitted, and what joins released after the step.
        pending: events still waiting after the step, oldest first.
        leftover: what became of `pending` where the timestep ended with this step: "dropped", "carried", else "".
    """

    timestep: int
    step: int
    evaluated: tuple[str, ...]
    turns: tuple[str, ...]
    delivered: tuple[TraceEvent, ...]
    fired: tuple[TraceEvent, ...]
    pending: tuple[TraceEvent, ...]
    leftover: Literal["", "dropped", "carried"] = ""


@dataclass(frozen=True)
class Trace:
    """One sample's run; `print(trace)` shows it as a table, `rows` are for programs.

    Attributes:
        rows: one per forward step, in order.
        heading: which sample, and how it was run.
    """

    rows: list[TraceRow]
    heading: str

    def __str__(self) -> str:
        cells = [HEADER, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(_align(i, c, w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in cells
        ]
        return "\n".join(
            [self.heading, *(line.rstrip() for line in lines), "* its turn: bias added, all evaluated"]
        )


def trace_of(job: Job, trajectory: Trajectory, sample: int) -> Trace:
    """Return what a run of one sample did.

    Args:
        job: of x (T, 1, S), with logs kept.
        sample: its place in the batch, for the heading.
    """
    rows: list[TraceRow] = []
    carried: list[TraceEvent] = []
    for t, simulation in enumerate(trajectory.simulations):
        timestep = _Timestep(job.graph, job.execution, simulation, job.x[t, 0], t, carried)
        rows += timestep.rows()
        carried = timestep.left
    return Trace(rows, _heading(job, sample))


def describe_execution(execution: Execution) -> str:
    """Return scheduler and forward group size as text."""
    if execution.layered:
        return "layered"
    size = "all" if execution.forward_group_size is None else execution.forward_group_size
    return f"{_option(execution.scheduler)}, F = {size}"


def _heading(job: Job, sample: int) -> str:
    execution = job.execution
    parts = [describe_execution(execution), f"stop {_option(execution.stop)}"]
    if not execution.layered:
        parts += [f"leftover {execution.leftover}", f"input {execution.input}"]
    parts.append(f"engine {job.engine.name}")
    return f"sample {sample} (id {int(job.sample_ids[0])}, seed {job.seed}): {', '.join(parts)}"


def _option(option: object) -> str:
    """Return a scheduler or stop rule as one would write it: `momentum`, `after(3)`."""
    values = [str(v) for v in vars(option).values() if v] if is_dataclass(option) else []
    return type(option).__name__.lower() + (f"({', '.join(values)})" if values else "")


class _Timestep:
    """One timestep of one sample, from its event log.

    Attributes:
        left: the events carried over to the next one.
    """

    def __init__(
        self,
        graph: Graph,
        execution: Execution,
        simulation: Simulation,
        x: Tensor,
        t: int,
        carried: list[TraceEvent],
    ) -> None:
        log = simulation.log
        assert log is not None
        self.graph, self.execution, self.t = graph, execution, t
        self.count = int(simulation.counts.forward_steps[0])
        columns = zip(log.source.tolist(), log.amplitude.tolist(), log.step.tolist(), strict=True)
        emitted = [TraceEvent(*_place(graph, s), a, t, step) for s, a, step in columns]
        self.carried = len(carried)
        self.events = [*carried, *emitted[self.carried :]]
        self.left = [self.events[row] for row in log.left.tolist()]
        self.turns = log.turn_step[0].tolist()
        there = x.nonzero()[:, 0].tolist()
        self.inputs = [TraceEvent(*_place(graph, i), float(x[i]), t, 0) for i in there]
        if execution.queues_input:
            self.inputs = []
        self.delivered: dict[int, dict[int, int]] = {row: {} for row in range(len(self.events))}
        for row, k, step in zip(
            log.event.tolist(), log.projection.tolist(), log.step_of_delivery.tolist(), strict=True
        ):
            self.delivered[row][k] = step
        instant = {junction.name for junction in graph.junctions if not junction.waits}
        self.own = [row for row, event in enumerate(self.events) if event.population not in instant]
        self.ways = {name: _ways(graph, name) for name in (*graph.input_grids, *graph.nodes)}

    def rows(self) -> list[TraceRow]:
        """Return its forward steps."""
        rows = [self._row(step) for step in range(self.count)]
        if rows and rows[-1].pending:
            carries = self.execution.leftover == "carry"
            rows[-1] = replace(rows[-1], leftover="carried" if carries else "dropped")
        return rows

    def _row(self, step: int) -> TraceRow:
        graph = self.graph
        turns = [p for p in range(len(graph.populations)) if self.turns[p] == step]
        if self.execution.layered:
            turns = turns[
                -1:
            ]  # one that nothing reached shares its number with the next, which made the step
        took = [graph.populations[p].name for p in turns]
        inputs = [event for event in self.inputs if self._arrives(event.population, step, took)]
        reached = {
            graph.projections[k].target for way in self.delivered.values() for k in way if way[k] == step
        }
        if inputs and not self.execution.layered:
            sources = {event.population for event in inputs}
            reached |= {graph.projections[k].target for name in sources for k in self.ways[name]}
        evaluated = took if self.execution.layered else [n for n in graph.index if n in reached or n in took]
        fired = [self.events[row] for row in self.own if self._emitted(row) == step]
        return TraceRow(
            timestep=self.t,
            step=step,
            evaluated=tuple(evaluated),
            turns=tuple(took),
            delivered=(*inputs, *(self.events[r] for r in self.own if step in self.delivered[r].values())),
            fired=tuple(event for event in fired if event.population not in graph.input_grids),
            pending=tuple(self.events[row] for row in self.own if self._waits(row, step)),
        )

    def _arrives(self, name: str, step: int, took: list[str]) -> bool:
        """Whether an input arrives in a forward step."""
        if not self.execution.layered:
            return step == 0
        return bool(took) and name in _sources(self.graph, took[0])

    def _emitted(self, row: int) -> int:
        return -1 if row < self.carried else self.events[row].step

    def _waits(self, row: int, step: int) -> bool:
        """Whether an event has yet to be delivered somewhere after a forward step."""
        if self._emitted(row) > step:
            return False
        done = self.delivered[row]
        return any(done.get(k, self.count) > step for k in self.ways[self.events[row].population])


def _ways(graph: Graph, name: str) -> list[int]:
    """Return the projections by which a node's events go on within their timestep."""
    return [k for k, p in enumerate(graph.projections) if p.source == name and not p.delayed]


def _place(graph: Graph, source: int) -> tuple[str, int]:
    for name, here in graph.input_slices.items():
        if here.start <= source < here.stop:
            return name, source - here.start
    index = source - graph.input_size
    for node in graph.nodes.values():
        if index < node.size:
            return node.name, index
        index -= node.size
    raise IndexError(source)


def _sources(graph: Graph, name: str) -> set[str]:
    """Return the nodes whose events reach a population, through junctions that pass them on at once."""
    found: set[str] = set()
    for projection in graph.into(name):
        source = graph.nodes.get(projection.source)
        if isinstance(source, Junction) and not source.waits:
            found |= _sources(graph, source.name)
        elif not projection.delayed:
            found.add(projection.source)
    return found


# -- text ----------------------------------------------------------------------------------------------


def _align(column: int, cell: str, width: int) -> str:
    return cell.rjust(width) if column < 2 else cell.ljust(width)


def _cells(row: TraceRow) -> tuple[str, ...]:
    return (
        str(row.timestep) if row.step == 0 else "",
        str(row.step),
        " ".join(name + "*" * (name in row.turns) for name in row.evaluated) or "-",
        _listed(row.delivered),
        _listed(row.fired),
        f"{_listed(row.pending)} {row.leftover}",
    )


def _listed(events: Sequence[TraceEvent]) -> str:
    """Return `input[0-3 7x0.5] h[1 4]`: indices, ranges of indices, amplitudes other than 1."""
    names = dict.fromkeys(event.population for event in events)
    return " ".join(f"{n}[{_indices([e for e in events if e.population == n])}]" for n in names) or "-"


def _indices(events: Sequence[TraceEvent]) -> str:
    entries: list[str] = []
    run: list[int] = []
    for event in sorted(events, key=lambda e: e.index):
        if event.amplitude != 1 or (run and event.index != run[-1] + 1):
            entries, run = entries + _range(run), []
        if event.amplitude == 1:
            run.append(event.index)
        else:
            entries.append(f"{event.index}x{event.amplitude:.3g}")
    entries += _range(run)
    return " ".join(entries[:SHOWN]) + (f" ... {len(events)} in all" if len(entries) > SHOWN else "")


def _range(run: list[int]) -> list[str]:
    return [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(index) for index in run]
