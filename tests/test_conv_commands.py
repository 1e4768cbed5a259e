"""The configurations of convolutional networks, as they are but on tiny data: they run, and keep what they promise."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lightning_modules.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = ["--{}channels=[4,6]", "--{}stem_stride=2"]


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    label = np.arange(60) % 10
    pixels = rng.integers(0, 80, (60, 8, 8, 3)) + 15 * label[:, None, None, None]
    np.savez(tmp_path / "images.npz", image=pixels.astype(np.uint8), label=label)
    return str(tmp_path / "images.npz")


@pytest.fixture
def events(tmp_path):
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 100_000, (60, 300)))
    parts = {
        "x": rng.integers(0, 34, t.size),
        "y": rng.integers(0, 34, t.size),
        "p": rng.integers(0, 2, t.size),
    }
    offset, label = 300 * np.arange(61), np.arange(60) % 10
    np.savez(tmp_path / "events.npz", **parts, t=t.ravel(), offset=offset, label=label)
    return str(tmp_path / "events.npz")


def options(prefix):
    return [option.format(prefix) for option in TINY]


@pytest.mark.parametrize("name, data", [("fit_sew_cifar", "images"), ("fit_sew_events", "events")])
def test_fit(tmp_path, request, name, data):
    main([
        "fit", "--config", str(CONFIGS / f"{name}.yaml"), "--data.path", request.getfixturevalue(data),
        "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}",
        "--model.warmup_layered_steps=1", "--data.batch_size=18",
        "--data.val_fraction=0.2", "--data.test_fraction=0.2", *options("model.network.init_args."),
    ])  # fmt: skip
    with (tmp_path / "logs/version_0/metrics.csv").open(newline="") as file:
        logged = [row for row in csv.DictReader(file) if row["train_loss"]]
    assert [float(row["train_layered"]) for row in logged] == [0.5, 0.0]
    assert all(0 < float(row["train_loss"]) < 10 for row in logged)


def test_compare(tmp_path, images):
    main([
        "compare", "--config", str(CONFIGS / "compare_sew_cifar.yaml"), "--data.path", images,
        "--output", str(tmp_path / "out"), "--seeds=[0]", "--training.epochs=1", "--training.warmup_layered_steps=1",
        "--data.test_fraction=0.2", "--evaluation.steps=[2]", *options("model_args."),
    ])  # fmt: skip
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # 2 trainings x (layered + 2 schedulers x (3 F + one early stop))
    assert len(rows) == 2 * (1 + 2 * (3 + 1))
    assert {row["stop"] for row in rows} == {"quiescent", "after(2)"} and float(rows[0]["spikes_sn1"]) > 0
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/png;base64,") == 4
