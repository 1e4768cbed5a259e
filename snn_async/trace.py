"""What one sample did, forward step by forward step: the event log as a table (docs/design.md sections 2 and 3)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from snn_async.engines.contract import Engine, Execution, Simulation, Start
from snn_async.engines.eventlog import EventLog
from snn_async.graph import INPUT, Graph
from snn_async.values import collect

SHOWN = 8  # entries of one population in one cell of the text
HEADER = ("t", "step", "evaluated", "delivered", "fired", "pending")


@dataclass(frozen=True)
class TraceEvent:
    """A spike, or an input value: where it comes from and when it was emitted.

    Attributes:
        population: name, or "input".
        index: neuron or feature within it.
        amplitude: 1 for a spike, the value for an input.
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
        fired: spikes emitted.
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
    waiting: list[int] = []  # rows of the log
    rows = []
    for t, count in enumerate(simulation.counts.forward_steps[:, 0].tolist()):
        emitted = range(*log.emitted[0, 1 + t : 3 + t])
        turns = log.turn_step[t, 0].tolist()
        if execution.layered:
            rows += _layered_timestep(graph, t, count, [events[e] for e in emitted], _inputs(log, t), turns)
            continue
        for step in range(count):
            delivered = [e for e in waiting if ends[e] == (t, step)]
            new = [e for e in emitted if events[e].step == step]
            waiting = [e for e in waiting if ends[e] != (t, step)]
            waiting += [e for e in new if events[e].population != graph.output or graph.out_of(graph.output)]
            arrived = (_inputs(log, t) if step == 0 else ()) + tuple(events[e] for e in delivered)
            took = _named(graph, [p for p, turn in enumerate(turns) if turn == step])
            rows.append(
                TraceRow(
                    timestep=t,
                    step=step,
                    evaluated=_named(graph, {graph.index[n] for n in (*took, *_targets(graph, arrived))}),
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
    populations = {step: p for p, step in enumerate(turns) if 0 <= step < count}
    rows = []
    for step, p in sorted(populations.items()):
        name = graph.populations[p].name
        sources = {projection.source for projection in graph.into(name)}
        past = [event for event in emitted if event.step < step]
        waiting = [
            event
            for event in emitted
            if event.step <= step and any(graph.index[k.target] > p for k in graph.out_of(event.population))
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
    neuron = source - graph.input_size
    name, here = next((n, s) for n, s in graph.slices.items() if neuron < s.stop)
    return name, neuron - here.start


def _targets(graph: Graph, events: Iterable[TraceEvent]) -> list[str]:
    return [k.target for source in {event.population for event in events} for k in graph.out_of(source)]


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
