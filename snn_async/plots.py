"""Figures of single samples, drawn with matplotlib on figures and axes of their own: no global state, no display."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from torch import Tensor

from snn_async import checks
from snn_async.engines.contract import Execution
from snn_async.errors import InputError, OptionError
from snn_async.graph import Graph, Population
from snn_async.network import AsyncNetwork
from snn_async.results import AsyncRun, Record
from snn_async.trace import Trace, TraceEvent, TraceRow, describe_execution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOTH, ONLY_HERE, WAITING, GROUP, EVALUATED = "#3b4252", "#e8871e", "#8fa3b8", "#2e7d9a", "#d8e6ee"
ARRIVES, FIRES = -0.28, 0.22  # within a forward step's column, currents come before spikes
GAP = 1.2  # neurons between two bands
MOST_LINES = 400

Spikes = set[tuple[str, int, int]]  # population, neuron, timestep


def timeline(
    net: AsyncNetwork,
    x: Tensor,
    sample: int = 0,
    *,
    figure: "Figure | None" = None,
    timesteps: int | None = None,
    seed: int | None = None,
    sample_ids: Tensor | None = None,
) -> "Figure":
    """Draw one sample of a small network, layered above and asynchronous below.

    One column per forward step, one band per population, one line per neuron. Shaded: the populations evaluated
    in the step. A dot is a spike; the line behind it lasts until the spike is delivered (a triangle); the upright
    bar joins what is delivered together and ends in the populations it reaches. A cross: dropped, never delivered.
    Orange: the other run does not have this spike in this timestep. At the right: each output neuron's spikes.

    Args:
        net: as returned by `asynchronize`; its scheduler and F are those of the lower panel.
        x: (T, B, ...) input.
        sample: which of the B samples.
        figure: to draw on; a new `matplotlib.figure.Figure` if None.
        timesteps: how many to draw; all T if None.
        seed, sample_ids: as for `net.trace`.

    Raises:
        InputError: for a network, input or sample that does not fit, or a network too large to draw.
        OptionError: for `timesteps` outside 1..T.
        ImportError: without matplotlib, naming the extra that brings it.
    """
    if not isinstance(net, AsyncNetwork):
        raise InputError(f"net is a {type(net).__name__}; pass the network that asynchronize(model) returns")
    shown = _first(x, timesteps)
    traces = [
        net.trace(shown, sample=sample, seed=seed, sample_ids=sample_ids, layered=layered)
        for layered in (True, False)
    ]
    lines = net.graph.input_size + net.graph.size
    if lines > MOST_LINES:
        raise InputError(
            f"the network has {lines} inputs and neurons, and timeline draws a line for each (at most {MOST_LINES}); "
            "draw a smaller network, or plots.raster of a run"
        )
    bands = _bands(net.graph)
    height = max(place + 1 for place in _places(bands))
    columns = [max(_steps(trace, t) for trace in traces) for t in range(len(shown))]
    if figure is None:
        width = 1.6 + 0.66 * (sum(columns) + len(columns))
        figure = _new_figure(max(6.4, width), 1.5 + 0.27 * height)
    spikes = [_spikes(trace) for trace in traces]
    titles = (
        "Layered: each population waits for the whole one before it",
        f"{_meaning(net.execution)} ({describe_execution(net.execution)})",
    )
    for axes, trace, own, other, title in zip(
        figure.subplots(2, 1), traces, spikes, spikes[::-1], titles, strict=True
    ):
        _draw(axes, net.graph, trace, columns, own - other)
        axes.set_title(title, loc="left", fontsize="medium", fontweight="bold")
    axes.set_xlabel("forward step")
    _legend(figure, any(row.leftover == "dropped" for trace in traces for row in trace.rows))
    return figure


def raster(
    spikes: "Tensor | Record | AsyncRun | Mapping[str, Tensor | Record]",
    axes: "Axes | None" = None,
    sample: int = 0,
) -> "Axes":
    """Draw when every neuron of one sample spiked: timesteps across, neurons upwards.

    Args:
        spikes: spike counts (T, size), or (T, B, ...) of which `sample` is drawn; a record or a run (its output);
            or several of them by name, one band each, such as `run.records`.
        axes: to draw on; those of a new `matplotlib.figure.Figure` if None.
        sample: which of the B samples.

    Raises:
        InputError: for spikes of another shape, or a sample out of range.
        ImportError: without matplotlib, naming the extra that brings it.
    """
    named = dict(spikes) if isinstance(spikes, Mapping) else {"": spikes}
    if not named:
        raise InputError("there are no spikes to draw: name populations in net.run(x, record=...)")
    counts = {name: _one_sample(given, name, sample) for name, given in named.items()}
    if axes is None:
        axes = _new_figure(6.4, 4).add_subplot()
    from matplotlib.ticker import MaxNLocator

    base, ticks = 0, []
    for name, spikes_of in counts.items():
        size = spikes_of.shape[1]
        times, neurons = (spikes_of > 0).nonzero(as_tuple=True)
        axes.scatter(times, neurons + base, s=60 / max(1, size / 10), c=BOTH, marker="|", lw=1.2)
        ticks.append((base + (size - 1) / 2, name))
        base += size
        axes.axhline(base - 0.5, color="0.85", lw=0.8)
    if len(named) > 1:
        axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    else:
        axes.set_ylabel("neuron")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    longest = max(map(len, counts.values()))
    axes.set(xlabel="timestep", xlim=(-0.5, longest - 0.5), ylim=(-0.5, base - 0.5))
    return axes


def _first(x: Tensor, timesteps: int | None) -> Tensor:
    """Return the input's first `timesteps`."""
    if timesteps is None or not isinstance(x, Tensor) or x.dim() < 3:
        return x  # `net.trace` refuses what is no (T, B, ...)
    if type(timesteps) is not int or not 1 <= timesteps <= len(x):
        raise OptionError(f"timesteps={timesteps!r} must be from 1 to the input's {len(x)}, a whole number")
    return x[:timesteps]


