"""docs/design.md, section 5, property 1: with F = None, spikes, potentials and gradients are the framework's own."""

import pytest
import snntorch
import torch
from networks import ATan
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import snn_async

T, B, SIZES = 6, 4, (12, 9, 7, 4)


def scaled_linear(i, o, bias=True):
    linear = nn.Linear(i, o, bias)
    with torch.no_grad():
        linear.weight *= 3
    return linear


def inputs(dtype=torch.float64):
    return (torch.rand(T, B, SIZES[0], generator=torch.Generator().manual_seed(5)) < 0.4).to(dtype)


def snntorch_model(make):
    torch.manual_seed(3)
    layers = [m for i, o in zip(SIZES, SIZES[1:], strict=False) for m in (scaled_linear(i, o), make(o))]
    layers[-1].output = True
    return nn.Sequential(*layers).double()


def snntorch_run(model, x):
    for module in model.modules():
        if isinstance(module, snntorch.SpikingNeuron):
            module.reset_mem()
            module.mem = torch.zeros(0, dtype=x.dtype)
    spikes, potentials = zip(*[model(frame) for frame in x], strict=True)
    return torch.stack(spikes), torch.stack(potentials)


def leaky(**options):
    def make(size):
        per_neuron = dict(beta=torch.linspace(0.5, 0.95, size), threshold=torch.linspace(0.4, 0.9, size))
        return snntorch.Leaky(**per_neuron | dict(spike_grad=ATan.apply, init_hidden=True) | options)

    return make


SNNTORCH = {
    f"Leaky {reset}{'' if delay else ', no delay'}": leaky(
        reset_mechanism=reset, reset_delay=delay, learn_beta=True, learn_threshold=True
    )
    for reset in ("subtract", "zero", "none")
    for delay in (True, False)
}
SNNTORCH["Leaky, scalars"] = leaky(beta=0.9, threshold=0.6)
for mechanism in ("subtract", "zero", "none"):
    SNNTORCH[f"Lapicque {mechanism}"] = lambda size, reset=mechanism: snntorch.Lapicque(
        beta=0.8, threshold=0.3, spike_grad=ATan.apply, reset_mechanism=reset, init_hidden=True
    )


def spikingjelly_model(make):
    torch.manual_seed(4)
    model = nn.Sequential(
        *[m for i, o in zip(SIZES, SIZES[1:], strict=False) for m in (layer.Linear(i, o), make())]
    ).double()
    with torch.no_grad():
        for module in model[::2]:
            module.weight *= 4
    functional.set_step_mode(model, "m")
    model[-1].store_v_seq = True
    return model


def spikingjelly_run(model, x):
    functional.reset_net(model)
    return model(x), model[-1].v_seq


SPIKINGJELLY = {}
for v_reset in (0.0, -0.3, None):
    for detach in (False, True):
        common = dict(
            v_reset=v_reset, detach_reset=detach, surrogate_function=surrogate.ATan(), v_threshold=0.6
        )
        name = f"v_reset={v_reset}, detach={detach}"
        SPIKINGJELLY[f"IF {name}"] = lambda c=common: neuron.IFNode(**c)
        for decay in (False, True):
            SPIKINGJELLY[f"LIF {name}, decay_input={decay}"] = lambda c=common, d=decay: neuron.LIFNode(
                tau=1.7, decay_input=d, **c
            )
            SPIKINGJELLY[f"PLIF {name}, decay_input={decay}"] = lambda c=common, d=decay: (
                neuron.ParametricLIFNode(init_tau=1.7, decay_input=d, **c)
            )

CASES = [(snntorch_model, snntorch_run, name, make) for name, make in SNNTORCH.items()]
CASES += [(spikingjelly_model, spikingjelly_run, name, make) for name, make in SPIKINGJELLY.items()]


