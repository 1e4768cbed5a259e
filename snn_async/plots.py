"""Figures of single samples, drawn with matplotlib on figures and axes of their own: no global state, no display."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from snn_async import checks
from snn_async.engines.contract import Execution
from snn_async.errors import InputError, OptionError
from snn_async.graph import Graph, Population
from snn_async.graph.description import shape_text
from snn_async.network import AsyncNetwork
from snn_async.results import AsyncRun, Record
from snn_async.trace import Trace, TraceEvent, TraceRow, describe_execution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOTH, ONLY_HERE, WAITING, GROUP, EVALUATED = "#3b4252", "#e8871e", "#8fa3b8", "#2e7d9a", "#d8e6ee"
ARRIVES, FIRES = -0.28, 0.22  # within a forward step's column, currents come before spikes
GAP = 1.2  # lines between two bands
LINE = 0.135  # inches
MOST_LINES, MOST_COLUMNS = 40, 48  # of a timeline that chooses them itself
OUTPUT_LINES = 20  # so many output neurons have a line each
HIDDEN_LINES = 45  # of a raster, all hidden bands together
MOST_ROWS = 64  # of a raster's band; of a larger population, a row stands for several neurons

Spikes = set[tuple[str, int, int]]  # population, neuron, timestep


def labels(shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Return what people call a network's populations, "hidden 1, 64 (path)", by module path.

    Args:
        shapes: of one sample of every population in order, the output last; () leaves the shape out.
    """
    found = {}
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        role = "output" if number == len(shapes) else f"hidden {number}"
        size = f", {shape_text(tuple(shape))}" if shape else ""
        found[name] = role + size + (f" ({name})" if name != role else "")
    return found


def timeline(
    net: AsyncNetwork,
    x: Tensor,
    sample: int = 0,
    *,
    figure: "Figure | None" = None,
    timesteps: int | None = None,
    neurons: Mapping[str, Sequence[int]] | None = None,
    seed: int | None = None,
    sample_ids: Tensor | None = None,
) -> "Figure":
    """Draw one sample, layered above and asynchronous below.

    One column per forward step, one band per population, one line per neuron: of a large network the most active
    ones, as the band's label says. Shaded: the populations evaluated in the step. A dot is a spike; the line behind
    it lasts until the spike is delivered (a triangle); the upright bar joins what is delivered together and ends in
    the populations it reaches. A cross: dropped, never delivered. Orange: the other run does not have this spike in
    this timestep. At the right: each output neuron's spikes in the timesteps drawn.

    Args:
        net: as returned by `asynchronize`; its scheduler and F are those of the lower panel.
        x: its input.
        sample: which of the B samples.
        figure: to draw on; a new `matplotlib.figure.Figure` if None.
        timesteps: how many to draw; as many as are readable if None.
        neurons: which ones to draw, by population; numbered as in `net.trace`.
        seed, sample_ids: as for `net.trace`.

    Raises:
        InputError: for a network, input or sample that does not fit.
        OptionError: for `timesteps` outside 1..T, or `neurons` that are not there.
        ImportError: without matplotlib, naming the extra that brings it.
    """
    if not isinstance(net, AsyncNetwork):
        raise InputError(f"net is a {type(net).__name__}; pass the network that asynchronize(model) returns")
    plan = net.plan(x)
    graph, total = plan.graph, plan.capture.steps
    if timesteps is not None and (type(timesteps) is not int or not 1 <= timesteps <= total):
        raise OptionError(f"timesteps={timesteps!r} must be from 1 to the input's {total}, a whole number")
    chosen = {} if neurons is None else _checked(neurons, graph)
    traces = [
        net.trace(x, sample=sample, seed=seed, sample_ids=sample_ids, layered=layered)
        for layered in (True, False)
    ]
    steps = [max(_steps(trace, t) for trace in traces) for t in range(total)]
    columns = _columns(steps, timesteps)
    shown = [
        [row for row in trace.rows if row.timestep < len(columns) and row.step < columns[row.timestep]]
        for trace in traces
    ]
    bands = _bands(graph, _activity(shown), chosen)
    height = max(band.top for band in bands.values()) + 0.5
    if figure is None:
        across = sum(columns) + len(columns)
        beside = _inches(line for band in bands.values() for line in band.label.split("\n"))
        width = beside + 1.2 + across * min(0.66, max(0.3, 14 / across))
        figure = _new_figure(max(6.4, width), 1.9 + 2 * LINE * height)
    titles = (
        "Layered: each population waits for the whole one before it",
        f"{_meaning(plan.execution)} ({describe_execution(plan.execution)})",
    )
    fired = [_spikes(rows) for rows in shown]
    for axes, rows, own, other, title in zip(
        figure.subplots(2, 1), shown, fired, fired[::-1], titles, strict=True
    ):
        _draw(axes, graph, rows, bands, columns, own - other)
        lines = textwrap.wrap(title, int(10 * (figure.get_figwidth() - 1.5)))
        axes.set_title("\n".join(lines), loc="left", fontsize="medium", fontweight="bold")
    axes.set_xlabel("forward step" + _left_out(columns, steps))
    _legend(figure, any(row.leftover == "dropped" for rows in shown for row in rows))
    return figure


