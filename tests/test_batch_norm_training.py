"""Training of networks with convolutions and BatchNorm: layered in their own framework, unlayered after a warm-up."""

import pytest
import pytorch_lightning as pl
import torch
from spikingjelly.activation_based import functional, layer
from torch import nn

from lightning_modules import MeanLoss, SpikingClassifier, conv_net, sew_resnet
from lightning_modules.training.lightning_warnings import quiet_lightning
from lightning_modules.training.source_run import run_source
from snn_async import asynchronize
from snn_async.errors import ConfigError, OptionError, UnsupportedModelError

SHAPE = (2, 6, 6)
ROOMY = {"in_channels": 2, "classes": 3}


def residual(**options):
    torch.manual_seed(1)
    return sew_resnet(**ROOMY, channels=(4, 6), **options)


def plain(**options):
    torch.manual_seed(1)
    return conv_net(**ROOMY, size=SHAPE[1:], channels=(4,), threshold=0.2, batch_norm=True, **options)


def batches(count, samples=6):
    g = torch.Generator().manual_seed(2)
    x = (torch.rand(count, 3, samples, *SHAPE, generator=g) < 0.3).float()
    return [(frames, torch.arange(samples) % 3) for frames in x]


def fit(module, count, epochs=1):
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        train, val = (torch.utils.data.DataLoader(batches(n), batch_size=None) for n in (count, 1))
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
    net = asynchronize(model, input_shape=SHAPE)
    outcome = run_source(model, net.graph, x)
    assert torch.equal(outcome.output, output) and outcome.reads == net.graph.reads
    for loss in (outcome.output, output):
        MeanLoss()(loss, y).backward()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(norms(model), norms(expected), strict=True):
        assert torch.equal(mine.running_var, theirs.running_var) and mine.num_batches_tracked > 0
    # In evaluation both are the same run, so its counts can be compared with exact ones.
    model.eval()
    run, outcome = net.layered(x), run_source(model, net.graph, x)
    spikes = {name: int(count.sum()) for name, count in run.activity.spikes.items()}
    assert int(outcome.spikes) == sum(spikes.values())
    assert int(outcome.hidden) == sum(spikes.values()) - spikes[net.graph.output]
    torch.testing.assert_close(outcome.output, run.output)


def test_layered_training_with_batch_norm_lowers_the_loss():
    module = SpikingClassifier(residual(), "layered", optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
    first = fit(module, 1)["train_loss"]
    metrics = fit(module, 2, epochs=8)
    assert metrics["train_loss"] < first - 0.05 and "train_forward_steps" not in metrics
    assert module.classes == 3 and norms(module.net.model)[0].num_batches_tracked == 17


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


class WithState(nn.Module):
    """One timestep with its state passed in and out, which the source run cannot know."""

    def __init__(self):
        super().__init__()
        import snntorch

        self.conv, self.norm = nn.Conv2d(2, 1, 6), nn.BatchNorm2d(1)
        self.flat, self.lif = nn.Flatten(), snntorch.Leaky(beta=0.5)

    def forward(self, x, mem):
        return self.lif(self.flat(self.norm(self.conv(x))), mem)


def test_models_that_pass_their_states_are_refused():
    model = WithState()
    net = asynchronize(model, input_shape=SHAPE)
    with pytest.raises(UnsupportedModelError, match=r"model\(x\[t\]\).*init_hidden=True"):
        run_source(model, net.graph, batches(1)[0][0])


def test_an_error_inside_a_models_forward_is_its_own():
    model = plain()
    net = asynchronize(model, input_shape=SHAPE)
    model[0].register_forward_hook(lambda *_: len(3))
    with pytest.raises(TypeError, match=r"^object of type 'int' has no len\(\)$"):
        run_source(model, net.graph, batches(1)[0][0])


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
