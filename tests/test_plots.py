"""Figures of single samples and of comparisons: what they show, and that all of it can be read."""

import importlib
import sys

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from networks import Recipe, frames, network
from test_semantics import COMPETING, graph

from lightning_modules.compare import figures
from lightning_modules.compare.findings import differences, headline
from lightning_modules.compare.plan import Case, Condition
from lightning_modules.compare.report import html
from lightning_modules.compare.results import Row
from snn_async import plots
from snn_async.errors import InputError, OptionError

FRAMES = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]], dtype=torch.float64).unsqueeze(1)


def small(**options):
    """A 6-5-4-3 network and its input of two timesteps and samples."""
    recipe = Recipe((6, 5, 4, 3), ("subtract",) * 3)
    return network(recipe.graph(), "numba", **options), frames(recipe.graph(), 2, 2, recipe.seed)


def large(steps=3):
    """A 900-200-60-10 network, whose neurons are too many for a line each."""
    recipe = Recipe((900, 200, 60, 10), ("subtract",) * 3)
    return network(recipe.graph(), "numba", forward_group_size=30), frames(recipe.graph(), steps, 1, 0)


def assert_readable(figure):
    """Nothing is cut at the figure's edges, no text or legend lies on another one or over data."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, whole = canvas.get_renderer(), figure.bbox
    panels = [axes.patch.get_window_extent() for axes in figure.axes]
    words = [t for axes in figure.axes for t in (*axes.texts, axes.title, axes._left_title, axes.xaxis.label)]
    words += [t for axes in figure.axes for t in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    words += [figure._suptitle] if figure._suptitle else []
    boxes = [t.get_window_extent(renderer) for t in words if t.get_text() and t.get_visible()]
    for box in boxes:
        assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1 and box.y0 >= whole.y0 - 1, box
    for i, box in enumerate(boxes):
        assert not any(box.padded(-1).overlaps(other) for other in boxes[:i])
    for legend in figure.legends:
        place = legend.get_window_extent(renderer)
        assert not any(place.overlaps(panel) for panel in panels)
        assert place.x0 >= 0 and place.x1 <= whole.x1 and place.y0 >= 0


def test_populations_are_named_for_people():
    shapes = {"conv.lif": (8, 12, 12), "hidden 2": (64,), "4": (10,)}
    assert list(plots.labels(shapes).values()) == [
        "hidden 1, 8x12x12 (conv.lif)",
        "hidden 2, 64",
        "output, 10 (4)",
    ]


@pytest.mark.parametrize("make, timesteps", [(small, 1), (small, 2), (large, None)])
def test_a_timeline_can_be_read(make, timesteps):
    net, x = make()
    assert_readable(plots.timeline(net, x, timesteps=timesteps))


def test_a_timeline_of_a_large_network_shows_the_most_active_or_the_chosen_and_says_so():
    net, x = large()
    figure = plots.timeline(net, x, neurons={"p1": [7, 3]})
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert names == [
        *("input, 900\n10 most active", "hidden 1, 200 (p0)\n10 most active"),
        *("hidden 2, 60 (p1)\n2 chosen", "output, 10 (p2)"),
    ]
    shown = [text.get_text() for text in figure.axes[1].texts]
    spiked = net.run(x, record=["p0"]).records["p0"].spikes[:, 0].sum(0)
    layered = net.layered(x, record=["p0"]).records["p0"].spikes[:, 0].sum(0)
    most = (spiked + layered).argsort(descending=True, stable=True)[:10].sort().values
    assert {"3", "7", *map(str, most.tolist())} <= set(shown)
    for neurons, says in (
        ({"p9": [1]}, "'p9' is no population; there are"),
        ({"p2": [10]}, "'p2' has no 10"),
        (0, "neurons=0 must be lists of numbers by population: {'p2': "),
        ({"p2": 1}, "neurons={'p2': 1} must be lists"),
    ):
        with pytest.raises(OptionError, match=says):
            plots.timeline(net, x, neurons=neurons)


def test_a_timeline_says_which_timesteps_it_leaves_out():
    net, x = large(steps=8)
    assert "(timesteps 0 to" in plots.timeline(net, x).axes[1].get_xlabel()
    assert "(timestep 0 of 8)" in plots.timeline(net, x, timesteps=1).axes[1].get_xlabel()
    long = network(Recipe((900, 200, 10), ("subtract",) * 2).graph(), "numba", forward_group_size=1)
    label = plots.timeline(long, x[:1]).axes[1].get_xlabel()
    assert "the first 48 of timestep 0's" in label


@pytest.mark.parametrize("steps", [1, 10])
def test_a_raster_shows_every_output_neuron_with_class_and_decision(steps):
    net, x = large(steps)
    names = ["p0", "p1", "p2"]
    run, layered = (method(x, record=names) for method in (net.run, net.layered))
    axes = plots.raster(run, against=layered, label=3)
    assert_readable(axes.figure)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["hidden 1, 200 (p0)\n3.12 neurons a row", "hidden 2, 60 (p1)", "output, 10 (p2)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(t) for t in range(steps)]
    totals = run.spikes[:, 0].sum(0)
    texts = [text.get_text().strip() for text in axes.texts]
    decided = int(totals.argmax())
    assert {str(i) for i in range(10)} <= set(texts) and decided != 3
    assert f"{totals[3]:g}  class" in texts and f"{totals[decided]:g}  decision" in texts
    image = axes.images[-1].get_array()  # of the output, a row each
    assert ((image < 1).any(-1) == (run.spikes[:, 0] > 0).T.numpy()).all()
    new = (run.spikes[:, 0] > 0) & ~(layered.spikes[:, 0] > 0)
    assert ((image[..., 0] > image[..., 2] + 0.5) == new.T.numpy()).all()


def test_figures_of_what_cannot_be_drawn():
    net = network(graph(COMPETING), "reference")
    for timesteps in (4, 0, 1.5, "2", True):
        with pytest.raises(OptionError, match=f"timesteps={timesteps!r} must be from 1 to the input's 3"):
            plots.timeline(net, FRAMES, timesteps=timesteps)
    for timesteps in (None, 1):
        with pytest.raises(InputError, match="without a tensor|x is a NoneType"):
            plots.timeline(net, None, timesteps=timesteps)
    with pytest.raises(InputError, match="net is a Linear; pass the network that asynchronize"):
        plots.timeline(torch.nn.Linear(2, 3), FRAMES)
    with pytest.raises(InputError, match="no spikes to draw"):
        plots.raster(net.run(FRAMES).records)
    for spikes, says in (
        (None, "spikes are a NoneType; pass a torch tensor"),
        (FRAMES.numpy(), "spikes are a ndarray"),
        ({"p0": [[1]]}, "spikes of 'p0' are a list"),
        (torch.ones(3), r"spikes have shape \(3,\)"),
        (torch.ones(0, 3), r"spikes have shape \(0, 3\)"),
    ):
        with pytest.raises(InputError, match=says):
            plots.raster(spikes)
    for sample in (1, 0.0):
        with pytest.raises(InputError, match=f"sample={sample} is not one of the batch's 1"):
            plots.raster(net.run(FRAMES), sample=sample)


def test_a_raster_is_as_wide_as_its_longest_record():
    axes = plots.raster({"long": torch.ones(5, 2), "short": torch.ones(3, 2)})
    assert axes.get_xlim() == (-0.5, 4.5)


def test_the_figures_are_drawn_without_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    pytest.importorskip("matplotlib")
    recipe = Recipe((6, 5, 4, 3), ("subtract",) * 3)
    x = frames(recipe.graph(), 2, 2, recipe.seed)
    net = network(recipe.graph(), "numba", forward_group_size=2, stop="after(3)", leftover="carry")
    figure = plots.timeline(net, x, sample=1)
    assert "momentum, F = 2" in figure.axes[1].get_title(loc="left")
    figure.savefig(tmp_path / "timeline.png")
    axes = plots.raster(net.run(x, record=["p0", "p2"]).records, sample=1)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["p0", "p2"]
    axes.figure.savefig(tmp_path / "raster.png")
    assert {path.name for path in tmp_path.iterdir()} == {"timeline.png", "raster.png"}


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    importlib.reload(plots)
    with pytest.raises(ImportError, match=r"pip install 'snn-async\[lightning\]'"):
        plots.raster(torch.ones(2, 3))


# --- comparisons


def rows(accuracies, steps=(1, 4)):
    """Rows of accuracies, {(training, execution): one of each seed}, also stopped after `steps`."""
    found = []
    for (training, execution), values in accuracies.items():
        size = None if execution == "layered" else 8
        stops = ["quiescent", *(f"after({step})" for step in steps if execution != "layered")]
        for seed, accuracy in enumerate(values):
            for stop in stops:
                spikes = {"spikes_features.3": 30.0, "spikes_6": 20.0, "spikes_8": 5.0}
                number = 12.5 if stop == "quiescent" else float(stop[6:-1])
                measures = {"accuracy": accuracy, "forward_steps": number, "spikes": 55.0, "latency": 3.0}
                measures |= {"synaptic_operations": 100.0, **spikes}
                found.append(Row(Case(training, seed), Condition(execution, size, stop), measures))
    return found


FOUND = {
    ("layered", "layered"): (0.90, 0.92, 0.91),
    ("layered", "random"): (0.80, 0.83, 0.80),
    ("random", "layered"): (0.90, 0.91, 0.92),
    ("random", "random"): (0.85, 0.86, 0.89),
}


@pytest.mark.parametrize("steps", [(), (1, 4, 8)])
def test_figures_of_a_comparison_can_be_read(steps):
    many = rows(FOUND, steps)
    for figure in (
        figures.accuracy_matrix(many, "8", "quiescent"),
        figures.accuracy_steps(many, "8"),
        figures.spikes(many, "8", "quiescent"),
    ):
        assert_readable(figure)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [
        *("hidden 1\n(features.3)", "hidden 2\n(6)", "output\n(8)")
    ]


def test_the_rasters_of_a_comparison_can_be_read():
    net, x = large()
    runs = tuple(method(x, record=["p0", "p1"]) for method in (net.layered, net.run))
    assert_readable(
        figures.raster(runs, ("layered-trained, layered", "layered-trained, momentum"), 3, (3, 4))
    )


def test_differences_are_those_of_paired_seeds():
    breaks, mends, price = differences(rows(FOUND))
    # -10, -9 and -11 points: mean -10, t(2) = 4.303 times 1 / sqrt(3)
    assert (breaks.value, breaks.margin) == pytest.approx((-10, 2.484), abs=1e-3) and breaks.significant
    assert mends.value == pytest.approx(5.6667, abs=1e-3) and mends.interval == "-1.9 to +13.3"
    assert not mends.significant and price.value == pytest.approx(0) and not price.significant
    assert headline(rows(FOUND)) == (
        "Without the barrier (random, F = 8), the accuracy of the network trained layered is 10.0 points lower "
        "than with it (95 % interval -12.5 to -7.5, 3 seeds); trained random, it is 5.7 points higher than trained "
        "layered (95 % interval -1.9 to +13.3, 3 seeds: not significant with these seeds)."
    )
    alone = rows({cell: values[:1] for cell, values in FOUND.items()})
    assert "(one seed, which says nothing about others)" in headline(alone)
    assert headline(rows({("layered", "layered"): (0.9,)})) == ""


def test_a_report_begins_with_what_was_found_and_folds_the_long_table():
    page = html(rows(FOUND), {}, "seeds: [0]")
    assert page.index("10.0 points lower") < page.index("Each row of the matrix")
    short, folded = page.split("<details>")[:2]
    assert "after(" not in short and folded.count("<td>after(4)</td>") == 2
    assert "All 8 rows" in folded and short.count("not significant with these seeds") == 3