def raster(
    spikes: "Tensor | Record | AsyncRun | Mapping[str, Tensor | Record]",
    axes: "Axes | None" = None,
    sample: int = 0,
    *,
    against: "AsyncRun | None" = None,
    label: int | None = None,
    decision: int | None = None,
) -> "Axes":
    """Draw when every neuron of one sample spiked: timesteps across, neurons upwards, one band per population.

    The output of a run is on top, with a line, a number and its spikes for every neuron. A row of a population too
    large for a line each stands for several neurons; the more of them spiked, the darker.

    Args:
        spikes: a run, of which its records and its output are drawn (`net.run(x, record=[...])`); or spike counts
            (T, size), or (T, B, ...) of which `sample` is drawn; a record; or several of these by name.
        axes: to draw on; those of a new `matplotlib.figure.Figure` if None.
        sample: which of the B samples.
        against: a run of the same input, with the same records; spikes that it does not have are orange.
        label: the sample's class, marked in a run's output.
        decision: the class decided for, marked too; the output neuron with the most spikes if None.

    Raises:
        InputError: for spikes of another shape, or a sample out of range.
        ImportError: without matplotlib, naming the extra that brings it.
    """
    named, output = _named(spikes)
    if not named:
        raise InputError("there are no spikes to draw: name populations in net.run(x, record=...)")
    counts = {name: _one_sample(given, name, sample) for name, given in named.items()}
    others = {} if against is None else {n: _one_sample(r, n, sample) for n, r in _named(against)[0].items()}
    if others and {n: c.shape for n, c in counts.items()} != {n: c.shape for n, c in others.items()}:
        raise InputError(
            "against is a run of another input or with other records; run the same with the same"
        )
    most = max(2.0, min(6.5, HIDDEN_LINES / len(counts)))
    heights = {
        name: c.shape[1] if name == output and c.shape[1] <= OUTPUT_LINES else min(c.shape[1], most)
        for name, c in counts.items()
    }
    if axes is None:
        width = 1.2 + _inches(counts) + min(4.5, max(2.2, 0.3 * max(map(len, counts.values()))))
        axes = _new_figure(width, 1 + LINE * (sum(heights.values()) + GAP * len(heights))).add_subplot()
    base, longest, ticks = 0.0, max(map(len, counts.values())), []
    for name, here in counts.items():
        top = base + heights[name]
        axes.imshow(
            _image(here > 0, others[name] > 0 if name in others else None),
            extent=(-0.5, len(here) - 0.5, base, top),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        axes.hlines([base, top], -0.5, longest - 0.5, color="0.85", lw=0.8)
        several = here.shape[1] / MOST_ROWS
        ticks.append(((base + top) / 2, name + (f"\n{several:.3g} neurons a row" if several > 1 else "")))
        if name == output:
            _marked(axes, here.sum(0), base, top, label, decision)
        base = top + GAP
    if longest <= 60:
        axes.vlines([t + 0.5 for t in range(longest - 1)], -0.5, base, color="white", lw=0.8)
    if len(named) > 1 or output:
        axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
        axes.tick_params("y", length=0, pad=16)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{counts[''].shape[1]} neurons" if "" in counts else ticks[0][1])
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(0, longest, _spacing(longest)))
    told = "\n(orange: not in the other run)" if others else ""
    axes.set(xlabel=f"timestep{told}", xlim=(-0.5, longest - 0.5), ylim=(-GAP / 2, base))
    return axes


def _new_figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'snn-async[lightning]'") from error
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def _inches(lines: Iterable[str]) -> float:
    """Return about how wide text is."""
    return 0.085 * max(map(len, lines))


# -- the raster ----------------------------------------------------------------------------------------


