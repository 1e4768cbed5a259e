"""`snn-async compare`, whole, on data in memory: what it writes, keeps, adds to, makes anew and refuses."""

import csv
import json
import re
import shutil
from contextlib import nullcontext
from itertools import product

import pytest
import snntorch
import tiny_data
import torch
import yaml
from filelock import FileLock

from lightning_modules import SpikingClassifier
from lightning_modules.cli import main
from lightning_modules.compare import run
from lightning_modules.compare.findings import headline
from lightning_modules.compare.output_folder import FIGURES
from lightning_modules.compare.plan import Case, Condition
from lightning_modules.compare.report import html
from lightning_modules.compare.results import Row

VALUES = {
    "model": "tiny_data:make_net",
    "model_args": {"width": 6},
    "data": {"class_path": "tiny_data.TinyEvents"},
    "seeds": [0, 1],
    "training": {
        "methods": ["layered", "random"],
        "epochs": 1,
        "forward_group_size": 2,
        "refractory_dropout": 0.5,
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}},
    },
    "evaluation": {
        "executions": ["layered", "random"],
        "forward_group_sizes": [2, None],
        "stops": ["quiescent", "output"],
        "steps": [1],
    },
}
CELLS = 1 + 2 * 2 + 1  # of each model: layered, 2 F x 2 stops, an early stop
SMALL = ("--training.methods", "[layered]", "--seeds", "[0]", "--evaluation.stops", "[quiescent]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A configuration and its finished comparison, in a folder that no test writes to."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "config.yaml").write_text(yaml.safe_dump(VALUES | {"output": str(folder / "out")}))
    main(["compare", "--config", str(folder / "config.yaml")])
    return folder


@pytest.fixture(autouse=True)
def undrawn(finished, monkeypatch):
    """Figures, most of a small comparison's time, are drawn for the finished one only."""
    monkeypatch.setattr(run, "draw", lambda *_: {})


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(VALUES | {"output": str(tmp_path / "out")}))
    return str(path)


@pytest.fixture
def copy(tmp_path, finished, config):
    """The folder of a finished comparison, to go on with."""
    return shutil.copytree(finished / "out", tmp_path / "out")


@pytest.fixture
def made(monkeypatch):
    """What is trained and evaluated in the test: names of models, and how many cells of each."""
    trained, evaluated = [], []
    train, networks = run.train, run.make_networks

    def training(case, *arguments):
        trained.append(case.name)
        train(case, *arguments)

    def evaluation(model, conditions, settings):
        evaluated.append(len(conditions))
        return networks(model, conditions, settings)

    monkeypatch.setattr(run, "train", training)
    monkeypatch.setattr(run, "make_networks", evaluation)
    monkeypatch.setattr(run, "check_first_step", lambda *_, **__: None)
    return trained, evaluated


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as exit:
        main(["compare", *arguments])
    assert exit.value.code == 2
    return capsys.readouterr().err


