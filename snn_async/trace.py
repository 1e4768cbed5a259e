"""What one sample did, forward step by forward step: the event log as a table (docs/design.md, sections 2, 3 and 7).

What sums and max pooling pass on within a forward step is left out; the neurons that it reached are those evaluated.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from snn_async.engines.contract import Engine, Execution, Simulation, Start
from snn_async.engines.event_log import EventLog
from snn_async.graph import INPUT, Graph, Junction, Population
from snn_async.values import collect

SHOWN = 8  # entries of one population in one cell of the text
HEADER = ("t", "step", "evaluated", "delivered", "fired", "pending")


@dataclass(frozen=True)
class TraceEvent:
    """A spike, an input value, or a value that a join (AND, IAND) released: where it comes from and when.

    Attributes:
        population: name, or "input", or the join's name.
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


def trace_sample(
    engine: Engine, graph: Graph, execution: Execution, x: Tensor, start: Start, sample: int
) -> Trace:
    """Run one sample as in evaluation, without gradients, and return what happened.

    Args:
        x: (T, 1, S) of the model's dtype.
        sample: its place in the batch, for the heading.
    """
    # a network in training mode draws dropout masks: traced without them, and torch's generator untouched
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        values = collect(graph, x, None)
    none = (None,) * len(graph.projections)
    values = replace(values, source_scale=none, target_scale=none)
    execution = replace(execution, refractory_dropout=(0.0,) * len(graph.populations))
    simulation = engine.simulate(graph, execution, values, start, keep_log=True)
    return Trace(_rows(graph, execution, simulation), _heading(execution, start, sample, engine.name))


def describe_execution(execution: Execution) -> str:
    """Return scheduler and forward group size as text."""
    if execution.layered:
        return "layered"
    size = "all" if execution.forward_group_size is None else execution.forward_group_size
    return f"{_option(execution.scheduler)}, F = {size}"


def _heading(execution: Execution, start: Start, sample: int, engine: str) -> str:
    parts = [describe_execution(execution), f"stop {_option(execution.stop)}"]
    if not execution.layered:
        parts += [f"leftover {execution.leftover}", f"input {execution.input}"]
    return (
        f"sample {sample} (id {start.sample_ids[0]}, seed {start.seed}): {', '.join(parts)}, engine {engine}"
    )


def _option(option: object) -> str:
    """Return a scheduler or stop rule as one would write it: `momentum`, `after(3)`."""
    values = [str(v) for v in vars(option).values() if v] if is_dataclass(option) else []
    return type(option).__name__.lower() + (f"({', '.join(values)})" if values else "")


def _rows(graph: Graph, execution: Execution, simulation: Simulation) -> list[TraceRow]:
    log = simulation.log
    assert log is not None
    events, ends = _events(graph, log)
    relays = {junction.name for junction in graph.junctions if not junction.waits}
    waiting: list[int] = []  # rows of the log
    rows = []
    for t, count in enumerate(simulation.counts.forward_steps[:, 0].tolist()):
        emitted = list(range(*log.emitted[0, 1 + t : 3 + t]))
        turns = log.turn_step[t, 0].tolist()
        passed = [events[e] for e in emitted if events[e].population in relays]
        emitted = [e for e in emitted if events[e].population not in relays]
        if execution.layered:
            rows += _layered_timestep(graph, t, count, [events[e] for e in emitted], _inputs(log, t), turns)
            continue
        for step in range(count):
            delivered = [e for e in waiting if ends[e] == (t, step)]
            new = [e for e in emitted if events[e].step == step]
            waiting = [e for e in waiting if ends[e] != (t, step)]
            waiting += [e for e in new if _leads_on(graph, events[e].population)]
            arrived = (_inputs(log, t) if step == 0 else ()) + tuple(events[e] for e in delivered)
            took = _named(graph, [p for p in range(len(graph.populations)) if turns[p] == step])
            reaching = (*arrived, *(event for event in passed if event.step == step))
            rows.append(
                TraceRow(
                    timestep=t,
                    step=step,
                    evaluated=_named(graph, {graph.index[n] for n in (*took, *_targets(graph, reaching))}),
                    turns=took,
                    delivered=arrived,
                    fired=tuple(events[e] for e in new if events[e].population != INPUT),
                    pending=tuple(events[e] for e in waiting),
                )
            )
        if waiting:
            carried = execution.leftover == "carry"
            rows[-1] = replace(rows[-1], leftover="carried" if carried else "dropped")
            waiting = waiting if carried else []
    return rows


