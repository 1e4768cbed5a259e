"""Training of networks with convolutions and BatchNorm: layered in their own framework, unlayered after a warm-up."""

import pytest
import pytorch_lightning as pl
import snntorch
import torch
from spikingjelly.activation_based import functional, layer
from torch import nn

from lightning_modules import MeanLoss, SpikingClassifier, conv_net, sew_resnet
from lightning_modules.training.lightning_warnings import quiet_lightning
from lightning_modules.training.source_run import run_source
from snn_async import asynchronize
from snn_async.errors import ConfigError, OptionError

SHAPE = (2, 6, 6)
ROOMY = {"in_channels": 2, "classes": 3}


def residual(**options):
    torch.manual_seed(1)
    return sew_resnet(**ROOMY, channels=(4, 6), **options)


def plain(**options):
    torch.manual_seed(1)
    return conv_net(**ROOMY, size=SHAPE[1:], channels=(4,), threshold=0.2, batch_norm=True, **options)


def batches(count, samples=6, batch_first=False):
    g = torch.Generator().manual_seed(2)
    x = (torch.rand(count, 3, samples, *SHAPE, generator=g) < 0.3).float()
    return [(frames.transpose(0, 1) if batch_first else frames, torch.arange(samples) % 3) for frames in x]


def fit(module, count, epochs=1, **layout):
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        train, val = (torch.utils.data.DataLoader(batches(n, **layout), batch_size=None) for n in (count, 1))
        trainer.fit(module, train, val)
    return trainer.callback_metrics


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def stepwise(model, x):
    for module in model:
        if hasattr(module, "reset_mem"):
            module.reset_mem()
    return torch.stack([model(frame) for frame in x])


def multistep(model, x):
    functional.reset_net(model)
    return model(x)


@pytest.mark.parametrize("make, run_in_framework", [(residual, multistep), (plain, stepwise)])
def test_a_source_run_is_the_frameworks_own(make, run_in_framework):
    x, y = batches(1)[0]
    expected, model = make(), make()
    output = run_in_framework(expected, x)
    net = asynchronize(model)
    outcome = run_source(model, net.plan(x), x)
    assert torch.equal(outcome.output, output)
    for loss in (outcome.output, output):
        MeanLoss()(loss, y).backward()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(norms(model), norms(expected), strict=True):
        assert torch.equal(mine.running_var, theirs.running_var) and mine.num_batches_tracked > 0
    # In evaluation both are the same run, so its counts can be compared with exact ones.
    model.eval()
    run, outcome = net.layered(x), run_source(model, net.plan(x), x)
    spikes = {name: int(count.sum()) for name, count in run.activity.spikes.items()}
    assert int(outcome.spikes) == sum(spikes.values())
    assert {name: int(count) for name, count in outcome.recorded.items()} == spikes
    torch.testing.assert_close(outcome.output, run.result)


