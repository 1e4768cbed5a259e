"""SpikingClassifier: resuming, checkpoints and what they keep, evaluation independent of batching, layouts of data."""

from subprocess import Popen  # noqa: F401 (what a checkpoint may not name)

import pytest
import pytorch_lightning as pl
import snntorch.functional as SF
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny_data import TinyEvents, make_net

from lightning_modules import MeanLoss, RateLoss, SpikingClassifier
from lightning_modules.training.first_step_check import check_first_step
from lightning_modules.training.lightning_warnings import quiet_lightning
from lightning_modules.training.losses import loss_for
from snn_async.errors import CheckpointError, DataError, OptionError, UnsupportedModelError
from snn_async.stopping import After


@pytest.fixture(autouse=True)
def quiet():
    with quiet_lightning():
        yield


def classifier(width=8, **options):
    torch.manual_seed(3)
    options = {"scheduler": "random", "forward_group_size": 2, "refractory_dropout": 0.5} | options
    return SpikingClassifier(make_net(width), optimizer=lambda p: torch.optim.Adam(p, lr=0.02), **options)


def trainer(folder, epochs, *callbacks):
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
    )


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("at_train_end", [False, True])
def test_resumed_fit_reaches_the_weights_of_an_uninterrupted_one(tmp_path, at_train_end):
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=at_train_end)
    whole = classifier()
    trainer(tmp_path, 4, keep).fit(whole, TinyEvents())
    resumed = classifier()
    torch.manual_seed(99)
    trainer(tmp_path, 4, keep).fit(resumed, TinyEvents(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert torch.equal(weights(whole), weights(resumed))


def test_training_continues_after_a_finished_fit(tmp_path):
    whole = classifier()
    trainer(tmp_path, 3).fit(whole, TinyEvents())
    first, short = classifier(), trainer(tmp_path, 1)
    short.fit(first, TinyEvents())
    short.save_checkpoint(tmp_path / "a.ckpt")
    assert not torch.equal(weights(whole), weights(first))
    second = classifier()
    torch.manual_seed(99)
    trainer(tmp_path, 3).fit(second, TinyEvents(), ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(weights(whole), weights(second))


def test_checkpoint_of_another_architecture_is_refused_before_loading(tmp_path):
    short = trainer(tmp_path, 1)
    short.fit(classifier(), TinyEvents())
    short.save_checkpoint(tmp_path / "a.ckpt")
    other = classifier(width=5)
    before = weights(other)
    with pytest.raises(
        CheckpointError, match=r"model\.1\.weight has shape \(8, 12\) in it and \(5, 12\) here"
    ):
        trainer(tmp_path, 2).fit(other, TinyEvents(), ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(before, weights(other))


@pytest.mark.parametrize("with_ids", [True, False])
def test_evaluation_does_not_depend_on_batching(tmp_path, with_ids):
    model, results = classifier(), []
    for batch_size in (48, 7):
        results.append(
            trainer(tmp_path, 1).test(model, TinyEvents(batch_size, with_ids=with_ids), verbose=False)[0]
        )
    assert set(results[0]) == {"test_loss", "test_accuracy", "test_spikes", "test_forward_steps"}
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.parametrize("persistent", [False, True])
def test_the_number_of_workers_changes_no_weight(tmp_path, persistent):
    trained = []
    for workers in (0, 2):
        model, data = classifier(), TinyEvents(num_workers=workers, persistent=persistent and workers > 0)
        trainer(tmp_path, 2).fit(model, data.train_dataloader(), TinyEvents().val_dataloader())
        trained.append(weights(model))
    assert torch.equal(*trained)


def test_a_checkpoint_gives_the_classifier_back(tmp_path):
    options = {
        "execution": "layered",
        "scheduler": "fifo",
        "stop": "output",
        "seed": 5,
        "forward_group_size": 3,
    }
    named = SpikingClassifier("tiny_data:make_net", network_args={"width": 5}, **options)
    keep = trainer(tmp_path, 1)
    keep.fit(named, TinyEvents())
    keep.save_checkpoint(tmp_path / "a.ckpt")
    loaded = SpikingClassifier.from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(weights(loaded), weights(named))
    assert dict(loaded.hparams) == dict(named.hparams) and loaded.net.options.stop == "output"
    assert type(loaded.network) is torch.nn.Sequential and loaded.network[1].weight.shape == (5, 12)
    again = SpikingClassifier.load_from_checkpoint(tmp_path / "a.ckpt", network=make_net(5))
    assert (
        again.execution == "layered" and again.net.seed == 5 and torch.equal(weights(again), weights(named))
    )
    with pytest.raises(
        CheckpointError, match="stop='quiescent' contradicts the checkpoint.* 'output'; leave it out"
    ):
        SpikingClassifier.from_checkpoint(tmp_path / "a.ckpt", stop="quiescent")
    slow = make_net(5)
    slow[2].reset_delay = False
    with pytest.raises(
        CheckpointError, match="'2' was Leaky.*reset_delay=True.* and is Leaky.*reset_delay=False"
    ):
        SpikingClassifier.load_from_checkpoint(tmp_path / "a.ckpt", network=slow)


def test_what_a_checkpoint_does_not_hold_is_asked_for(tmp_path):
    def save(model):
        keep = trainer(tmp_path, 1)
        keep.strategy.connect(model)
        keep.save_checkpoint(tmp_path / "a.ckpt")
        return tmp_path / "a.ckpt"

    path = save(classifier(stop=After(3)))
    with pytest.raises(CheckpointError, match="an object as stop, which it does not hold"):
        SpikingClassifier.load_from_checkpoint(path, network=make_net())
    with pytest.raises(
        CheckpointError, match="contradicts the checkpoint, which was made with another object"
    ):
        SpikingClassifier.load_from_checkpoint(path, network=make_net(), stop=After(4))
    with pytest.raises(CheckpointError, match="what makes its network.* give it: network=..."):
        SpikingClassifier.from_checkpoint(path, stop=After(3))
    assert SpikingClassifier.load_from_checkpoint(
        path, network=make_net(), stop=After(3)
    ).net.options.stop == After(3)


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "subprocess:run",
        "torch:load",
        "test_classifier:Popen",
        "lightning_modules.cli:main",
        "a:b",
    ],
)
def test_a_checkpoint_cannot_choose_what_runs(tmp_path, name):
    keep, model = trainer(tmp_path, 1), SpikingClassifier("tiny_data:make_net")
    keep.strategy.connect(model)
    keep.save_checkpoint(tmp_path / "a.ckpt")
    hostile = torch.load(tmp_path / "a.ckpt", weights_only=True)
    hostile["hyper_parameters"] |= {
        "network": name,
        "network_args": {"args": ["touch", str(tmp_path / "ran")]},
    }
    torch.save(hostile, tmp_path / "a.ckpt")
    for load in (SpikingClassifier.from_checkpoint, SpikingClassifier.load_from_checkpoint):
        with pytest.raises(CheckpointError, match=f"names '{name}' .*so it is not run"):
            load(tmp_path / "a.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("batch_size", [16, 4])
def test_batch_first_data_is_refused_or_turned(tmp_path, batch_size):
    data = {"batch_size": batch_size, "batch_first": True}  # of 4 timesteps
    with pytest.raises(
        DataError, match=r"holds \d+ samples, but .*: x must be time first, .*batch_first=True"
    ):
        trainer(tmp_path, 1).fit(classifier(), TinyEvents(**data))
    turned = classifier(batch_first=True)
    trainer(tmp_path, 1).fit(turned, TinyEvents(**data))
    plain = classifier()
    trainer(tmp_path, 1).fit(plain, TinyEvents(batch_size))
    assert torch.equal(weights(turned), weights(plain))
    results = [
        (trainer(tmp_path, 1).test(m, d, verbose=False), trainer(tmp_path, 1).predict(m, d))
        for m, d in ((turned, TinyEvents(**data, with_ids=False)), (plain, TinyEvents(batch_size)))
    ]
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)


def test_prediction_returns_class_counts_and_steps(tmp_path):
    batch = trainer(tmp_path, 1).predict(classifier(), TinyEvents(48))[0]
    assert batch["counts"].shape == (48, 3) and torch.equal(batch["counts"].argmax(1), batch["class"])
    assert batch["sample_id"].tolist() == list(range(48))
    assert (batch["forward_steps_all_timesteps"] >= 4).all()


@pytest.mark.parametrize(("steps", "said"), [(0, 1), (1, 0)])
def test_a_batch_norm_without_statistics_is_told_before_training(tmp_path, caplog, steps, said):
    net = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.BatchNorm1d(8), *make_net()[2:])
    module = SpikingClassifier(net, warmup_layered_steps=steps)
    check_first_step(module, TinyEvents(), False, accelerator="cpu")
    trainer(tmp_path, 1).fit(module, TinyEvents())
    assert caplog.text.count("BatchNorm '1' has seen no data") == said  # by the fit, not by the check too


@pytest.mark.parametrize("loss", [SF.ce_rate_loss(), SF.mse_count_loss(), RateLoss(0.5)])
def test_losses_and_execution_options(tmp_path, loss):
    model = classifier(loss=loss, execution="layered", spike_penalty=1e-3, lr_scheduler=halve)
    fit = trainer(tmp_path, 2)
    fit.fit(model, TinyEvents())
    assert fit.callback_metrics["train_forward_steps"] <= 2  # two populations, one barrier each
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.005)