def _layered_timestep(
    graph: Graph,
    t: int,
    count: int,
    emitted: Sequence[TraceEvent],
    inputs: tuple[TraceEvent, ...],
    turns: Sequence[int],
) -> list[TraceRow]:
    """One population per step; a spike with several targets arrives at each of them at that one's step."""
    # a population that nothing reached shares its number with the next one, which made the step
    populations = {turns[p]: p for p in range(len(graph.populations)) if 0 <= turns[p] < count}
    released = {j.name: turns[len(graph.populations) + i] for i, j in enumerate(graph.junctions)}
    rows = []
    for step, p in sorted(populations.items()):
        name = graph.populations[p].name
        sources = _sources(graph, name)
        past = [event for event in emitted if event.step < step]
        waiting = [
            event
            for event in emitted
            if event.step <= step and _still_needed(graph, event.population, p, step, released)
        ]
        arrived = (inputs if INPUT in sources else ()) + tuple(e for e in past if e.population in sources)
        fired = tuple(event for event in emitted if event.step == step)
        leftover: Literal["", "dropped"] = "dropped" if waiting and step == count - 1 else ""
        rows.append(TraceRow(t, step, (name,), (name,), arrived, fired, tuple(waiting), leftover))
    return rows


def _events(graph: Graph, log: EventLog) -> tuple[list[TraceEvent], list[tuple[int, int]]]:
    """Return every row of the log as an event, and its (timestep, step) of delivery."""
    timestep = [t for t in range(-1, log.emitted.shape[1] - 2) for _ in range(*log.emitted[0, 1 + t : 3 + t])]
    events = [
        TraceEvent(*_place(graph, int(s)), float(a), t, int(step))
        for s, a, t, step in zip(log.source, log.amplitude, timestep, log.step, strict=True)
    ]
    return events, list(zip(log.delivered_timestep.tolist(), log.delivered_step.tolist(), strict=True))


def _inputs(log: EventLog, t: int) -> tuple[TraceEvent, ...]:
    here = slice(*log.inputs[t : t + 2])
    pairs = zip(log.input_source[here].tolist(), log.input_amplitude[here].tolist(), strict=True)
    return tuple(TraceEvent(INPUT, i, a, t, 0) for i, a in pairs)


def _place(graph: Graph, source: int) -> tuple[str, int]:
    if source < graph.input_size:
        return INPUT, source
    index = source - graph.input_size
    for node in graph.nodes.values():
        if index < node.size:
            return node.name, index
        index -= node.size
    raise IndexError(source)


def _targets(graph: Graph, events: Iterable[TraceEvent]) -> list[str]:
    """Return the populations that events reach by themselves."""
    sources = {event.population for event in events}
    reached = [k.target for source in sources for k in graph.out_of(source) if not k.delayed]
    return [name for name in reached if name in graph.index]


def _leads_on(graph: Graph, name: str) -> bool:
    """Return whether a node's events go anywhere within their timestep."""
    return any(not projection.delayed for projection in graph.out_of(name))


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


def _still_needed(graph: Graph, name: str, p: int, step: int, released: Mapping[str, int]) -> bool:
    """Return whether a node's events have yet to reach something, behind a barrier after population p's turn."""
    for projection in graph.out_of(name):
        target = graph.nodes[projection.target]
        if isinstance(target, Population):
            if not projection.delayed and graph.index[target.name] > p:
                return True
        elif target.waits:
            if released[target.name] > step:
                return True
        elif _still_needed(graph, target.name, p, step, released):
            return True
    return False


def _named(graph: Graph, indices: Iterable[int]) -> tuple[str, ...]:
    return tuple(graph.populations[p].name for p in sorted(indices))


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
