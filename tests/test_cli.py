"""`snn-async fit ... predict`: what it writes, and one clear line for what it cannot do."""

import csv
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from tiny_data import TinyEvents, collate

import lightning_modules
import snn_async.lightning
from lightning_modules import EpochSeeds, SpikingClassifier
from lightning_modules.cli import main

TWO_CLASSES = "{inputs: 12, hidden: [4], classes: 2}"


class Unlabelled(TinyEvents):
    def _collate(self, items):
        return collate(items)[:1]


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


def test_fit_resume_test_and_predict(tmp_path, config, capsys):
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
    names = ["sample_id", "class", "label", "forward_steps_all_timesteps", *(f"count_{c}" for c in range(3))]
    assert list(rows[0]) == names and [row["label"] for row in rows] == [str(i % 3) for i in range(48)]

    main(["test", "--config", path, "--ckpt_path", str(whole)])
    main(["fit", "--config", path, "--trainer.max_epochs", "2", "--ckpt_path", str(whole)])
    assert "nothing was left to do: the checkpoint has 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_untrained_weights_are_evaluated_only_if_meant(tmp_path, config, capsys, command):
    assert "there is no checkpoint, so untrained weights" in refused(capsys, command, "--config", config())
    assert not (tmp_path / "out").exists()
    keeps = {
        "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": str(tmp_path)},
    }
    trainer = {"default_root_dir": str(tmp_path / "out"), "enable_progress_bar": False, "callbacks": [keeps]}
    with pytest.warns(UserWarning, match="no last checkpoint"):
        error = refused(capsys, command, "--config", config(trainer=trainer), "--ckpt_path", "last")
    assert "give --ckpt_path FILE, or --untrained" in error


def test_several_processes_predict_and_validate_what_one_does(tmp_path, config, capsys):
    # three batches, so that one process has more of them than the other
    data = {"class_path": "tiny_data.TinyEvents", "init_args": {"with_ids": False, "batch_size": 10}}
    command, found = ["--config", config(data=data), "--untrained"], []
    for processes in ([], ["--trainer.devices=2", "--trainer.strategy=ddp_fork"]):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using `DistributedSampler`|.*fork")
            for name in ("predict", "validate"):
                main([name, *command, *processes])
        found.append(read(sorted((tmp_path / "out" / "logs").glob("*/metrics.csv"))[-1])[0])
    one, two = ([float(v) for k, v in metrics.items() if k.startswith("val")] for metrics in found)
    assert two == pytest.approx(one, rel=1e-6) and len(one) == 4
    first, second = sorted((tmp_path / "out" / "logs").glob("*/predictions.csv"))
    assert first.read_bytes() == second.read_bytes() and len(read(first)) == 48


def test_a_checkpoint_of_a_network_named_in_a_yaml_makes_it_again(tmp_path, config):
    network = {
        "class_path": "lightning_modules.mlp",
        "init_args": {"inputs": 12, "hidden": [5], "classes": 3},
    }
    main(["fit", "--config", config(model={"network": network, "forward_group_size": 3})])
    made = SpikingClassifier.from_checkpoint(next((tmp_path / "out").rglob("*.ckpt")))
    assert made.hparams["network"] == "lightning_modules:mlp" and made.network[3].weight.shape == (3, 5)
    assert made.net.options.forward_group_size == 3


def test_checkpoint_that_does_not_fit(tmp_path, config, capsys):
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    torch.save({"state_dict": {"net.model.1.weight": torch.zeros(2, 2)}}, tmp_path / "other.ckpt")
    assert "damaged or no checkpoint" in refused(
        capsys, "test", "--config", config(), "--ckpt_path", str(tmp_path / "bad.ckpt")
    )
    assert "another architecture: net.model.1" in refused(
        capsys, "fit", "--config", config(), "--ckpt_path", str(tmp_path / "other.ckpt")
    )
    (tmp_path / "last.file").write_bytes(b"no checkpoint")  # not Lightning's keyword "last"
    assert "damaged" in refused(
        capsys, "test", "--config", config(), "--ckpt_path", str(tmp_path / "last.file")
    )
    assert not (tmp_path / "out").exists()