def _one_sample(given: object, name: str, sample: int) -> Tensor:
    where = f" of {name!r}" if name else ""
    spikes = given.spikes if isinstance(given, Record | AsyncRun) else given
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


def _new_figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'snn-async[lightning]'") from error
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def _meaning(execution: Execution) -> str:
    if execution.layered:
        return "Again"
    size = execution.forward_group_size
    group = "everything" if size is None else "1 spike" if size == 1 else f"at most {size} spikes"
    return f"Asynchronous: {group} of the whole network at a time"


# -- the timeline --------------------------------------------------------------------------------------


def _bands(graph: Graph) -> dict[str, tuple[float, int]]:
    """Return where each band begins and how many units it has, the input lowest; joins that wait have one too."""
    bands, base = {}, 0.0
    nodes = [graph.nodes[name] for name in graph.order]
    waiting = [(j.name, j.size) for j in nodes if isinstance(j, Population) or j.waits]
    inputs = [(name, here.stop - here.start) for name, here in graph.input_slices.items()]
    for name, size in [*inputs, *waiting]:
        bands[name] = (base, size)
        base += size + GAP
    return bands


def _places(bands: Mapping[str, tuple[float, int]]) -> Iterator[float]:
    return (base + size - 1 for base, size in bands.values())


def _steps(trace: Trace, t: int) -> int:
    return sum(row.timestep == t for row in trace.rows)


def _spikes(trace: Trace) -> Spikes:
    return {(event.population, event.index, event.timestep) for row in trace.rows for event in row.fired}