@pytest.mark.parametrize("build, run, make", [pytest.param(b, r, m, id=name) for b, r, name, m in CASES])
def test_unlimited_groups_are_layered_backprop(build, run, make, engine):
    model, x = build(make), inputs().requires_grad_()
    spikes, potentials = run(model, x)
    weights = torch.randn(2, *spikes.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [x, *model.parameters()]
    expected = torch.autograd.grad((weights[0] * spikes + weights[1] * potentials).sum(), leaves)
    assert 0 < spikes.sum() < 0.9 * spikes.numel()
    for scheduler in ("random", "layered"):
        net = snn_async.asynchronize(model, scheduler=scheduler, forward_group_size=None, backend=engine)
        ours = net.run(x)
        assert torch.equal(ours.spikes, spikes)
        torch.testing.assert_close(ours.potentials, potentials, rtol=1e-10, atol=1e-10)
        actual = torch.autograd.grad((weights[0] * ours.spikes + weights[1] * ours.potentials).sum(), leaves)
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "spike_grad",
    [
        snntorch.surrogate.atan(3.0),
        snntorch.surrogate.fast_sigmoid(),
        snntorch.surrogate.sigmoid(5),
        snntorch.surrogate.straight_through_estimator(),
        snntorch.surrogate.triangular(),
        snntorch.surrogate.spike_rate_escape(),
        snntorch.surrogate.SFS(B=-0.5),
        snntorch.surrogate.custom_surrogate(lambda x, grad, spikes: grad / (1 + x.abs()) ** 3),
    ],
    ids=lambda f: f.__qualname__.split(".")[0],
)
def test_any_surrogate_gives_snntorch_gradients_in_single_precision(spike_grad):
    model = snntorch_model(leaky(spike_grad=spike_grad)).float()
    x = inputs(torch.float32)
    spikes, _ = snntorch_run(model, x)
    expected = torch.autograd.grad(spikes.sum(), list(model.parameters()))
    ours, _ = snn_async.asynchronize(model, forward_group_size=None)(x)
    assert torch.equal(ours, spikes)
    for a, b in zip(torch.autograd.grad(ours.sum(), list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def spikingjelly_surrogates():
    for make in vars(surrogate).values():
        base = surrogate.SurrogateFunctionBase
        if isinstance(make, type) and issubclass(make, base) and make is not base:
            yield make


@pytest.mark.parametrize("make", list(spikingjelly_surrogates()), ids=lambda make: make.__name__)
def test_every_spikingjelly_surrogate_is_reproduced_or_refused(make):
    torch.manual_seed(0)
    try:
        function = make()
    except TypeError:
        function = make(1)  # a number of levels
    model = spikingjelly_model(lambda: neuron.LIFNode(surrogate_function=function, v_threshold=0.6)).float()
    x = inputs(torch.float32)
    try:
        net = snn_async.asynchronize(model, forward_group_size=None, example_inputs=x)
    except snn_async.SnnAsyncError as refusal:
        assert "surrogate" in str(refusal)
        assert make.__name__ in ("PoissonPass", "MultiLevelSpikeCount")  # their spikes are not binary
        return
    functional.reset_net(model)
    spikes = model(x)
    expected = torch.autograd.grad(spikes.sum(), list(model.parameters()))
    ours = net(x)
    assert torch.equal(ours, spikes)
    for a, b in zip(torch.autograd.grad(ours.sum(), list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("node", [neuron.NonSpikingIFNode, neuron.NonSpikingLIFNode])
def test_a_non_spiking_readout_returns_the_frameworks_potentials(node):
    model = spikingjelly_model(lambda: neuron.LIFNode(surrogate_function=surrogate.ATan(), v_threshold=0.6))
    model[-1] = node()
    x = inputs()
    functional.reset_net(model)
    potentials = torch.stack(model(x))
    expected = torch.autograd.grad(potentials.square().sum(), list(model.parameters()))
    ours = torch.stack(snn_async.asynchronize(model, forward_group_size=None)(x))
    torch.testing.assert_close(ours, potentials, rtol=1e-10, atol=1e-10)
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), list(model.parameters())), expected, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decode", ["max-mem", "max-abs-mem", "mean-mem", "last_mem"])
def test_a_readout_decodes_as_its_framework_does(decode):
    model = spikingjelly_model(lambda: neuron.LIFNode(surrogate_function=surrogate.ATan(), v_threshold=0.6))
    model[-1] = neuron.NonSpikingLIFNode(decode=decode)
    functional.reset_net(model)
    expected = model(inputs())
    run = snn_async.asynchronize(model, forward_group_size=None).run(inputs())
    torch.testing.assert_close(run.result, expected, rtol=1e-10, atol=1e-10)
    assert run.potentials.shape == (T, B, SIZES[-1])


def test_surrogates_that_return_single_precision_train_a_double_model(engine):
    """snnTorch's own surrogates do, whatever the precision of the model."""
    surrogate_function = snntorch.surrogate.atan()
    assert surrogate_function(torch.zeros(1, dtype=torch.float64)).dtype == torch.float32
    model = snntorch_model(leaky(spike_grad=surrogate_function))
    net = snn_async.asynchronize(model, forward_group_size=2, backend=engine).eval()
    gradients = torch.autograd.grad(net(inputs())[0].sum(), list(model.parameters())[:-1])
    assert all(gradient.dtype == torch.float64 and gradient.abs().sum() > 0 for gradient in gradients)


class PerChannel(nn.Module):
    """A convolution whose channels have gains of their own, one of them 0, before and behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.before, self.behind = (
            nn.Parameter(torch.tensor(g)[:, None, None]) for g in ([1.5, -0.7], [2.0, 0.0, -1.2])
        )
        self.conv, self.fc = nn.Conv2d(2, 3, 3, padding=1), scaled_linear(48, 4)
        self.first, self.last = (leaky(beta=0.8, threshold=0.3)(0) for _ in range(2))

    def forward(self, x):
        spikes = self.first(self.behind * self.conv(self.before * x))
        return self.last(self.fc(spikes.flatten(1)))


def test_gains_of_channels(engine):
    model = PerChannel().double()
    x = (
        (torch.rand(T, B, 2, 4, 4, generator=torch.Generator().manual_seed(5)) < 0.4)
        .double()
        .requires_grad_()
    )
    spikes = torch.stack([model(frame) for frame in x])
    leaves = [x, *model.parameters()]
    expected = torch.autograd.grad(spikes.square().sum(), leaves)
    model.first.reset_mem(), model.last.reset_mem()
    net = snn_async.asynchronize(model, forward_group_size=None, backend=engine)
    assert 0 < spikes.sum() < spikes.numel() and torch.equal(net(x), spikes)
    for a, b in zip(torch.autograd.grad(net(x).square().sum(), leaves), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