def test_a_training_rule_is_the_networks(tmp_path):
    gradients = []
    for rule in ("unlayered", "through_the_loop"):
        model = classifier(rule=rule, refractory="discard", refractory_dropout=0.0, backend="torch")
        weight, fit = next(model.parameters()), trainer(tmp_path, 1)
        model.on_after_backward = lambda weight=weight: gradients.append(weight.grad.clone())
        fit.limit_train_batches = 1
        fit.fit(model, TinyEvents())
        assert fit.callback_metrics["train_loss"].isfinite()
    unlayered, through_the_loop = gradients
    assert unlayered.any() and through_the_loop.any() and not torch.allclose(unlayered, through_the_loop)


def halve(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def test_rate_loss_is_cross_entropy_of_counts():
    counts = torch.tensor([[[2.0, 0.0]], [[1.0, 1.0]]])  # T = 2, B = 1: totals 3 and 1
    assert RateLoss(0.5)(counts, torch.tensor([0])).item() == pytest.approx(0.3133, abs=1e-4)  # log(1 + e^-1)


def test_the_usual_loss_follows_from_the_outputs():
    spikes, y = torch.tensor([[[2.0, 0.0]], [[1.0, 1.0]]]), torch.tensor([0])
    logits = torch.tensor([[3.0, 1.0]])
    assert loss_for(spikes)(spikes, y) == RateLoss()(spikes, y) == loss_for(logits)(logits, y)
    assert loss_for(spikes / 3)(spikes / 3, y) == MeanLoss()(spikes / 3, y)


def test_results_without_classes_are_refused():
    model = torch.nn.Sequential(make_net(), torch.nn.Unflatten(1, (3, 1)))
    with pytest.raises(UnsupportedModelError, match=r"returned a tensor of shape \(4, 2, 3, 1\)"):
        SpikingClassifier(model)(torch.ones(4, 2, 12))


def test_bad_options_are_refused():
    for options in (
        {"execution": "sync"},
        {"spike_penalty": -1.0},
        {"forward_group_size": 0},
        {"network_args": {"width": 3}},
        {"loss": 0},
    ):
        with pytest.raises(OptionError):
            classifier(**options)
    lone = SpikingClassifier(make_net()[:3], spike_penalty=0.1)  # eight output neurons
    with pytest.raises(OptionError, match="no hidden neurons"):
        lone.training_step((torch.ones(4, 2, 12), torch.tensor([0, 7])), 0)
    with pytest.raises(OptionError, match="scale"):
        RateLoss(0)