def _named(spikes: object) -> tuple[dict[str, object], str]:
    """Return what is drawn, by label, from below, and the label of a run's output ("" of anything else)."""
    if isinstance(spikes, Mapping):
        return {str(name): given for name, given in spikes.items()}, ""
    if not isinstance(spikes, AsyncRun):
        return {"": spikes}, ""
    names = list(spikes.activity.spikes)
    called = labels({name: shape for name, shape, *_ in spikes.state.layout[-len(names) :]})
    bands = {called[name]: spikes.records[name] for name in names[:-1] if name in spikes.records}
    return {**bands, called[names[-1]]: spikes.spikes}, called[names[-1]]


def _one_sample(given: object, name: str, sample: int) -> Tensor:
    where = f" of {name!r}" if name else ""
    spikes = given.spikes if isinstance(given, Record) else given
    if not isinstance(spikes, Tensor):
        raise InputError(
            f"spikes{where} are a {type(spikes).__name__}; pass a torch tensor (T, size) or (T, B, ...), "
            "a run or its records"
        )
    if spikes.dim() < 2 or not spikes.numel():
        raise InputError(
            f"spikes{where} have shape {tuple(spikes.shape)}; pass (T, size) or (T, B, ...), none of them 0"
        )
    if spikes.dim() > 2:
        spikes = spikes[:, checks.check_sample(sample, spikes.shape[1])].flatten(1)
    return spikes.detach().cpu()


def _image(here: Tensor, there: Tensor | None) -> np.ndarray:
    """Return a band's colors (rows, T, 3), from below: the more of a row's neurons spiked, the stronger."""
    from matplotlib.colors import to_rgb

    rows = min(MOST_ROWS, here.shape[1])
    shares = [
        torch.stack([part.double().mean(1) for part in spikes.tensor_split(rows, 1)]).numpy()
        for spikes in (here, here if there is None else here & there)
    ]
    strength, new = np.sqrt(shares[0]), 1 - shares[1] / np.maximum(shares[0], 1e-300)
    hue = np.array(to_rgb(BOTH)) * (1 - new[..., None]) + np.array(to_rgb(ONLY_HERE)) * new[..., None]
    return 1 - strength[..., None] * (1 - hue)


def _marked(
    axes: "Axes", totals: Tensor, base: float, top: float, label: int | None, decision: int | None
) -> None:
    """Write number and spikes beside every output neuron, and which are the sample's class and the decision."""
    size = len(totals)
    if decision is None and totals.any():
        decision = int(totals.argmax())
    roles = [
        (role, neuron) for role, neuron in (("class", label), ("decision", decision)) if neuron is not None
    ]
    style: dict[str, Any] = dict(fontsize="small", transform=axes.get_yaxis_transform())
    if size > OUTPUT_LINES:
        if label is not None:
            told = "\n".join(f"{role} {neuron}: {totals[neuron]:g}" for role, neuron in roles)
            axes.text(1.012, (base + top) / 2, told, va="center", color=BOTH, **style)
        return
    axes.hlines([base + neuron for neuron in range(1, size)], *axes.get_xlim(), color="white", lw=0.8)
    axes.text(1.012, top + 0.1, "spikes", va="bottom", color="0.4", **style)
    for neuron, spikes in enumerate(totals.tolist()):
        y, own = base + neuron + 0.5, [role for role, which in roles if which == neuron]
        axes.text(-0.012, y, str(neuron), ha="right", va="center", color="0.4", **style)
        bold = "bold" if own else "normal"
        axes.text(
            1.012, y, f"{spikes:g}  {', '.join(own)}", va="center", color=BOTH, fontweight=bold, **style
        )


def _spacing(count: int) -> int:
    """Return how far apart the ticks of so many timesteps are: at most 15 of them."""
    return next(s * 10**p for p in range(12) for s in (1, 2, 5) if count <= 15 * s * 10**p)


# -- the timeline --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Band:
    """Where a population is drawn: `lines` holds the height of each neuron drawn."""

    label: str
    base: float
    lines: dict[int, float]

    @property
    def top(self) -> float:
        return self.base + len(self.lines) - 1


def _meaning(execution: Execution) -> str:
    if execution.layered:
        return "Again"
    size = execution.forward_group_size
    group = "everything" if size is None else "1 spike" if size == 1 else f"at most {size} spikes"
    return f"Asynchronous: {group} of the whole network at a time"


def _checked(neurons: Mapping[str, Sequence[int]], graph: Graph) -> dict[str, list[int]]:
    sizes = _sizes(graph)
    if not isinstance(neurons, Mapping) or not all(isinstance(n, Sequence) for n in neurons.values()):
        raise OptionError(
            f"neurons={neurons!r} must be lists of numbers by population: {{{graph.output!r}: [0, 1]}}"
        )
    for name, numbers in neurons.items():
        if name not in sizes:
            raise OptionError(f"neurons: {name!r} is no population; there are {list(sizes)}")
        for number in numbers:
            if number not in range(sizes[name]):
                raise OptionError(f"neurons: {name!r} has no {number!r}; choose from 0 to {sizes[name] - 1}")
    return {name: sorted(set(numbers)) for name, numbers in neurons.items()}


