"""`snn-async fit ... predict`: what it writes, and one clear line for what it cannot do."""

import csv

import pytest
import torch
import yaml

from lightning_modules.cli import main


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a YAML for fit with some values replaced."""

    def write(**changes):
        values = {
            "seed_everything": 1,
            "trainer": {
                "max_epochs": 1,
                "default_root_dir": str(tmp_path / "out"),
                "enable_progress_bar": False,
            },
            "model": {
                "network": "tiny_data:make_net",
                "forward_group_size": 2,
                "refractory_dropout": 0.5,
                "loss": {"class_path": "snntorch.functional.ce_rate_loss"},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
                "lr_scheduler": {
                    "class_path": "torch.optim.lr_scheduler.ExponentialLR",
                    "init_args": {"gamma": 0.9},
                },
            },
            "data": {"class_path": "tiny_data.TinyEvents"},
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return str(path)

    return write


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def refused(capsys, *arguments):
    """Return the single line on stderr of a call that ends with exit code 2."""
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert exit.value.code == 2 and len(lines) == 1
    return lines[0]


def test_fit_resume_test_and_predict(tmp_path, config):
    path, logs = config(), tmp_path / "out" / "logs"
    main(["fit", "--config", path])
    checkpoint = next((logs / "version_0" / "checkpoints").glob("*.ckpt"))
    assert (logs / "version_0" / "config.yaml").exists() and list((logs / "version_0").glob("events.out*"))
    logged = read(logs / "version_0" / "metrics.csv")[0]
    assert {"train_loss", "val_accuracy", "val_spikes", "val_forward_steps"} <= set(logged)

    main(["fit", "--config", path, "--trainer.max_epochs", "2", "--ckpt_path", str(checkpoint)])
    main(["fit", "--config", path, "--trainer.max_epochs", "2"])
    resumed, whole = (next((logs / f"version_{i}" / "checkpoints").glob("*.ckpt")) for i in (1, 2))
    a, b = (torch.load(p, weights_only=True)["state_dict"] for p in (resumed, whole))
    assert all(torch.equal(a[key], b[key]) for key in a)

    main(["predict", "--config", path, "--ckpt_path", str(whole), "--model.execution", "layered"])
    rows = read(logs / "version_3" / "predictions.csv")
    assert len(rows) == 48 and set(rows[0]) >= {"sample_id", "class", "forward_steps", "count_2"}

    main(["test", "--config", path, "--ckpt_path", str(whole)])


def test_checkpoint_that_does_not_fit(tmp_path, config, capsys):
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    torch.save({"state_dict": {"net.model.1.weight": torch.zeros(2, 2)}}, tmp_path / "other.ckpt")
    assert "damaged or no checkpoint" in refused(
        capsys, "test", "--config", config(), "--ckpt_path", str(tmp_path / "bad.ckpt")
    )
    assert "another architecture: net.model.1" in refused(
        capsys, "fit", "--config", config(), "--ckpt_path", str(tmp_path / "other.ckpt")
    )
    assert not (tmp_path / "out").exists()


def test_bad_configuration_is_one_line(tmp_path, config, capsys):
    assert "'colour'" in refused(capsys, "fit", "--config", config(colour=3))
    assert "width" in refused(
        capsys, "fit", "--config", config(model={"network": "tiny_data:make_net", "width": 3})
    )
    assert "no 'nope'" in refused(capsys, "fit", "--config", config(), "--model.network", "tiny_data:nope")
    assert "is no command" in refused(capsys, "train")
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(tmp_path, config, capsys):
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "out")
    assert "cannot write" in refused(capsys, "fit", "--config", config(), "--trainer.default_root_dir", place)


def test_usage_names_every_command(capsys):
    main([])
    assert "compare" in capsys.readouterr().out
