"""Bad input gets one clear error of the project's own, naming the value and the way out, before any work."""

import subprocess
import sys

import pytest
import snntorch
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import snn_async
from snn_async.errors import (
    CheckpointError,
    GradientError,
    InputError,
    OptionError,
    UnsupportedByEngineError,
    UnsupportedModelError,
)


def model(hidden=4):
    return nn.Sequential(
        nn.Linear(6, hidden),
        snntorch.Leaky(beta=0.9, init_hidden=True),
        nn.Linear(hidden, 3),
        snntorch.Leaky(beta=0.9, init_hidden=True),
    )


@pytest.fixture
def net(engine):
    return snn_async.asynchronize(model(), backend=engine)


def with_value(value):
    x = torch.zeros(2, 3, 6)
    x[1, 2, 4] = value
    return x


@pytest.mark.parametrize(
    "x, message",
    [
        (torch.zeros(2, 3, 7), r"Sequential fails on this input.*\[6, 7\] X \[6, 4\]"),
        (torch.zeros(2, 3, 2, 3), "Sequential fails on this input"),
        (with_value(float("nan")), r"x\[1, 2\] has the value nan at feature 4"),
        (with_value(float("-inf")), r"x\[1, 2\] has the value -inf at feature 4"),
        (torch.zeros(0, 3, 6), r"shape \(0, 3, 6\): nothing to run"),
        (torch.zeros(2, 0, 6), r"shape \(2, 0, 6\): nothing to run"),
        (torch.zeros(2, 3, 6, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(2, 3, 6).to_sparse(), r"sparse.*x.to_dense\(\)"),
        (torch.zeros(2, 3, 6, device="meta"), r"on meta, the model on cpu; use x.to\('cpu'\)"),
        ([[0.0] * 6], "called without a tensor; give it what its model takes"),
    ],
)
def test_inputs(net, x, message):
    with pytest.raises((InputError, UnsupportedModelError), match=message):
        net(x)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float64, torch.float16, torch.bool])
def test_counts_of_any_dtype_are_welcome(net, dtype):
    counts = torch.randint(0, 3, (2, 3, 6)).to(dtype)
    expected = net.eval()(counts.float())
    assert torch.equal(net(counts), expected) and expected.dtype == torch.float32


def test_arguments_that_the_model_does_not_take(net):
    x = torch.zeros(2, 3, 6)
    for call in (lambda: net(x, x), lambda: net(y=x), lambda: net({"x": x})):
        with pytest.raises((InputError, UnsupportedModelError), match="Sequential"):
            call()
    with pytest.raises(InputError, match="without a tensor"):
        net()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(forward_group_size=0), "forward_group_size=0 must be an integer of at least 1"),
        (dict(forward_group_size=2.5), "forward_group_size=2.5"),
        (dict(scheduler="rand"), r"scheduler='rand' is unknown.*\['fifo', 'layered', 'momentum', 'random'\]"),
        (dict(scheduler=object()), r"a `priorities\(pending\)` method"),
        (dict(backend="cuda"), r"backend='cuda' is unknown.*'auto', 'numba', 'reference'"),
        (dict(refractory="absolute"), r"refractory='absolute' is unknown.*'discard'"),
        (dict(refractory_dropout=1.5), "refractory_dropout=1.5 must be a probability"),
        (dict(refractory_dropout=float("nan")), "refractory_dropout=nan must be a probability"),
        (dict(stop="never"), "stop='never' is unknown"),
        (dict(stop="after(0)"), r"after\(0\): a timestep has at least 1"),
        (dict(leftover="keep"), "leftover='keep' is unknown"),
        (dict(input="later"), "input='later' is unknown"),
        (dict(momentum_noise=-1.0), "momentum_noise=-1.0"),
        (dict(scheduler="random", momentum_noise=1.0), "has no effect with scheduler='random'"),
        (dict(max_forward_steps=0), "max_forward_steps=0"),
        (dict(seed="7"), "seed='7' must be an integer"),
        (
            dict(scheduler="layered", leftover="carry", stop="output"),
            "leftover='carry' with scheduler='layered'",
        ),
    ],
)
def test_options(options, message):
    with pytest.raises(OptionError, match=message):
        snn_async.asynchronize(model(), **options)


