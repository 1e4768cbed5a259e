"""`snn-async compare`, whole, on data in memory: what it writes, resumes and refuses."""

import csv
import re

import pytest
import snntorch
import torch
import yaml

from lightning_modules.cli import main
from lightning_modules.compare import run
from lightning_modules.compare.output_folder import FIGURES


@pytest.fixture
def config(tmp_path):
    values = {
        "model": "tiny_data:make_net",
        "model_args": {"width": 6},
        "data": {"class_path": "tiny_data.TinyEvents"},
        "output": str(tmp_path / "out"),
        "seeds": [0, 1],
        "training": {
            "epochs": 2,
            "forward_group_size": 2,
            "refractory_dropout": 0.5,
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.02}},
        },
        "evaluation": {"forward_group_sizes": [2, None], "stops": ["quiescent", "output"], "steps": [1, 3]},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as exit:
        main(["compare", *arguments])
    assert exit.value.code == 2
    return capsys.readouterr().err


def test_writes_everything_and_a_second_call_trains_nothing(tmp_path, config, monkeypatch, capsys):
    main(["compare", "--config", config])
    out = tmp_path / "out"
    first = (out / "results.csv").read_bytes()
    # 3 trainings x 2 seeds x (layered + 2 schedulers x (2 F x 2 stops + 2 early stops))
    assert len(rows(out)) == 3 * 2 * (1 + 2 * (2 * 2 + 2))
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and not re.search(r'src="(?!data:)', page)
    assert all((out / name).stat().st_size > 5000 for name in FIGURES)
    monkeypatch.setattr(run, "train", None)
    monkeypatch.setattr(run, "write_rows", None)
    main(["compare", "--config", config])
    assert (out / "results.csv").read_bytes() == first
    assert re.search(r"momentum +random +2 +output +[0-9.]+ ± [0-9.]+", capsys.readouterr().out)

    assert "training.epochs was 2, is 3" in refused(capsys, "--config", config, "--training.epochs", "3")
    assert (out / "results.csv").read_bytes() == first


def test_interrupted_comparison_resumes_to_the_same_results(tmp_path, config, monkeypatch):
    trained, train = [], run.train

    def interrupted(case, *arguments):
        trained.append(case.name)
        if len(trained) == 3:
            raise KeyboardInterrupt
        train(case, *arguments)

    monkeypatch.setattr(run, "train", interrupted)
    with pytest.raises(SystemExit):
        main(["compare", "--config", config])
    monkeypatch.undo()
    assert len(list((tmp_path / "out" / "models").iterdir())) == 2
    main(["compare", "--config", config])
    main(["compare", "--config", config, "--output", str(tmp_path / "whole")])
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_quiescent_without_limit_is_layered(tmp_path, config):
    options = ["--training.methods", "[layered]", "--seeds", "[0]", "--training.select", "best"]
    main(["compare", "--config", config, *options])
    cells = {(r["execution"], r["forward_group_size"], r["stop"]): r for r in rows(tmp_path / "out")}
    for measure in ("accuracy", "spikes", "synaptic_operations"):
        assert cells["layered", "-", "quiescent"][measure] == cells["random", "all", "quiescent"][measure]


def test_folds_are_data_of_their_own(tmp_path, config):
    options = ["--training.methods", "[layered]", "--evaluation.executions", "[layered]", "--folds", "2"]
    main(["compare", "--config", config, *options])
    assert [(r["fold"], r["seed"]) for r in rows(tmp_path / "out")] == [("0", "0"), ("1", "1")]


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


def test_a_model_that_runs_all_timesteps_and_returns_logits(tmp_path, config):
    options = ["--model", "test_compare:Looped", "--training.epochs", "6", "--training.spike_penalty", "1e-4"]
    main(["compare", "--config", config, *options, *SMALL])
    accuracies = [float(row["accuracy"]) for row in rows(tmp_path / "out")]
    assert len(accuracies) == 1 + 2 * 2 + 2 and max(accuracies) > 0.6


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
    assert "folds" in refused(capsys, "--config", config, "--folds", "3")
    assert "stop='never'" in refused(capsys, "--config", config, "--evaluation.stops", "[never]")
    assert not (tmp_path / "out").exists()


SCHEDULER = ("--training.lr_scheduler", "StepLR", "--training.lr_scheduler.step_size", "0")
SMALL = ("--training.methods", "[layered]", "--evaluation.executions", "[layered, random]", "--seeds", "[0]")


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


def test_damaged_files_are_named_and_nothing_is_believed(tmp_path, config, capsys):
    command = ("--config", config, *SMALL)
    main(["compare", *command])
    out = tmp_path / "out"
    results, model, settings = (
        out / "results.csv",
        out / "models" / "layered_seed0.ckpt",
        out / "settings.yaml",
    )
    whole = results.read_text()
    lines = whole.splitlines(keepends=True)
    for damaged in (
        whole[:-9],
        whole + lines[1],
        whole + lines[1].replace("layered,0", "layered,7"),
        whole.replace("spikes", "spokes", 1),
        whole.replace(",48,", ",,", 1),
        "",
    ):
        results.write_text(damaged)
        assert "results.csv' is damaged" in refused(capsys, *command)
    results.unlink()  # what the message says
    main(["compare", *command])
    assert results.read_text() == whole

    for path, damage in (
        (model, model.read_bytes()[:900]),
        (model, b""),
        (settings, b"\xff"),
        (settings, b""),
    ):
        before = path.read_bytes()
        path.write_bytes(damage)
        error = refused(capsys, *command)
        assert path.name in error and "--overwrite" in error
        path.write_bytes(before)
    torch.save({"epoch": 3}, model)
    assert "layered_seed0.ckpt' holds no network" in refused(capsys, *command)


def test_a_folder_without_a_model_takes_new_settings(tmp_path, config, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", interrupted)
    for epochs in "23":
        with pytest.raises(SystemExit) as exit:
            main(["compare", "--config", config, "--training.epochs", epochs])
        assert exit.value.code == 130
    assert "epochs: 3" in (tmp_path / "out" / "settings.yaml").read_text()
    (tmp_path / "out" / "models").rmdir()
    (tmp_path / "out" / "models").touch()
    assert "models' is a file" in refused(capsys, "--config", config)
