"""The whole comparison: train what is not trained, evaluate what is not evaluated, report."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import product
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

from lightning_modules.compare.evaluate import evaluate, make_networks
from lightning_modules.compare.figure_files import draw
from lightning_modules.compare.fold_data import held_out
from lightning_modules.compare.output_folder import REPORT, RESULTS, open_folder
from lightning_modules.compare.plan import Case, cases, conditions
from lightning_modules.compare.report import html
from lightning_modules.compare.results import Row, read_rows, write_rows
from lightning_modules.compare.settings import CompareSettings
from lightning_modules.compare.table import rich_table
from lightning_modules.compare.train import load_model, make_classifier, model_path, train
from lightning_modules.output_files import write_text
from lightning_modules.training.first_step_check import check_first_step
from lightning_modules.training.lightning_warnings import quiet_lightning
from lightning_modules.training.outputs import check_labels
from lightning_modules.user_errors import blame
from snn_async.errors import ConfigError

MakeData = Callable[[int | None, int | None], LightningDataModule]


def compare(
    settings: CompareSettings,
    make_data: MakeData,
    folder: Path,
    record: Mapping[str, Any],
    overwrite: bool = False,
    console: Console | None = None,
) -> list[Row]:
    """Run a comparison, or what an interrupted one left to do, and return its rows.

    Args:
        make_data: returns the data module for (fold, folds), both None without cross-validation.
        folder: gets settings.yaml, models/, logs/, results.csv, report.html and the figures.
        record: the settings as plain values; results in `folder` must have been made with the same.
        overwrite: remove the results in `folder` first.

    Raises:
        ConfigError: if settings do not fit each other, the data or the folder.
        SnnAsyncError: whatever the model or the data is refused for, before anything is written.
    """
    console = console or Console()
    plan = cases(settings)
    data_of = lru_cache(maxsize=1)(lambda fold: make_data(fold, settings.folds))  # one fold in memory
    measures = _check(plan, settings, data_of(plan[0].fold))
    open_folder(folder, dict(record), overwrite)
    rows = read_rows(folder / RESULTS, product(plan, conditions(settings)), measures)
    for case in plan:
        if model_path(case, folder).exists():
            load_model(case, settings, folder)  # a damaged one is told before the others are trained
    with _progress(console) as progress:
        _train_all(plan, settings, data_of, folder, progress)
        rows = _evaluate_all(plan, settings, data_of, folder, rows, progress)
    paths = draw(rows, settings, plan[0], data_of(plan[0].fold), folder)
    write_text(folder / REPORT, html(rows, paths, yaml.safe_dump(dict(record), sort_keys=False)))
    console.print(rich_table(rows))
    console.print(
        f"wrote {folder / RESULTS}, {folder / REPORT} and {', '.join(p.name for p in paths.values())}"
    )
    return rows


def _check(plan: list[Case], settings: CompareSettings, data: LightningDataModule) -> list[str]:
    """Raise what would be raised later, after hours and with files written; return what is measured."""
    representatives = {case.training: case for case in plan}.values()
    classifiers = [make_classifier(case, settings) for case in representatives]
    networks = make_networks(classifiers[0].net.model, conditions(settings), settings)
    with blame("data"):
        classes = getattr(data, "num_classes", None)
        batch = next(iter(held_out(data)), None)
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
    settings: CompareSettings,
    data_of: Callable[[int | None], LightningDataModule],
    folder: Path,
    progress: Progress,
) -> None:
    epochs = settings.training.epochs
    task = progress.add_task("training", total=len(plan) * epochs)
    for case in plan:
        if model_path(case, folder).exists():
            progress.advance(task, epochs)
            continue
        progress.update(task, description=f"training {case.name}")
        train(case, settings, data_of(case.fold), folder, lambda: progress.advance(task))
        progress.console.print(f"trained {case.name}")
    progress.update(task, description="training")


def _evaluate_all(
    plan: list[Case],
    settings: CompareSettings,
    data_of: Callable[[int | None], LightningDataModule],
    folder: Path,
    rows: list[Row],
    progress: Progress,
) -> list[Row]:
    wanted = conditions(settings)
    done = {(row.case, row.condition) for row in rows}
    task = progress.add_task("evaluating", total=len(plan))
    for case in plan:
        missing = [condition for condition in wanted if (case, condition) not in done]
        if missing:
            progress.update(task, description=f"evaluating {case.name}")
            networks = make_networks(load_model(case, settings, folder), missing, settings)
            tallies = evaluate(networks, held_out(data_of(case.fold)))
            rows = rows + [Row(case, condition, tally.measures()) for condition, tally in tallies.items()]
            write_rows(folder / RESULTS, rows)
        progress.advance(task)
    progress.update(task, description="evaluating")
    return rows


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