def test_checkpoint_that_cannot_be_resumed(tmp_path, config, capsys):
    main(["fit", "--config", config()])
    made = next((tmp_path / "out" / "logs" / "version_0" / "checkpoints").glob("*.ckpt"))
    whole, path = torch.load(made, weights_only=True), tmp_path / "changed.ckpt"

    def resume(checkpoint, *options):
        torch.save(checkpoint, path)
        return refused(capsys, "fit", "--config", config(), "--ckpt_path", str(path), *options)

    assert "holds no network" in resume(whole["state_dict"])
    assert "has no 'pytorch-lightning_version'" in resume({"state_dict": whole["state_dict"]})
    assert "is a int, not a tensor" in resume(whole | {"state_dict": dict.fromkeys(whole["state_dict"], 1)})
    assert "another optimizer" in resume(whole, "--model.optimizer", "torch.optim.Adam")
    assert "another lr_scheduler" in resume(whole, "--model.lr_scheduler", "null")
    assert [p.name for p in (tmp_path / "out" / "logs").iterdir()] == ["version_0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.optimizer.lr=-1", "optimizer: ValueError: Invalid learning rate"),
        ("--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", "monitor: train_loss"),
        ("--model.loss=torch.nn.CrossEntropyLoss", "loss: ValueError: Expected input batch_size"),
        (f"--model.network=lightning_modules:mlp --model.network_args={TWO_CLASSES}", "from 0 to 1"),
        ("--data=test_cli.Unlabelled", "batches hold no labels"),
        ("--data.batch_first=true", "x must be time first"),
        ("--model.loss={class_path: tiny_data.nothing}", "loss: tiny_data.nothing returned None"),
        ("--model.loss={class_path: tiny_data.zero}", "loss=0 cannot be called"),
        ("--trainer.accelerator=foo", "trainer: ValueError"),
        (f"--seed_everything={2**70}", "seed_everything: ValueError"),
    ],
)
def test_what_would_fail_in_training_fails_before(tmp_path, config, capsys, options, message):
    options = [f"--{option}" for option in options.removeprefix("--").split(" --")]
    assert message in refused(capsys, "fit", "--config", config(), *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_training_is_one_line(config, capsys, monkeypatch, sent, code):
    monkeypatch.setattr(EpochSeeds, "on_train_batch_end", lambda *_: signal.raise_signal(sent))
    with pytest.raises(SystemExit) as exit:
        main(["fit", "--config", config()])
    assert exit.value.code == code and capsys.readouterr().err == "snn-async: interrupted\n"


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
    (tmp_path / "logs").touch()
    assert "logs' is a file" in refused(
        capsys, "fit", "--config", config(), "--trainer.default_root_dir", str(tmp_path)
    )
    assert "cannot write" in refused(capsys, "fit", "--config", config(), "--trainer.default_root_dir", place)


def test_public_names_are_there_and_where_they_were():
    from lightning_modules.digit_events import DigitEvents
    from lightning_modules.sew_resnet import sew_resnet

    from lightning_modules.models import mlp

    for name, place in lightning_modules.PLACES.items():
        found = getattr(lightning_modules, name)
        assert found.__module__ == f"lightning_modules.{place}" and found is getattr(
            snn_async.lightning, name
        )
        assert name in lightning_modules.__doc__ and name in dir(lightning_modules)
    assert (DigitEvents, mlp, sew_resnet) == tuple(
        getattr(lightning_modules, name) for name in ("DigitEvents", "mlp", "sew_resnet")
    )
    from snn_async.lightning.compare import run

    assert run is sys.modules["lightning_modules.compare.run"]
    program = "import sys, lightning_modules.cli; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path):
    (tmp_path / "lightning_modules").mkdir()
    (tmp_path / "lightning_modules" / "__init__.py").write_text("MINE = True")
    package = Path(lightning_modules.__file__).parent
    for file in package.rglob("*.py"):  # which is how its modules find each other
        assert not re.search(r"^\s*(from|import) lightning_modules", file.read_text(), re.MULTILINE), file
    program = """
import lightning_modules, pickle
from snn_async.lightning import SpikingClassifier, mlp
kind = pickle.loads(pickle.dumps(SpikingClassifier))
assert lightning_modules.MINE and kind.__module__ == "snn_async.lightning.training.classifier"
"""
    path = os.environ | {"PYTHONPATH": str(package.parent)}
    subprocess.run([sys.executable, "-c", program], check=True, env=path, cwd=tmp_path)


def test_usage_version_and_configurations(tmp_path, config, capsys, monkeypatch):
    main([])
    assert "compare" in capsys.readouterr().out
    main(["--version"])
    assert capsys.readouterr().out == f"snn-async {snn_async.__version__}\n"
    main(["configs"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    files = (Path(__file__).parents[1] / "configs").glob("*.yaml")
    assert names == sorted(file.stem for file in files) and "compare_digits" in names
    assert "seeds: [7, 7]" in refused(capsys, "compare", "--config=compare_digits", "--seeds=[7, 7]")
    assert "model.colour" in refused(capsys, "fit", "--config", "fit_digits", "--model.colour=red")
    monkeypatch.setitem(sys.modules, "lightning_modules.cli.commands", None)
    assert "pip install 'snn-async[all]'" in refused(capsys, "fit", "--config", config())
