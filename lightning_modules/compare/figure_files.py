"""Draw all figures of a comparison into its folder."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lightning_modules.compare import figures
from lightning_modules.compare.evaluate import make_networks
from lightning_modules.compare.fold_data import held_out
from lightning_modules.compare.output_folder import FIGURES
from lightning_modules.compare.plan import Case, Condition, conditions
from lightning_modules.compare.results import Row
from lightning_modules.compare.settings import CompareSettings
from lightning_modules.compare.train import load_model
from lightning_modules.output_files import write_whole
from snn_async import AsyncNetwork

CAPTIONS = (
    "Every training method under every execution",
    "Accuracy when every timestep is stopped after so many forward steps",
    "Spikes per population",
    "The same sample and parameters, layered and asynchronous",
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
    x = next(iter(held_out(data)))[0]
    networks = make_networks(load_model(case, settings, folder), pair, settings)
    runs = [_spikes(network, x) for network in networks.values()]
    titles = [
        f"{case.training}-trained, {c.execution}" + (f", F = {c.size}" if c.size != "-" else "") for c in pair
    ]
    return figures.raster(runs[0], runs[-1], (titles[0], titles[-1]))


def _spikes(network: AsyncNetwork, x: Tensor) -> dict[str, Tensor]:
    names = [population.name for population in network.plan(x).graph.populations]
    with torch.no_grad():
        return {
            name: record.spikes[:, 0].flatten(1)
            for name, record in network.run(x, record=names).records.items()
        }
