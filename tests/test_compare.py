"""`snn-async compare`, whole, on data in memory: what it writes, resumes and refuses."""

import csv
import re

import pytest
import yaml

from lightning_modules.cli import main
from lightning_modules.compare import run
from lightning_modules.compare.folder import FIGURES


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
    monkeypatch.setattr(run, "evaluate", None)
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


def test_refusals_leave_nothing(tmp_path, config, capsys):
    (tmp_path / "file").touch()
    assert "cannot write" in refused(capsys, "--config", config, "--output", str(tmp_path / "file" / "out"))
    assert "unrecognized" in refused(capsys, "--config", config, "--training.epocs", "3")
    assert "tiny_data:nope" in refused(capsys, "--config", config, "--model", "tiny_data:nope")
    assert "change model_args" in refused(capsys, "--config", config, "--model_args", "{depth: 3}")
    assert "folds" in refused(capsys, "--config", config, "--folds", "3")
    assert "stop='never'" in refused(capsys, "--config", config, "--evaluation.stops", "[never]")
    assert not (tmp_path / "out").exists()