def test_layered_training_with_batch_norm_lowers_the_loss():
    module = SpikingClassifier(residual(), "layered", optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
    first = fit(module, 1)["train_loss"]
    metrics = fit(module, 2, epochs=8)
    assert metrics["train_loss"] < first - 0.05 and "train_forward_steps" not in metrics
    assert norms(module.net.model)[0].num_batches_tracked == 17


def test_warm_up_gives_running_statistics_that_are_then_kept():
    module = SpikingClassifier(residual(), forward_group_size=4, warmup_layered_steps=2, spike_penalty=1e-4)
    metrics = fit(module, 3)
    assert metrics["train_layered"] == pytest.approx(2 / 3) and metrics["train_forward_steps"] > 0
    assert {norm.num_batches_tracked.item() for norm in norms(module.net.model)} == {2}
    frozen = SpikingClassifier(residual(), forward_group_size=4)
    before = [parameter.clone() for parameter in frozen.parameters()]
    assert "train_layered" not in fit(frozen, 1)
    assert {norm.num_batches_tracked.item() for norm in norms(frozen.net.model)} == {0}
    changed = [bool((a != b).any()) for a, b in zip(frozen.parameters(), before, strict=True)]
    assert sum(changed) > len(changed) / 2  # without statistics the deepest populations are silent


def test_warm_up_is_for_unlayered_training_only():
    for options in ({"execution": "layered", "warmup_layered_steps": 1}, {"warmup_layered_steps": -1}):
        with pytest.raises(OptionError, match="warmup_layered_steps="):
            SpikingClassifier(residual(), **options)


class WithState(pl.LightningModule):
    """One timestep with its state passed in and out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm, self.flat = nn.Conv2d(2, 3, 6), nn.BatchNorm2d(3), nn.Flatten()
        self.lif = snntorch.Leaky(beta=0.5, threshold=0.3)

    def forward(self, x, mem):
        return self.lif(self.flat(self.norm(self.conv(x))), mem)


class Looped(WithState):
    """All timesteps, batch first, to logits."""

    def forward(self, x):
        mem, spikes = self.lif.init_leaky(), []
        for t in range(x.size(1)):
            spike, mem = super().forward(x[:, t], mem)
            spikes.append(spike)
        return torch.stack(spikes, 1).mean(1)


def test_a_source_run_calls_the_model_as_the_network_does():
    (x, _), (turned, _) = batches(1)[0], batches(1, batch_first=True)[0]
    expected, looped, stepwise = Looped()(turned), Looped(), WithState()
    outcome = run_source(looped, asynchronize(looped).plan(turned), turned)
    assert torch.equal(outcome.output, expected) and expected.any()
    outcome = run_source(stepwise, asynchronize(stepwise).plan(x), x)
    assert outcome.output.shape == (3, 6, 3) and torch.equal(outcome.output.mean(0), expected)
    assert looped.norm.num_batches_tracked == stepwise.norm.num_batches_tracked == 3


@pytest.mark.parametrize("execution", ["layered", "asynchronous"])
def test_a_model_of_the_whole_sequence_is_trained_on_its_logits(execution):
    module = SpikingClassifier(Looped(), execution, optimizer=lambda p: torch.optim.Adam(p, lr=0.02))
    first = fit(module, 1, batch_first=True)["train_loss"]
    metrics = fit(module, 2, epochs=8, batch_first=True)
    assert metrics["train_loss"] < first - 0.02 and metrics["val_accuracy"] > 1 / 3
    x, _ = batches(1, batch_first=True)[0]
    module.on_predict_epoch_start()
    prediction = module.eval().predict_step((x,), 0)
    assert torch.equal(prediction["counts"], module(x)) and prediction["sample_id"].tolist() == list(range(6))


class Tutorial(nn.Module):
    """Convolution, BatchNorm and a time loop, in the form of snnTorch's tutorials."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm, self.lif1 = (
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            snntorch.Leaky(beta=0.9, threshold=0.2),
        )
        self.fc, self.lif2 = nn.Linear(64, 3), snntorch.Leaky(beta=0.9, threshold=0.2)

    def forward(self, x):
        mem1, mem2, spikes = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for t in range(x.size(0)):
            spike, mem1 = self.lif1(self.norm(self.conv(x[t])), mem1)
            spike, mem2 = self.lif2(self.fc(spike.flatten(1)), mem2)
            spikes.append(spike)
        return torch.stack(spikes), mem2


@pytest.mark.parametrize("execution", ["layered", "asynchronous"])
def test_a_tutorials_class_with_batch_norm_is_trained(execution):
    module = SpikingClassifier(Tutorial(), execution, optimizer=lambda p: torch.optim.Adam(p, lr=0.02))
    first = fit(module, 1)["train_loss"]
    assert fit(module, 2, epochs=6)["train_loss"] < first - 0.05
    assert (module.network.norm.num_batches_tracked > 0) == (execution == "layered")


def test_an_error_inside_a_models_forward_is_its_own():
    model, (x, _) = plain(), batches(1)[0]
    plan = asynchronize(model).plan(x)
    model[0].register_forward_hook(lambda *_: len(3))
    with pytest.raises(TypeError, match=r"^object of type 'int' has no len\(\)$"):
        run_source(model, plan, x)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: residual(cnf="XOR"), "cnf='XOR' is unknown"),
        (lambda: residual(neuron="QIF"), "neuron='QIF' is unknown"),
        (lambda: residual(blocks=[1]), r"blocks=\[1\] with channels=\[4, 6\]"),
        (lambda: plain(pooling="sum"), "pooling='sum'"),
        (lambda: plain(kernel_size=2), "kernel_size=2: give an odd number"),
        (lambda: conv_net(size=(3, 8), pooling="max"), r"size=\[3, 8\] cannot be halved 3 times"),
    ],
)
def test_wrong_options_of_models_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_models_have_the_shapes_they_promise():
    for pooling in ("stride", "max", "avg"):
        assert conv_net(size=(9, 12), channels=(3, 5), pooling=pooling)(torch.zeros(2, 2, 9, 12)).shape == (
            2,
            10,
        )
    model = residual(neuron="PLIF", blocks=[1, 2], cnf="IAND", stem_stride=2)
    assert model(torch.zeros(4, 5, *SHAPE)).shape == (4, 5, 3)
    assert (
        sum(isinstance(m, layer.Conv2d) for m in model.modules()) == 1 + 2 + 3 + 2
    )  # stem, blocks, downsampling