def test_writes_everything_and_a_second_call_makes_nothing(copy, config, made, capsys):
    before = (copy / "results.csv").read_bytes()
    assert len(rows(copy)) == 2 * 2 * CELLS
    page = (copy / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and not re.search(r'src="(?!data:)', page)
    assert all((copy / name).stat().st_size > 5000 for name in FIGURES)
    main(["compare", "--config", config])
    assert made == ([], [CELLS]) and (copy / "results.csv").read_bytes() == before  # those of the first check
    said = " ".join(capsys.readouterr().out.split())
    assert "4 of 4 models and 24 of 24 results kept from an earlier run" in said
    assert re.search(r"random random 2 output [0-9.]+ ± [0-9.]+", said)


def test_a_trained_model_is_a_checkpoint_that_makes_itself_again(finished):
    path = finished / "out" / "models" / "random_seed1.ckpt"
    made, saved = SpikingClassifier.from_checkpoint(path), torch.load(path, weights_only=True)
    assert made.hparams["network"] == "tiny_data:make_net" and made.network[1].weight.shape[0] == 6
    assert (made.net.options.scheduler, made.net.options.forward_group_size) == ("random", 2)
    assert all(torch.equal(value, saved["state_dict"][key]) for key, value in made.state_dict().items())


def found(seeds):
    """Rows of three trainings under three executions, at F = 4 and 8: a training wins under its own execution."""
    methods, rows = ("layered", "random", "momentum"), []
    for training, execution, seed in product(methods, methods, range(seeds)):
        for size in (None,) if execution == "layered" else (4, 8):
            accuracy = (
                0.9 if execution == "layered" else 0.5 + 0.2 * (training == execution) + (size == 8) / 10
            )
            measures = {"accuracy": accuracy + seed / 50}
            measures |= dict.fromkeys(("spikes", "forward_steps", "latency", "synaptic_operations"), 1.0)
            rows.append(Row(Case(training, seed), Condition(execution, size, "quiescent"), measures))
    return rows


def test_each_training_is_headlined_as_it_was_trained():
    few = " (2 seeds: too few for an interval that means anything)."
    assert headline(found(2), "8") == (
        "Without the barrier (random, F = 8), the accuracy of the network trained layered is 30.0 points lower than "
        "with it; trained random, it is 20.0 points higher than trained layered. Without the barrier (momentum, "
        "F = 8), the accuracy of the network trained layered is 30.0 points lower than with it; trained momentum, it "
        "is 20.0 points higher than trained layered" + few
    )
    assert headline(found(2), "16").count("F = 4") == 2  # not evaluated as trained: the first


@pytest.mark.parametrize(("seeds", "said"), [(1, "one seed"), (2, "too few for an interval"), (3, "not one")])
def test_intervals_are_of_three_seeds_and_more(seeds, said):
    page = html(found(seeds), {}, "")
    assert page.count(said) == (seeds < 3) and ("<th>95 % interval</th>" in page) == (seeds > 2)
    assert "nan" not in page


def test_another_seed_execution_size_and_stop_add_to_a_finished_comparison(
    copy, config, made, tmp_path, capsys
):
    old = rows(copy)
    more = ["--seeds=[0, 1, 2]", "--evaluation.executions=[layered, random, momentum]"]
    main(
        ["compare", "--config", config, *more, "--evaluation.stops=[quiescent]", "--evaluation.steps=[1, 3]"]
    )
    # Models of old seeds get momentum's 2 F and 2 early stops, and random's stop after 3; those of seed 2 everything.
    whole = 1 + 2 * (2 + 2)
    assert made == (["layered_seed2", "random_seed2"], [whole, *[5] * 4, *[whole] * 2])
    assert "4 of 6 models" in capsys.readouterr().out
    new = rows(copy)
    assert len(new) == 6 * whole
    assert [row for row in old if row["stop"] != "output"] == [
        row
        for row in new
        if row["seed"] != "2" and row["execution"] != "momentum" and row["stop"] != "after(3)"
    ]
    main(["compare", "--config", config])  # nothing is forgotten
    assert rows(copy) == old and len(made[0]) == 2


def test_an_interrupted_comparison_resumes_to_the_same_results(finished, tmp_path, config, monkeypatch):
    trained, train = [], run.train

    def interrupted(case, *arguments):
        trained.append(case.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(case, *arguments)

    monkeypatch.setattr(run, "train", interrupted)
    for _ in range(2):
        with pytest.raises(SystemExit) if len(trained) < 2 else nullcontext():
            main(["compare", "--config", config, "--seeds", "[1]"])
    assert trained == ["layered_seed1", "random_seed1", "random_seed1"]
    assert rows(tmp_path / "out") == [row for row in rows(finished / "out") if row["seed"] == "1"]


class Drifting(tiny_data.Patterns):
    """Other contents, of the same length, under the same name."""

    def __init__(self, seed):
        super().__init__(seed + 100)


def test_changed_data_or_code_make_models_anew(copy, config, made, monkeypatch, capsys):
    def steeper(width=8):
        from lightning_modules import mlp

        return torch.nn.Sequential(
            mlp(12, [width], 3, beta=0.7, threshold=0.3)
        )  # its populations are named otherwise

    old = {row["fingerprint"] for row in rows(copy)}
    for name, other, what in (("make_net", steeper, "network"), ("Patterns", Drifting, "data")):
        with monkeypatch.context() as changed:
            changed.setattr(tiny_data, name, other)
            main(["compare", "--config", config, *SMALL])
        assert f"layered_seed0 is trained anew: its {what} changed" in " ".join(
            capsys.readouterr().out.split()
        )
        new = {row["fingerprint"] for row in rows(copy)}
        assert len(new) == 1 + 2 + 1 and not new & old
        old |= new
        main(["compare", "--config", config, *SMALL])  # and back
        capsys.readouterr()
    assert made[0] == ["layered_seed0"] * 4


def test_a_function_as_loss_is_its_path_and_code(copy, config, made, monkeypatch, capsys):
    shutil.rmtree(copy)
    command = ["compare", "--config", config, *SMALL, "--training.loss", "tiny_data.summed"]
    main(command)
    main(command)
    assert made[0] == ["layered_seed0"]
    assert "tiny_data.summed" in (copy / "settings.yaml").read_text()

    def summed(outputs, targets):
        return torch.nn.functional.cross_entropy(2 * outputs.sum(0), targets)

    summed.__module__, summed.__qualname__ = "tiny_data", "summed"
    monkeypatch.setattr(tiny_data, "summed", summed)
    main(command)
    assert len(made[0]) == 2 and "its settings changed" in " ".join(capsys.readouterr().out.split())


def test_one_process_at_a_time(copy, config, capsys, monkeypatch):
    monkeypatch.setattr(run, "_check", lambda *_: [])
    with FileLock(copy / ".lock"):
        assert "another process is at work in" in refused(capsys, "--config", config)


def test_quiescent_without_limit_is_layered(finished):
    cells = {
        (r["execution"], r["forward_group_size"], r["stop"]): r
        for r in rows(finished / "out")
        if (r["training"], r["seed"]) == ("layered", "0")
    }
    for measure in ("accuracy", "spikes", "synaptic_operations"):
        assert cells["layered", "-", "quiescent"][measure] == cells["random", "all", "quiescent"][measure]


def test_folds_are_data_of_their_own_and_the_best_epoch_can_be_kept(tmp_path, config):
    options = ["--training.methods", "[layered]", "--evaluation.executions", "[layered]", "--folds", "2"]
    main(["compare", "--config", config, *options, "--training.select", "best"])
    assert [(r["fold"], r["seed"]) for r in rows(tmp_path / "out")] == [("0", "0"), ("1", "1")]


def normed(width=6):
    flat, linear, *others = tiny_data.make_net(width)
    return torch.nn.Sequential(flat, linear, torch.nn.BatchNorm1d(width), *others)


class Looped(torch.nn.Module):
    """All timesteps of x (T, B, 12), to logits (B, 3)."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(12, width), torch.nn.Linear(width, 3)
        self.lif = snntorch.Leaky(beta=0.8, threshold=0.3)

    def forward(self, x):
        mem, logits = self.lif.init_leaky(), []
        for t in range(x.size(0)):
            spikes, mem = self.lif(self.fc1(x[t]), mem)
            logits.append(self.fc2(spikes))
        return torch.stack(logits).mean(0)


def test_a_model_that_runs_all_timesteps_and_returns_logits_on_batch_first_data(tmp_path, config):
    options = ["--model", "test_compare:Looped", "--training.epochs", "6", "--training.spike_penalty", "1e-4"]
    turned = ["--batch_first", "true", "--data.batch_first", "true"]
    main(["compare", "--config", config, *options, *turned, *SMALL])
    accuracies = [float(row["accuracy"]) for row in rows(tmp_path / "out")]
    assert len(accuracies) == 1 + 2 + 1 and max(accuracies) > 0.6


def test_refusals_leave_nothing(tmp_path, config, capsys):
    (tmp_path / "file").touch()
    assert "cannot write" in refused(capsys, "--config", config, "--output", str(tmp_path / "file" / "out"))
    assert "unrecognized" in refused(capsys, "--config", config, "--training.epocs", "3")
    assert "unrecognized" in refused(capsys, "--config", config, "--training.epoch", "3")  # no abbreviations
    assert "tiny_data:nope" in refused(capsys, "--config", config, "--model", "tiny_data:nope")
    assert "ZeroDivisionError" in refused(capsys, "--config", config, *SCHEDULER)
    assert "max_forward_steps=1 " in refused(capsys, "--config", config, "--execution.max_forward_steps", "1")
    assert f"seeds: {2**70}" in refused(capsys, "--config", config, "--seeds", f"[{2**70}]")
    assert "change model_args" in refused(capsys, "--config", config, "--model_args", "{depth: 3}")
    error = refused(capsys, "--config", config, "--model", "test_compare:normed")
    assert "training.warmup_layered_steps: 0, but BatchNorm '2' has seen no data" in error
    assert "folds" in refused(capsys, "--config", config, "--folds", "3")
    assert "stop='never'" in refused(capsys, "--config", config, "--evaluation.stops", "[never]")
    assert "x must be time first" in refused(capsys, "--config", config, "--data.batch_first", "true")
    nothing = "{class_path: tiny_data.nothing}"
    assert "tiny_data.nothing returned None" in refused(
        capsys, "--config", config, "--training.loss", nothing
    )
    assert not (tmp_path / "out").exists()


SCHEDULER = ("--training.lr_scheduler", "StepLR", "--training.lr_scheduler.step_size", "0")


def test_a_factory_that_raises_is_blamed_with_its_line(tmp_path, config, capsys, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text("def make(width):\n    return {}['layers']\n")
    (tmp_path / "worse.py").write_text("1 / 0\n")
    # the YAML's model_args are its own model's, not another one's
    assert "missing a required argument: 'width'" in refused(
        capsys, "--config", config, "--model", "mine:make"
    )
    error = refused(capsys, "--config", config, "--model", "mine:make", "--model_args", "{width: 3}")
    assert f"KeyError: 'layers' ({tmp_path}/mine.py:2)" in error and "change model_args" not in error
    error = refused(capsys, "--config", config, "--model", "worse:make")
    assert f"ZeroDivisionError: division by zero ({tmp_path}/worse.py:1)" in error
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_named_and_nothing_is_believed(copy, config, capsys, monkeypatch):
    monkeypatch.setattr(run, "_check", lambda plan, settings, data: list(next(iter(known.values()))))
    results, cells, settings = copy / "results.csv", copy / "cells.json", copy / "settings.yaml"
    model, known = copy / "models" / "random_seed0.ckpt", json.loads(cells.read_text())
    whole = results.read_bytes()
    first = next(iter(known))
    for damaged in (
        cells.read_text()[:-9],
        json.dumps(known | {first: known[first] | {"spikes": "many"}}),
        "[]",
        "",
    ):
        cells.write_text(damaged)
        assert "cells.json' is damaged" in refused(capsys, "--config", config)
    cells.unlink()  # what the message says
    results.write_text("damaged")  # of which nothing is read
    main(["compare", "--config", config])
    assert results.read_bytes() == whole

    for path, damage in (
        (model, model.read_bytes()[:900]),
        (model, b""),
        (settings, b"\xff"),
        (settings, b""),
    ):
        before = path.read_bytes()
        path.write_bytes(damage)
        error = refused(capsys, "--config", config)
        assert path.name in error and "--overwrite" in error
        path.write_bytes(before)
    torch.save({"epoch": 3}, model)
    assert "random_seed0.ckpt' holds no network" in refused(capsys, "--config", config)


def test_other_settings_are_for_another_folder_once_there_is_a_model(copy, config, capsys, monkeypatch):
    monkeypatch.setattr(run, "_check", lambda *_: [])
    mine, of_a_killed_process = copy / ".pre-commit-config.yaml", copy / ".settings.123.yaml"
    mine.touch()
    of_a_killed_process.touch()
    assert "training.epochs was 1, is 3" in refused(capsys, "--config", config, "--training.epochs", "3")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    shutil.rmtree(copy / "models")
    (copy / "results.csv").unlink()
    monkeypatch.setattr(run, "train", interrupted)
    for epochs in "23":
        with pytest.raises(SystemExit) as exit:
            main(["compare", "--config", config, "--training.epochs", epochs])
        assert exit.value.code == 130
    assert "epochs: 3" in (copy / "settings.yaml").read_text()
    assert mine.exists() and not of_a_killed_process.exists()
    (copy / "models").rmdir()
    (copy / "models").touch()
    assert "models' is a file" in refused(capsys, "--config", config)
