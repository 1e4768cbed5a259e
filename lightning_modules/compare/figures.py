"""The figures of a comparison, as matplotlib `Figure` objects (no global state, no display)."""

import re
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from torch import Tensor

from lightning_modules.compare.results import Row, in_percent, over_seeds, populations

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
            level, _ = over_seeds(rows, "accuracy", at(training, "layered", None))
            axes.axhline(100 * level, color=COLORS[training], ls=":", lw=1)
        axes.set(xlabel="forward steps per timestep", title=f"{execution} execution, F = {size}")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy in %")
    panels[-1].legend(title="training", fontsize="small")
    figure.suptitle("Stopped early (dotted: layered execution)", fontsize="medium")
    return figure


def spikes(rows: Sequence[Row], size: str, stop: str) -> Figure:
    """Spikes per sample of every population, one panel per execution, one bar per training."""
    trainings, executions = methods(rows)
    names = populations(rows)
    figure = Figure(figsize=(1 + 3.2 * len(executions), 3.4), layout="constrained")
    panels = figure.subplots(1, len(executions), sharey=True, squeeze=False)[0]
    width = 0.8 / len(trainings)
    for axes, execution in zip(panels, executions, strict=True):
        for i, training in enumerate(trainings):
            where = at(training, execution, size, _stop(execution, stop))
            means, sds = zip(*(over_seeds(rows, f"spikes_{name}", where) for name in names), strict=True)
            places = [k - 0.4 + width * (i + 0.5) for k in range(len(names))]
            axes.bar(places, means, width, yerr=sds, color=COLORS[training], capsize=2, label=training)
        many = len(names) > 5  # as of a residual network, whose names are long too
        axes.set_xticks(range(len(names)), names, rotation=90 * many, fontsize="small" if many else None)
        axes.set(title=f"{execution} execution", xlabel="population")
    panels[0].set_ylabel("spikes per sample")
    panels[-1].legend(title="training", fontsize="small")
    return figure


def raster(layered: dict[str, Tensor], asynchronous: dict[str, Tensor], titles: tuple[str, str]) -> Figure:
    """Two runs of one sample side by side; spikes the other run does not have are orange.

    `layered` and `asynchronous` hold spike counts (T, size) of every population.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, own, other, title in zip(
        panels, (layered, asynchronous), (asynchronous, layered), titles, strict=True
    ):
        base, ticks = 0, []
        for name, counts in own.items():
            here, there = counts > 0, other[name] > 0
            for mask, color in ((here & there, "#4c566a"), (here & ~there, "#e8871e")):
                times, neurons = mask.nonzero(as_tuple=True)
                axes.scatter(
                    times, neurons + base, s=8, c=color, marker="|" if len(counts) > 40 else "s", lw=0.8
                )
            ticks.append((base + (counts.shape[1] - 1) / 2, name))
            base += counts.shape[1]
            axes.axhline(base - 0.5, color="0.8", lw=0.8)
        label = "{}" if len(ticks) > 5 else "population {}"
        axes.set_yticks([place for place, _ in ticks], [label.format(name) for _, name in ticks])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=title, xlabel="timestep", ylim=(-1, base))
    figure.suptitle("Spikes of one test sample (orange: only in this run)", fontsize="medium")
    return figure


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