def _sizes(graph: Graph) -> dict[str, int]:
    """Return how many units each band has, the input lowest; junctions that wait have one too."""
    nodes = [graph.nodes[name] for name in graph.order]
    waiting = {node.name: node.size for node in nodes if isinstance(node, Population) or node.waits}
    return {name: here.stop - here.start for name, here in graph.input_slices.items()} | waiting


def _columns(steps: list[int], timesteps: int | None) -> list[int]:
    """Return how many forward steps of each timestep are drawn."""
    if timesteps is not None:
        return steps[:timesteps]
    fitting = [t for t in range(1, len(steps) + 1) if sum(steps[:t]) + t <= MOST_COLUMNS]
    return steps[: fitting[-1]] if fitting else [MOST_COLUMNS]


def _left_out(columns: list[int], steps: list[int]) -> str:
    if len(columns) == len(steps) and columns == steps:
        return ""
    if columns[-1] < steps[len(columns) - 1]:
        return f"  (the first {columns[-1]} of timestep 0's {steps[0]})"
    drawn = "timestep 0" if len(columns) == 1 else f"timesteps 0 to {len(columns) - 1}"
    return f"  ({drawn} of {len(steps)})"


def _activity(traces: Sequence[Sequence[TraceRow]]) -> Counter[tuple[str, int]]:
    """Return how often each unit fired, or an input arrived, in all traces."""
    return Counter(
        event_place
        for rows in traces
        for row in rows
        for event_place in {(e.population, e.index) for e in (*row.delivered, *row.fired)}
    )


