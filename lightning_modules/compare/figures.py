"""The figures of a comparison, as matplotlib `Figure` objects (no global state, no display)."""

import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from snn_async import AsyncRun, plots

from .results import Row, in_percent, over_seeds, populations

COLORS = {"layered": "#4c566a", "random": "#d08770", "momentum": "#2e7d9a"}


def methods(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return the training methods and the executions, each in order of appearance."""
    return list(dict.fromkeys(r.case.training for r in rows)), list(
        dict.fromkeys(r.condition.execution for r in rows)
    )


def at(training: str, execution: str, size: str | None, stop: str = "quiescent"):  # type: ignore[no-untyped-def]
    """Return a filter for rows of one cell; layered execution has no F."""

    def where(row: Row) -> bool:
        c = row.condition
        named = row.case.training == training and c.execution == execution and c.stop == stop
        return named and (execution == "layered" or size is None or c.size == size)

    return where


def accuracy_matrix(rows: Sequence[Row], size: str, stop: str) -> Figure:
    """Training x execution, mean +- standard deviation over seeds."""
    trainings, executions = methods(rows)
    cells = [
        [over_seeds(rows, "accuracy", at(t, e, size, _stop(e, stop))) for e in executions] for t in trainings
    ]
    figure = Figure(figsize=(2.2 + 1.3 * len(executions), 1.4 + 0.8 * len(trainings)), layout="constrained")
    axes = figure.add_subplot()
    means = [[100 * mean for mean, _ in line] for line in cells]
    low, high = min(map(min, means)), max(map(max, means))
    low = min(low, high - 10)  # small differences keep similar colors
    axes.imshow(means, cmap="cividis", aspect="auto", vmin=low, vmax=high)
    middle = (low + high) / 2
    for i, line in enumerate(cells):
        for j, (mean, sd) in enumerate(line):
            color = "black" if 100 * mean > middle else "white"
            axes.text(j, i, in_percent(mean, sd), ha="center", va="center", color=color)
    axes.set_xticks(range(len(executions)), executions)
    axes.set_yticks(range(len(trainings)), trainings)
    axes.set(xlabel=f"execution (F = {size}, stop {stop})", ylabel="training", title="Test accuracy in %")
    return figure


def accuracy_steps(rows: Sequence[Row], size: str) -> Figure:
    """Accuracy against forward steps per timestep, one line per training, one panel per execution."""
    trainings, executions = methods(rows)
    executions = [e for e in executions if e != "layered"] or executions
    figure = Figure(figsize=(1 + 4 * len(executions), 3.6), layout="constrained")
    panels = figure.subplots(1, len(executions), sharey=True, squeeze=False)[0]
    for axes, execution in zip(panels, executions, strict=True):
        for training in trainings:
            points = _steps_curve(rows, training, execution, size)
            if not points:
                continue
            x, y, sd = zip(*points, strict=True)
            axes.errorbar(x, y, sd, color=COLORS[training], marker="o", ms=4, capsize=2, label=training)
            axes.plot(x[-1], y[-1], "D", color=COLORS[training], mfc="white", ms=7)
            level, _ = over_seeds(rows, "accuracy", at(training, "layered", None))
            axes.axhline(100 * level, color=COLORS[training], ls=":", lw=1)
        axes.set(xlabel="forward steps per timestep", title=f"{execution} execution, F = {size}")
        axes.set_xscale("log", base=2)
        low, high = axes.get_xlim()
        ticks: list[float] = [t for t in (2**k for k in range(31)) if low <= t <= high]
        if len(ticks) < 2:  # all points between two powers of two
            ticks = [x for line in axes.lines[:1] for x in line.get_xdata()]
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy in %")
    _legend(
        figure,
        panels[-1],
        Line2D([], [], color="0.4", marker="D", mfc="white", ms=7, ls="", label="until quiescent"),
        Line2D([], [], color="0.4", ls=":", lw=1, label="layered execution"),
    )
    return figure


def spikes(rows: Sequence[Row], size: str, stop: str) -> Figure:
    """Spikes per sample of every population, one panel per execution, one bar per training."""
    trainings, executions = methods(rows)
    names = populations(rows)
    called = list(plots.labels(dict.fromkeys(names, ())).values())
    upright = 0.045 * len(names) * max(map(len, called)) < 3.2  # names of two lines fit beside each other
    called = [name.replace(" (", "\n(") if upright else name for name in called]
    across = max(3.2, 0.22 * len(names))
    figure = Figure(figsize=(1 + across * len(executions), 3.4 if upright else 4.4), layout="constrained")
    panels = figure.subplots(1, len(executions), sharey=True, squeeze=False)[0]
    width = 0.8 / len(trainings)
    for axes, execution in zip(panels, executions, strict=True):
        for i, training in enumerate(trainings):
            where = at(training, execution, size, _stop(execution, stop))
            means, sds = zip(*(over_seeds(rows, f"spikes_{name}", where) for name in names), strict=True)
            places = [k - 0.4 + width * (i + 0.5) for k in range(len(names))]
            axes.bar(places, means, width, yerr=sds, color=COLORS[training], capsize=2, label=training)
        axes.set_xticks(range(len(names)), called, rotation=0 if upright else 90, fontsize="small")
        axes.set(title=f"{execution} execution")
    panels[0].set_ylabel("spikes per sample")
    _legend(figure, panels[-1])
    return figure


def raster(
    runs: tuple[AsyncRun, AsyncRun], titles: tuple[str, str], label: int, decisions: tuple[int, int]
) -> Figure:
    """Two runs of one sample side by side; spikes that the other run does not have are orange."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, own, other, title, decision in zip(panels, runs, runs[::-1], titles, decisions, strict=True):
        plots.raster(own, axes, against=other, label=label, decision=decision)
        axes.set_title(title)
    panels[1].tick_params("y", labelleft=False)
    figure.set_figheight(1.4 + plots.LINE * panels[0].get_ylim()[1])
    return figure


def _legend(figure: Figure, axes: Axes, *marks: Line2D) -> None:
    """Put the panels' common legend beside them."""
    handles = [*axes.get_legend_handles_labels()[0], *marks]
    figure.legend(handles=handles, title="training", fontsize="small", loc="outside center right")


def _stop(execution: str, stop: str) -> str:
    return "quiescent" if execution == "layered" else stop


def _steps_curve(
    rows: Sequence[Row], training: str, execution: str, size: str
) -> list[tuple[float, float, float]]:
    points = []
    for stop in dict.fromkeys(row.condition.stop for row in rows):
        if stop == "quiescent" or re.fullmatch(r"after\(\d+\)", stop):
            where = at(training, execution, size, stop)
            mean, sd = over_seeds(rows, "accuracy", where)
            steps, _ = over_seeds(rows, "forward_steps", where)
            if mean == mean:
                points.append((steps, 100 * mean, 100 * sd))
    return sorted(points)