def test_run_arguments(net):
    x = torch.zeros(2, 3, 6)
    state = net.run(x).state
    with pytest.raises(InputError, match="the state is of 3 samples, the run of 2; pass"):
        net.run(x[:, :2], state=state)
    with pytest.raises(InputError, match=r"sample_ids has shape \(2,\).*must be 3 integers"):
        net.run(x, sample_ids=[0, 1])
    with pytest.raises(
        InputError, match="record names 'lif1', which is no population; there are \\['1', '3'\\]"
    ):
        net.run(x, record=["lif1"])


def test_a_custom_scheduler_does_not_run_on_the_compiled_engine():
    class LatestFirst:
        def priorities(self, pending):
            return -pending.step.astype(float)

    options = dict(scheduler=LatestFirst(), input_shape=(6,))
    assert snn_async.asynchronize(model(), **options).backend == "torch"
    with pytest.raises(UnsupportedByEngineError, match="LatestFirst.*use backend='torch'"):
        snn_async.asynchronize(model(), backend="numba", **options)


def test_a_checkpoint_of_another_architecture_loads_nothing():
    net = snn_async.asynchronize(model())
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(CheckpointError, match=r"model.0.weight has shape \(5, 6\) instead of \(4, 6\)"):
        net.load_state_dict(model(hidden=5).state_dict())
    with pytest.raises(CheckpointError, match="model.extra is unknown"):
        net.load_state_dict(model().state_dict() | {"extra": torch.zeros(1)})
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    other = model()
    net.load_state_dict(other.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), net.parameters(), strict=True))


def test_half_precision_and_broken_surrogates_are_named():
    with pytest.raises(UnsupportedModelError, match=r"torch.float16.*model.float\(\)"):
        snn_async.asynchronize(model().half())(torch.zeros(2, 3, 6))
    steep = nn.Sequential(
        nn.Linear(6, 3), snntorch.Leaky(beta=0.9, spike_grad=snntorch.surrogate.sigmoid(25), init_hidden=True)
    )
    with torch.no_grad():
        steep[0].weight.fill_(1.0)
    loss = snn_async.asynchronize(steep)(torch.full((2, 3, 6), -10.0)).sum()
    with pytest.raises(GradientError, match="the surrogate of '1' has no finite derivative"):
        loss.backward()


def test_importing_snn_async_imports_none_of_the_extras():
    frameworks, tools = (
        ["snntorch", "spikingjelly"],
        ["pytorch_lightning", "torchmetrics", "jsonargparse", "rich"],
    )
    extras = frameworks + tools + ["tensorboard", "matplotlib", "tonic", "sklearn"]
    code = f"import sys, snn_async; print([m for m in {extras!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_state_of_another_image_shape_is_refused():
    conv = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), neuron.IFNode())
    net = snn_async.asynchronize(conv, backend="torch")
    state = net.run(torch.rand(1, 1, 1, 4, 6)).state
    with pytest.raises(InputError, match="the state is of a network with"):
        net.run(torch.rand(1, 1, 1, 6, 4), state=state)


def second_derivative(net, x):
    (gradient,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()


TRANSFORMS = {
    "a second derivative": (second_derivative, "differentiable once"),
    "grad": (lambda net, x: torch.func.grad(lambda x: net(x).sum())(x), "torch.func's transforms.*backward"),
    "vmap": (lambda net, x: torch.func.vmap(net, in_dims=1)(x), "torch.func's transforms.*one batch"),
    "jit.trace": (lambda net, x: torch.jit.trace(net, x), "torch.jit.trace cannot follow.*net.model"),
    "jit.script": (lambda net, x: torch.jit.script(net), "torch.jit.script cannot follow.*net.model"),
    "fake tensors": (lambda net, x: net(FakeTensorMode().from_tensor(x)), "torch.export.*net.model"),
    "a compiled model": (
        lambda net, x: snn_async.asynchronize(nn.Sequential(torch.compile(net.model)))(x),
        "'0'.*before torch.compile",
    ),
    "a model without values": (lambda net, x: net.to("meta")(x), "'meta'.*load_state_dict"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("case", TRANSFORMS)
def test_what_cannot_see_events(case):
    do, message = TRANSFORMS[case]
    net = snn_async.asynchronize(model(), input_shape=(6,))
    with pytest.raises(snn_async.SnnAsyncError, match=message):
        do(net, torch.ones(2, 3, 6, requires_grad=True))