def _bands(
    graph: Graph, active: Counter[tuple[str, int]], chosen: Mapping[str, list[int]]
) -> dict[str, _Band]:
    """Return the bands, the input lowest; of what is too large, the chosen or most active units."""
    sizes = _sizes(graph)
    busy = {name: any(name == other for other, _ in active) for name in sizes}
    limits = dict.fromkeys(sizes, MOST_LINES)
    if sum(sizes.values()) > MOST_LINES:
        limits = dict.fromkeys(sizes, max(2, (MOST_LINES - 10) // max(1, len(sizes) - 1)))
        limits |= {name: 1 for name in sizes if not busy[name]}
        if sizes[graph.output] <= OUTPUT_LINES:
            limits[graph.output] = OUTPUT_LINES
    called = labels({population.name: population.shape for population in graph.populations})
    bands, base = {}, 0.0
    for name, size in sizes.items():
        label = called.get(name, f"{name}, {size}")
        drawn = sorted(sorted(range(size), key=lambda i: -active[name, i])[: limits[name]])
        if name in chosen:
            drawn = chosen[name]
            label += f"\n{len(drawn)} chosen"
        elif len(drawn) < size:
            label += f"\n{len(drawn)} most active" if busy[name] else ", silent"
        bands[name] = _Band(label, base, {neuron: base + i for i, neuron in enumerate(drawn)})
        base += len(drawn) + GAP
    return bands


def _steps(trace: Trace, t: int) -> int:
    return sum(row.timestep == t for row in trace.rows)


def _spikes(rows: Sequence[TraceRow]) -> Spikes:
    return {(event.population, event.index, event.timestep) for row in rows for event in row.fired}


def _draw(
    axes: "Axes",
    graph: Graph,
    rows: Sequence[TraceRow],
    bands: Mapping[str, _Band],
    columns: list[int],
    only_here: Spikes,
) -> None:
    first = [sum(columns[:t]) + t for t in range(len(columns))]  # one empty column between timesteps

    def drawn(events: Sequence[TraceEvent]) -> list[tuple[TraceEvent, float]]:
        places = [(event, bands[event.population].lines.get(event.index)) for event in events]
        return [(event, y) for event, y in places if y is not None]

    for row in rows:
        column = first[row.timestep] + row.step
        for band in (bands[name] for name in row.evaluated):
            axes.fill_between(
                [column - 0.49, column + 0.49], band.base - 0.5, band.top + 0.5, color=EVALUATED, lw=0
            )
        arrived = drawn(row.delivered)
        if row.delivered:
            sources = {bands[event.population].top for event in row.delivered} if not arrived else ()
            reached = [bands[name] for name in _targets(graph, row)]
            ends = [*(y for _, y in arrived), *sources, *(band.base - 0.5 for band in reached)]
            ends += [band.top + 0.5 for band in reached[-1:]]
            axes.plot([column + ARRIVES] * 2, [min(ends), max(ends)], color=GROUP, lw=5, alpha=0.22, zorder=2)
        heights = [y for _, y in arrived]
        axes.plot([column + ARRIVES] * len(heights), heights, ">", color=GROUP, ms=5, mew=0, zorder=4)
        for event, y in arrived:
            start = first[event.timestep] + event.step + FIRES
            if start < column + ARRIVES:
                axes.plot([start, column + ARRIVES], [y, y], color=WAITING, lw=1.1, zorder=3)
        for event, y in drawn(row.fired):
            color = ONLY_HERE if (event.population, event.index, event.timestep) in only_here else BOTH
            axes.plot(column + FIRES, y, "o", color=color, ms=6.5, mew=0, zorder=5)
        for event, y in drawn(row.pending) if row.leftover == "dropped" or row is rows[-1] else ():
            start = first[event.timestep] + event.step + FIRES
            axes.plot([start, column + 0.6], [y, y], color=WAITING, lw=1.1, zorder=3)
            if row.leftover == "dropped":
                axes.plot(column + 0.6, y, "x", color=WAITING, ms=5, zorder=3)
    _frame(axes, bands, columns, first)
    _totals(axes, bands[graph.output], [e for row in rows for e in row.fired if e.population == graph.output])


def _targets(graph: Graph, row: TraceRow) -> list[str]:
    """Return the populations that current reached, in order."""
    reached = {name for event in row.delivered for name in graph.reaches(event.population)}
    return [
        name for name in graph.nodes if name in reached and (name in row.evaluated or name not in graph.index)
    ]


def _frame(axes: "Axes", bands: Mapping[str, _Band], columns: list[int], first: list[int]) -> None:
    ends = [begin + count - 0.5 for begin, count in zip(first, columns, strict=True)]
    lines = [y for band in bands.values() for y in band.lines.values()]
    top = max(lines) + 0.5
    for t, (begin, end) in enumerate(zip(first, ends, strict=True)):
        axes.hlines(lines, begin - 0.5, end, color="0.86", lw=0.6, zorder=1)
        if len(first) > 1:
            axes.text(begin - 0.45, top + 0.25, f"timestep {t}", color="0.4", fontsize="small", va="bottom")
    ticks = [(begin + s, s) for begin, count in zip(first, columns, strict=True) for s in range(count)]
    axes.set_xticks([place for place, _ in ticks], [str(step) for _, step in ticks])
    axes.set_yticks(
        [(band.base + band.top) / 2 for band in bands.values()], [band.label for band in bands.values()]
    )
    axes.tick_params("x", length=0)
    axes.tick_params("y", length=0, pad=8 + 6 * len(str(max(max(band.lines) for band in bands.values()))))
    style: dict[str, Any] = dict(
        transform=axes.get_yaxis_transform(), va="center", ha="right", fontsize="small", color="0.4"
    )
    for band in bands.values():
        for neuron, y in band.lines.items():
            axes.text(-0.003, y, str(neuron), **style)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.7, ends[-1] + 0.5), ylim=(-0.8, top + 1.4))


def _totals(axes: "Axes", band: _Band, fired: list[TraceEvent]) -> None:
    """Write each output neuron's spike count at the end of its line."""
    counts = Counter(event.index for event in fired)
    style: dict[str, Any] = dict(transform=axes.get_yaxis_transform(), fontsize="small")
    for neuron, y in band.lines.items():
        axes.text(1.01, y, f"{counts[neuron]}", va="center", color=BOTH, **style)
    axes.text(1.01, band.top + 0.9, "spikes", va="bottom", color="0.4", **style)


def _legend(figure: "Figure", dropped: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries = [
        (Patch(color=EVALUATED), "evaluated"),
        (Line2D([], [], color=BOTH, marker="o", ls=""), "spike"),
        (Line2D([], [], color=ONLY_HERE, marker="o", ls=""), "spike only in this run"),
        (Line2D([], [], color=WAITING), "pending"),
        (Line2D([], [], color=GROUP, marker=">", ls=""), "delivered"),
    ]
    if dropped:
        entries.append((Line2D([], [], color=WAITING, marker="x", ls=""), "dropped"))
    figure.legend(
        *zip(*entries, strict=True),
        loc="outside lower center",
        ncols=len(entries) if figure.get_figwidth() > 7 else 3,
        frameon=False,
        fontsize="small",
    )


__all__ = ["labels", "raster", "timeline"]
