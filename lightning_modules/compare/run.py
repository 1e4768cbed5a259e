"""The whole comparison: train what is not trained, evaluate what is not evaluated, report."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningDataModule
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from snn_async.errors import ConfigError

from ..output_files import write_text
from ..training.first_step_check import check_first_step
from ..training.lightning_warnings import quiet_lightning
from ..training.outputs import check_labels
from ..user_errors import blame
from .cells import Cells, read_cells, write_cells
from .evaluate import evaluate, make_networks
from .figure_files import draw
from .fold_data import held_out
from .keys import Keys, changed
from .output_folder import CELLS, REPORT, RESULTS, as_plain, opened
from .plan import Case, Condition, cases, conditions
from .report import html
from .results import Row, write_rows
from .settings import CompareSettings
from .table import rich_table
from .train import load_model, make_classifier, model_path, read_model, train

MakeData = Callable[[int | None, int | None], LightningDataModule]


def compare(
    settings: CompareSettings,
    make_data: MakeData,
    folder: Path,
    record: Mapping[str, Any],
    overwrite: bool = False,
    console: Console | None = None,
) -> list[Row]:
    """Run what is missing of a comparison and return its rows.

    Models and results in `folder` are kept while data, network and settings have the fingerprints they were made of.

    Args:
        make_data: returns the data module for (fold, folds), both None without cross-validation.
        folder: gets settings.yaml, models/, logs/, cells.json, results.csv, report.html and the figures.
        record: the settings as they were given; what is in `folder` must have been made with the same, but for seeds,
            training methods and the evaluation.
        overwrite: remove the results in `folder` first.

    Raises:
        ConfigError: if settings do not fit each other, the data or the folder.
        SnnAsyncError: whatever the model or the data is refused for, before anything is written.
    """
    console = console or Console()
    plan = cases(settings)
    data_of = lru_cache(maxsize=1)(lambda fold: make_data(fold, settings.folds))  # one fold in memory
    measures = _check(plan, settings, data_of(plan[0].fold))
    plain = as_plain(record)
    with opened(folder, plain, overwrite):
        cells, keys = read_cells(folder / CELLS), Keys(settings, record, data_of)
        untrained = _untrained(plan, keys, folder, console)
        known = len(cells)
        with _progress(console) as progress:
            _train_all(plan, untrained, settings, keys, folder, progress)
            rows = _evaluate_all(plan, settings, keys, folder, cells, measures, progress)
        write_rows(folder / RESULTS, rows)
        paths = draw(rows, settings, plan[0], data_of(plan[0].fold), folder)
        trained_at = Condition("random", settings.training.forward_group_size, "quiescent").size
        page = html(rows, paths, yaml.safe_dump(plain, sort_keys=False), trained_at)
        write_text(folder / REPORT, page)
    console.print(rich_table(rows))
    if known or len(untrained) < len(plan):
        console.print(
            f"{len(plan) - len(untrained)} of {len(plan)} models and {len(rows) + known - len(cells)} of {len(rows)} "
            "results kept from an earlier run"
        )
    console.print(
        f"wrote {folder / RESULTS}, {folder / REPORT} and {', '.join(p.name for p in paths.values())}"
    )
    return rows


def _untrained(plan: list[Case], keys: Keys, folder: Path, console: Console) -> list[Case]:
    """Return the models to train: those that are not there, or were made of something else."""
    untrained = []
    for case in plan:
        if not model_path(case, folder).exists():
            untrained.append(case)
            continue
        what = changed(read_model(case, folder)[1], keys.parts(case))
        if what:
            console.print(f"{case.name} is trained anew: its {what} changed")
            untrained.append(case)
    return untrained


def _check(plan: list[Case], settings: CompareSettings, data: LightningDataModule) -> list[str]:
    """Raise what would be raised later, after hours and with files written; return what is measured."""
    representatives = {case.training: case for case in plan}.values()
    classifiers = [make_classifier(case, settings) for case in representatives]
    for classifier in classifiers:
        if classifier.untaught_norm:
            raise ConfigError(
                f"training.warmup_layered_steps: 0, but {classifier.untaught_norm}; give a number of first steps that "
                "are layered, or a model with running statistics"
            )
    networks = make_networks(classifiers[0].net.model, conditions(settings), settings)
    with blame("data"):
        classes = getattr(data, "num_classes", None)
        batch = next(iter(held_out(data, settings.batch_first)), None)
    if batch is None:
        raise ConfigError("the data have no test samples to evaluate the models on")
    x, y = classifiers[0].labelled(batch)
    with blame("the first evaluation fails"):
        with torch.no_grad():
            outputs = classifiers[0](x).shape[-1]
        if classes is not None and classes != outputs:
            raise ConfigError(
                f"the data have {classes} classes, but {settings.model!r} has {outputs} outputs"
            )
        check_labels(y, outputs)
        tallies = evaluate(networks, [batch])
    with quiet_lightning():
        for classifier in classifiers:
            check_first_step(
                classifier, data, settings.training.select == "best", accelerator="cpu", devices=1
            )
    return list(tallies[conditions(settings)[0]].measures())


def _train_all(
    plan: list[Case],
    untrained: list[Case],
    settings: CompareSettings,
    keys: Keys,
    folder: Path,
    progress: Progress,
) -> None:
    epochs = settings.training.epochs
    task = progress.add_task("training", total=len(plan) * epochs)
    progress.advance(task, (len(plan) - len(untrained)) * epochs)
    for case in untrained:
        made_of = keys.parts(case)
        progress.update(task, description=f"training {case.name}")
        train(case, settings, keys.data_of(case.fold), folder, made_of, lambda: progress.advance(task))
        progress.console.print(f"trained {case.name}")
    progress.update(task, description="training")


def _evaluate_all(
    plan: list[Case],
    settings: CompareSettings,
    keys: Keys,
    folder: Path,
    cells: Cells,
    measures: list[str],
    progress: Progress,
) -> list[Row]:
    wanted = conditions(settings)
    task = progress.add_task("evaluating", total=len(plan))
    for case in plan:
        missing = [c for c in wanted if list(cells.get(keys.row(case, c), ())) != measures]
        if missing:
            progress.update(task, description=f"evaluating {case.name}")
            networks = make_networks(load_model(case, settings, folder), missing, settings)
            tallies = evaluate(networks, held_out(keys.data_of(case.fold), settings.batch_first))
            cells |= {keys.row(case, condition): tally.measures() for condition, tally in tallies.items()}
            write_cells(folder / CELLS, cells)
        progress.advance(task)
    progress.update(task, description="evaluating")
    found = [(case, condition, keys.row(case, condition)) for case in plan for condition in wanted]
    return [Row(case, condition, cells[key], key) for case, condition, key in found]


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
