"""Draw all figures of a comparison into its folder."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pytorch_lightning import LightningDataModule

from ..output_files import write_whole
from ..training.outputs import output_of, scores_of
from . import figures
from .evaluate import make_networks
from .fold_data import held_out
from .output_folder import FIGURES
from .plan import Case, Condition, conditions
from .results import Row
from .settings import CompareSettings
from .train import load_model

CAPTIONS = (
    "Every training method under every execution",
    "Accuracy when every timestep is stopped after so many forward steps",
    "Spikes per population",
    "The same sample and parameters, layered and asynchronous; orange: spikes that the other run does not have",
)


def draw(
    rows: Sequence[Row],
    settings: CompareSettings,
    case: Case,
    data: LightningDataModule,
    folder: Path,
) -> dict[str, Path]:
    """Write the PNG files and return them by caption; the raster is of `case` on the first test sample."""
    main = next((c for c in conditions(settings) if c.execution != "layered"), conditions(settings)[0])
    drawn = (
        figures.accuracy_matrix(rows, main.size, main.stop),
        figures.accuracy_steps(rows, main.size),
        figures.spikes(rows, main.size, main.stop),
        _raster(settings, case, data, folder),
    )
    paths = {caption: folder / name for caption, name in zip(CAPTIONS, FIGURES, strict=True)}
    for figure, path in zip(drawn, paths.values(), strict=True):
        write_whole(path, partial(figure.savefig, dpi=130))
    return paths


def _raster(settings: CompareSettings, case: Case, data: LightningDataModule, folder: Path) -> Figure:
    evaluation = settings.evaluation
    size, stop = evaluation.forward_group_sizes[0], evaluation.stops[0]
    wanted = [Condition(e, size, stop) for e in evaluation.executions if e != "layered"]
    pair = [Condition("layered", None, "quiescent"), *wanted[-1:]]
    x, y = next(iter(held_out(data, settings.batch_first)))[:2]
    networks = make_networks(load_model(case, settings, folder), pair, settings)
    runs, decisions = [], []
    for network in networks.values():
        plan = network.plan(x)
        with torch.no_grad():
            runs.append(network.run(x, record=list(plan.graph.index)))
        decisions.append(int(scores_of(output_of(runs[-1].result, plan))[0].argmax()))
    titles = [
        f"{case.training}-trained, {c.execution}" + (f", F = {c.size}" if c.size != "-" else "") for c in pair
    ]
    return figures.raster(
        (runs[0], runs[-1]), (titles[0], titles[-1]), int(y[0]), (decisions[0], decisions[-1])
    )