def _draw(axes: "Axes", graph: Graph, trace: Trace, columns: list[int], only_here: Spikes) -> None:
    bands = _bands(graph)
    first = [sum(columns[:t]) + t for t in range(len(columns))]  # one empty column between timesteps
    top = max(_places(bands)) + 0.5

    def y(event: TraceEvent) -> float:
        return bands[event.population][0] + event.index

    for row in trace.rows:
        column = first[row.timestep] + row.step
        for name in row.evaluated:
            base, size = bands[name]
            axes.fill_between(
                [column - 0.49, column + 0.49], base - 0.5, base + size - 0.5, color=EVALUATED, lw=0
            )
        arrived = sorted(y(event) for event in row.delivered)
        if arrived:
            reached = [bands[name] for name in _targets(graph, row)]
            ends = (
                arrived
                + [base - 0.5 for base, _ in reached]
                + [base + size - 0.5 for base, size in reached[-1:]]
            )
            axes.plot([column + ARRIVES] * 2, [min(ends), max(ends)], color=GROUP, lw=5, alpha=0.22, zorder=2)
        axes.plot([column + ARRIVES] * len(arrived), arrived, ">", color=GROUP, ms=5, mew=0, zorder=4)
        for event in row.delivered:
            start = first[event.timestep] + event.step + FIRES
            if start < column + ARRIVES:
                axes.plot([start, column + ARRIVES], [y(event)] * 2, color=WAITING, lw=1.1, zorder=3)
        for event in row.fired:
            color = ONLY_HERE if (event.population, event.index, event.timestep) in only_here else BOTH
            axes.plot(column + FIRES, y(event), "o", color=color, ms=6.5, mew=0, zorder=5)
        for event in row.pending if row.leftover == "dropped" or row is trace.rows[-1] else ():
            start = first[event.timestep] + event.step + FIRES
            axes.plot([start, column + 0.6], [y(event)] * 2, color=WAITING, lw=1.1, zorder=3)
            if row.leftover == "dropped":
                axes.plot(column + 0.6, y(event), "x", color=WAITING, ms=5, zorder=3)
    _frame(axes, bands, columns, first, top)
    _totals(axes, graph, trace, bands, first[-1] + columns[-1])


def _targets(graph: Graph, row: TraceRow) -> list[str]:
    """Return the populations that current reached, in order."""
    reached = {name for event in row.delivered for name in graph.reaches(event.population)}
    return [
        name for name in graph.nodes if name in reached and (name in row.evaluated or name not in graph.index)
    ]


def _frame(
    axes: "Axes", bands: Mapping[str, tuple[float, int]], columns: list[int], first: list[int], top: float
) -> None:
    ends = [begin + count - 0.5 for begin, count in zip(first, columns, strict=True)]
    for base, size in bands.values():
        for begin, end in zip(first, ends, strict=True):
            for i in range(size):
                axes.plot([begin - 0.5, end], [base + i] * 2, color="0.86", lw=0.6, zorder=1)
    if len(first) > 1:
        for t, begin in enumerate(first):
            axes.text(begin - 0.45, top + 0.25, f"timestep {t}", color="0.4", fontsize="small", va="bottom")
    ticks = [
        (begin + step, step) for begin, count in zip(first, columns, strict=True) for step in range(count)
    ]
    axes.set_xticks([place for place, _ in ticks], [str(step) for _, step in ticks])
    axes.set_yticks([base + (size - 1) / 2 for base, size in bands.values()], list(bands))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.7, ends[-1] + 1.2), ylim=(-0.8, top + 1.4))


def _totals(
    axes: "Axes", graph: Graph, trace: Trace, bands: Mapping[str, tuple[float, int]], column: float
) -> None:
    """Write each output neuron's spike count at the end of its line."""
    base, size = bands[graph.output]
    fired = sorted(e.index for row in trace.rows for e in row.fired if e.population == graph.output)
    counts = {index: len(list(group)) for index, group in groupby(fired)}
    for i in range(size):
        axes.text(column - 0.25, base + i, f"{counts.get(i, 0)}", va="center", fontsize="small", color=BOTH)
    axes.text(column - 0.25, base + size - 0.1, "spikes", va="bottom", fontsize="small", color="0.4")


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
        ncols=len(entries),
        frameon=False,
        fontsize="small",
    )


__all__ = ["raster", "timeline"]
