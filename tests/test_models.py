"""Models as their users have them: what graph they are, and that `layered` computes what the framework does."""

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from networks import ATan
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model import parametric_lif_net, sew_resnet, spiking_resnet, spiking_vgg
from torch import nn

import snn_async
from snn_async.errors import InputError, OptionError, UnsupportedModelError
from snn_async.graph.live import Live
from snn_async.graph.synapses import Affine

IF = dict(spiking_neuron=neuron.IFNode, v_threshold=0.5)
LEAKY = dict(beta=0.8, threshold=0.3, spike_grad=ATan.apply, init_hidden=True)
WHOLE = {
    "sew_resnet18": (sew_resnet.sew_resnet18, (3, 32, 32)),
    "spiking_resnet18": (spiking_resnet.spiking_resnet18, (3, 32, 32)),
    "spiking_vgg11_bn": (spiking_vgg.spiking_vgg11_bn, (3, 32, 32)),
    "MNISTNet": (parametric_lif_net.MNISTNet, (1, 28, 28)),
    "NMNISTNet": (parametric_lif_net.NMNISTNet, (2, 34, 34)),
    "CIFAR10Net": (parametric_lif_net.CIFAR10Net, (3, 32, 32)),
    "DVSGestureNet": (parametric_lif_net.DVSGestureNet, (2, 128, 128)),
}
# of the graph: populations, junctions, projections; what follows the last neuron is none of it
COUNTS = {
    "sew_resnet18": (20, 8, 35),
    "spiking_resnet18": (17, 1, 26),
    "spiking_vgg11_bn": (10, 6, 16),
    "MNISTNet": (4, 2, 6),
    "NMNISTNet": (4, 2, 6),
    "CIFAR10Net": (8, 2, 10),
    "DVSGestureNet": (7, 5, 12),
}
CASES = [
    *(("sew_resnet18", mode, cnf) for mode, cnf in (("s", "ADD"), ("m", "AND"), ("s", "IAND"))),
    *(
        (name, mode, None)
        for name in list(WHOLE)[1:]
        for mode in "sm"
        if (name, mode) != ("DVSGestureNet", "m")
    ),
]


@pytest.mark.parametrize(("name", "mode", "cnf"), CASES)
def test_the_graph_of_a_whole_model(name, mode, cnf):
    make, shape = WHOLE[name]
    model = make(**IF, **({} if cnf is None else {"cnf": cnf})).eval()
    functional.set_step_mode(model, mode)
    graph = snn_async.asynchronize(model, example_inputs=torch.zeros(2, 2, *shape), backend="torch").graph
    assert (len(graph.populations), len(graph.junctions), len(graph.projections)) == COUNTS[name]
    assert graph.input_grids == {"input": shape}
    kinds = {junction.kind for junction in graph.junctions}
    assert kinds == {"max"} | ({{"ADD": "sum", "AND": "and", "IAND": "iand"}[cnf]} if cnf else set()) | (
        {"sum"} if "vgg" in name else set()
    )
    if cnf == "ADD":
        assert {"maxpool.max_pool2d", "layer1.0.add", "layer4.0.add"} < {j.name for j in graph.junctions}


def test_iand_takes_its_operands_as_the_model_does():
    """SpikingJelly's BasicBlock computes identity * (1 - branch), its Bottleneck branch * (1 - identity)."""
    for block, first in ((sew_resnet.BasicBlock, "0"), (sew_resnet.Bottleneck, "1.sn3")):
        planes = 4 // block.expansion
        model = nn.Sequential(neuron.IFNode(), block(4, planes, cnf="IAND", **IF), neuron.IFNode())
        graph = snn_async.asynchronize(model, input_shape=(4, 5, 5), backend="torch").graph
        (join,) = [junction for junction in graph.junctions if junction.kind == "iand"]
        assert {p.port: p.source for p in graph.into(join.name)}[0] == first


def prepared(model):
    """Random running statistics and weights that make neurons fire, float64, as in evaluation."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.normal_(module.weight, 1.5, 0.3, generator=generator)
            nn.init.normal_(module.bias, 0.4, 0.3, generator=generator)
    return model.double().eval()


def spikingjelly_run(model, x):
    functional.reset_net(model)
    timed = any(getattr(module, "step_mode", "s") == "m" for module in model.modules())
    return model(x) if timed else torch.stack([model(frame) for frame in x])


def snntorch_run(model, x):
    for module in model.modules():
        for name in ("mem", "spk"):
            if isinstance(module, snn.SpikingNeuron) and hasattr(module, name):
                setattr(module, name, torch.zeros(0, dtype=x.dtype))
    results = [model(frame) for frame in x]
    return torch.stack([result[0] if isinstance(result, tuple) else result for result in results])


def assert_layered_equals(model, x, run, backend="auto"):
    """Outputs and the gradients of every parameter."""
    prepared(model)
    net = snn_async.asynchronize(model, backend=backend)
    theirs = run(model, x)
    ours = net.layered(x).result
    ours = ours[0] if isinstance(ours, tuple) else ours
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert theirs.any()
    weight = torch.rand(theirs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad((theirs * weight).sum(), parameters.values(), allow_unused=True)
    found = torch.autograd.grad((ours * weight).sum(), parameters.values(), allow_unused=True)
    for name, theirs_, ours_ in zip(parameters, expected, found, strict=True):
        assert (theirs_ is None) == (ours_ is None), name
        if ours_ is not None:
            torch.testing.assert_close(
                ours_, theirs_, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
            )
    return net


def images(*shape, steps=2, samples=2):
    return torch.rand(steps, samples, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small_vgg():
    model = spiking_vgg.spiking_vgg11_bn(num_classes=4, **IF)
    for i, (fan_in, fan_out) in {0: (512 * 49, 8), 3: (8, 8), 6: (8, 4)}.items():
        model.classifier[i] = layer.Linear(fan_in, fan_out)
    return model


def plif(kind, **options):
    return kind(channels=3, spiking_neuron=neuron.ParametricLIFNode, v_threshold=0.3, **options)


SPIKINGJELLY = {
    "sew_resnet18": (lambda: sew_resnet.sew_resnet18(cnf="ADD", num_classes=4, **IF), (3, 16, 16)),
    "spiking_vgg11_bn": (small_vgg, (3, 32, 32)),
    "MNISTNet": (lambda: plif(parametric_lif_net.MNISTNet, detach_reset=True), (1, 28, 28)),
    "CIFAR10Net": (lambda: plif(parametric_lif_net.CIFAR10Net), (3, 32, 32)),
}


@pytest.mark.parametrize("name", SPIKINGJELLY)
def test_a_whole_model_is_the_frameworks_own(name):
    make, shape = SPIKINGJELLY[name]
    torch.manual_seed(3)
    model = make()
    functional.set_step_mode(model, "m")
    assert_layered_equals(model, images(*shape), spikingjelly_run, "numba")


def residual(block, **options):
    """A stem, a strided block with a downsample path and one without, as in a ResNet."""
    wide = 4 * block.expansion
    down = nn.Sequential(layer.Conv2d(4, wide, 1, 2, bias=False), layer.BatchNorm2d(wide))
    options = dict(tau=1.5, v_threshold=0.3, spiking_neuron=neuron.LIFNode) | options
    return nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron.LIFNode(v_threshold=0.3),
        layer.MaxPool2d(3, 2, 1),
        block(4, 4, 2, down, **options),
        block(wide, 4, **options),
        layer.AdaptiveAvgPool2d((2, 2)),
        layer.Flatten(),
        layer.Linear(wide * 4, 3),
    )


@pytest.mark.parametrize(
    ("block", "options"),
    [
        *(
            (sew_resnet.BasicBlock, dict(cnf=cnf, detach_reset=cnf == "AND"))
            for cnf in ("ADD", "AND", "IAND")
        ),
        (sew_resnet.Bottleneck, dict(cnf="IAND", v_reset=None)),
        (spiking_resnet.BasicBlock, dict(detach_reset=True)),
        (spiking_resnet.Bottleneck, dict(decay_input=False)),
    ],
)
@pytest.mark.parametrize("mode", ["s", "m"])
def test_residual_blocks_are_the_frameworks_own(block, options, mode):
    torch.manual_seed(4)
    model = residual(block, **options)
    functional.set_step_mode(model, mode)
    net = assert_layered_equals(model, images(2, 8, 8, steps=3), spikingjelly_run)
    run = net.run(images(2, 8, 8, steps=3))
    run.result.sum().backward()
    assert run.result.shape == (3, 2, 3) and all(p.grad.isfinite().all() for p in model.parameters())
    joins = [junction.name for junction in net.graph.junctions if junction.waits]
    fired = {event.population for row in net.trace(images(2, 8, 8)).rows for event in row.fired}
    assert set(joins) <= fired or not joins


class Tutorial(nn.Module):
    """snnTorch's convolutional tutorial, one timestep; `steps` unrolls a loop over them."""

    def __init__(self, steps=None):
        super().__init__()
        self.conv1, self.conv2, self.fc1 = nn.Conv2d(1, 3, 5), nn.Conv2d(3, 4, 3), nn.Linear(4 * 2 * 2, 5)
        own = LEAKY | {"init_hidden": False}
        self.lif1, self.lif2, self.lif3 = snn.Leaky(**own), snn.Leaky(**own), snn.Leaky(**own)
        self.steps = steps

    def step(self, x, mem1, mem2, mem3):
        cur1 = F.max_pool2d(self.conv1(x), 2)
        spk1, mem1 = self.lif1(cur1, mem1)
        cur2 = F.max_pool2d(self.conv2(spk1), 2)
        spk2, mem2 = self.lif2(cur2, mem2)
        spk3, mem3 = self.lif3(self.fc1(spk2.view(x.size(0), -1)), mem3)
        return spk3, mem1, mem2, mem3

    def forward(self, x, mem1=None, mem2=None, mem3=None):
        if self.steps is None:
            return self.step(x, mem1, mem2, mem3)
        spikes = []
        mem1, mem2, mem3 = (lif.reset_mem() for lif in (self.lif1, self.lif2, self.lif3))
        for _ in range(self.steps):
            spk3, mem1, mem2, mem3 = self.step(x, mem1, mem2, mem3)
            spikes.append(spk3)
        return torch.stack(spikes)


def tutorial_sequential():
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 5), nn.MaxPool2d(2), snn.Leaky(**LEAKY)),
        *(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), snn.Leaky(**LEAKY)),
        *(nn.Flatten(), nn.Linear(4 * 2 * 2, 5), snn.Leaky(**LEAKY, output=True)),
    )


def tutorial_run(model, x):
    mems, spikes = [lif.reset_mem().double() for lif in (model.lif1, model.lif2, model.lif3)], []
    for frame in x:
        spk, *mems = model(frame, *mems)
        spikes.append(spk)
    return torch.stack(spikes)


def test_the_convolutional_tutorial_in_its_forms():
    torch.manual_seed(5)
    x = 8 * images(1, 16, 16, steps=3)
    net = assert_layered_equals(tutorial_sequential(), x, snntorch_run)
    assert net.graph.order == ("1.max_pool2d", "2", "4.max_pool2d", "5", "8")
    single = Tutorial()
    single.fc1.weight.data.abs_()
    net = assert_layered_equals(single, x, tutorial_run)
    assert net.graph.order == ("max_pool2d", "lif1", "max_pool2d (2)", "lif2", "lif3")
    loop = Tutorial(steps=2)
    loop.load_state_dict(single.state_dict())
    still = x[:1].expand(2, -1, -1, -1, -1)
    looped = snn_async.asynchronize(loop.double().eval()).layered(x[0])  # which it shows in every step
    assert torch.equal(looped.spikes, net.layered(still).spikes)


def rleaky(**options):
    return snn.RLeaky(
        **{"beta": 0.8, "threshold": 0.3, "spike_grad": ATan.apply, "init_hidden": True} | options
    )


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("delay", [True, False])
def test_recurrent_leaky(reset, delay):
    torch.manual_seed(6)
    options = dict(reset_mechanism=reset, reset_delay=delay)
    model = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), rleaky(conv2d_channels=3, kernel_size=3, **options), nn.Flatten()),
        *(nn.Linear(3 * 16, 5), rleaky(linear_features=5, **options), nn.Linear(5, 4)),
        *(rleaky(all_to_all=False, V=torch.rand(4), **options), nn.Linear(4, 4)),
        rleaky(all_to_all=False, V=0.4, learn_recurrent=False, **options),
    )
    net = assert_layered_equals(model, 2 * images(1, 6, 6, steps=4), snntorch_run)
    assert [p.source for p in net.graph.projections if p.delayed] == ["1", "4", "6", "8"]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.rlif = nn.Linear(4, 3), rleaky(linear_features=3, init_hidden=False)

    def forward(self, x, spk=None, mem=None):
        return self.rlif(self.fc(x), spk, mem)


def test_recurrent_states_are_passed_in_and_out():
    torch.manual_seed(7)

    def run(model, x):
        spk, mem, spikes = torch.zeros(2, 3).double(), torch.zeros(2, 3).double(), []
        for frame in x:
            spk, mem = model(frame, spk, mem)
            spikes.append(spk)
        return torch.stack(spikes)

    assert_layered_equals(Recurrent(), images(4, steps=4), run)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_recurrent_containers(mode):
    torch.manual_seed(8)
    inner = nn.Sequential(nn.Linear(5, 4), neuron.LIFNode(v_threshold=0.2))
    pooled = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1, bias=False), neuron.IFNode(v_threshold=0.3))
    model = nn.Sequential(
        *(nn.Linear(6, 5), layer.LinearRecurrentContainer(inner, 5, 4, step_mode=mode), nn.Linear(4, 4)),
        layer.ElementWiseRecurrentContainer(
            neuron.IFNode(v_threshold=0.3), lambda x, y: x + y, step_mode=mode
        ),
    )
    assert_layered_equals(model, images(6, steps=4), spikingjelly_run)
    model = nn.Sequential(
        layer.ElementWiseRecurrentContainer(pooled, torch.add, step_mode=mode), layer.Flatten(step_mode=mode)
    )
    assert_layered_equals(model, images(4, 5, steps=4), spikingjelly_run)


LAYERS = {
    "average, padded": (nn.AvgPool2d(3, 2, 1), (2, 7, 6)),
    "average, without padding, ceil": (nn.AvgPool2d((3, 2), 2, 1, True, False), (2, 7, 6)),
    "sum": (nn.AvgPool2d(2, divisor_override=1), (2, 6, 6)),
    "average of a line": (nn.AvgPool1d(3, 2, 1, ceil_mode=True), (2, 8)),
    "adaptive average": (nn.AdaptiveAvgPool2d((3, None)), (2, 7, 5)),
    "adaptive max": (nn.AdaptiveMaxPool2d(3), (2, 7, 5)),
    "adaptive line": (nn.Sequential(nn.AdaptiveMaxPool1d(4), nn.AdaptiveAvgPool1d(2)), (2, 7)),
    "max, dilated": (nn.MaxPool2d(2, 1, 1, 2, ceil_mode=True), (2, 7, 6)),
    "upsampling": (nn.Upsample(scale_factor=2), (2, 3, 4)),
    "upsampling to a size": (nn.UpsamplingNearest2d((6, 8)), (2, 3, 4)),
    "line convolution": (nn.Conv1d(2, 4, 3, 2, 1, groups=2), (2, 9)),
    "grouped, dilated, same": (nn.Conv2d(2, 4, (3, 2), padding="same", dilation=2, groups=2), (2, 7, 6)),
    "norm of spikes": (nn.BatchNorm2d(2), (2, 4, 4)),
    "norm, then convolution": (nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1)), (2, 4, 4)),
    "convolutions": (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 2)), (2, 4, 4)),
    "flat norm": (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(24)), (2, 3, 4)),
    "flat": (nn.Sequential(nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)), (2, 3, 4)),
    "voting": (nn.Sequential(nn.Flatten(), layer.VotingLayer(5)), (2, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_torchs_own(name):
    module, shape = LAYERS[name]
    torch.manual_seed(12)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    kind = nn.Conv2d if len(shape) == 3 else nn.Conv1d
    first = kind(shape[0], shape[0], 1)
    first.weight.data.abs_()
    model = nn.Sequential(first, neuron.IFNode(v_threshold=0.2), module, neuron.LIFNode(1.2, v_threshold=0.1))
    net = assert_layered_equals(model, images(*shape, steps=3), spikingjelly_run)
    states = net.layered(images(*shape), record="1").records["1"]
    assert states.spikes.shape == (2, 2, *shape)


class Branches(nn.Module):
    """Sums of several kinds of values, one expression used twice, flattened and not."""

    def __init__(self):
        super().__init__()
        self.conv, self.other, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1), nn.Linear(32, 32)
        self.a, self.b, self.c = (neuron.LIFNode(1.3, v_threshold=t) for t in (0.2, 0.3, 0.1))

    def forward(self, x):
        current = self.conv(x)
        spikes = self.a(current + x)
        shared = torch.add(spikes, self.other(spikes), alpha=0.5)
        joined = sum([shared, current / 2])
        flat = self.fc(torch.flatten(shared, 1)) + joined.flatten(1)
        return self.c(self.b(flat) * 0.7 + 2 * joined.flatten(1))


def test_branches_share_what_they_share():
    torch.manual_seed(10)
    net = assert_layered_equals(Branches(), images(2, 4, 4, steps=3), spikingjelly_run)
    weights = [getattr(p.synapses, "weight", None) for p in net.graph.projections]
    assert sum(isinstance(weight, Live) for weight in weights) == 3  # each layer is delivered through once


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 4, 5), (1, 4, 5), (5,)])
def test_parameters_of_neurons_broadcast_as_in_the_framework(shape):
    torch.manual_seed(11)
    beta, threshold = torch.rand(shape), 0.1 + 0.3 * torch.rand(shape)
    options = LEAKY | dict(beta=beta, threshold=threshold, learn_beta=True, learn_threshold=True)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), snn.Leaky(**options))
    net = assert_layered_equals(model, 2 * images(1, 4, 5, steps=3), snntorch_run)
    assert net.graph.populations[0].shape == (3, 4, 5)


def test_sizes_follow_from_the_input():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), neuron.IFNode(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    )
    net = snn_async.asynchronize(model, backend="reference")
    for ask in (lambda: net.graph, net.describe, lambda: net.backend):
        with pytest.raises(InputError, match=r"call it once, or asynchronize\(model, example_inputs=...\)"):
            ask()
    assert "follow from the first input" in repr(net)
    small, large = torch.rand(2, 1, 2, 6, 6), torch.rand(2, 1, 2, 9, 7)
    for x in (small, large, small):
        assert net(x).shape == (2, 1, 4)
    assert net.graph.input_grids == {"input": (2, 6, 6)} and net.graph is net.graph
    with pytest.raises(InputError, match="state is of a network"):
        net.run(large, state=net.run(small).state)
    for given in (dict(input_shape=(2, 9, 7)), dict(example_inputs=large), dict(example_inputs=(large,))):
        assert snn_async.asynchronize(model, **given).graph.input_grids == {"input": (2, 9, 7)}
    for shape in ((2,), (3, 6, 6), (2, 2, 6), (2, 6), (2, 1, 6, 6)):
        with pytest.raises((InputError, UnsupportedModelError), match="Sequential fails on this input"):
            net(torch.rand(2, 1, *shape))
        with pytest.raises((InputError, UnsupportedModelError)):
            snn_async.asynchronize(model, input_shape=shape)
    for wrong in (5, (), (0, 2), (2.0, 3), "12"):
        with pytest.raises(OptionError, match="input_shape="):
            snn_async.asynchronize(model, input_shape=wrong)
    with pytest.raises(OptionError, match="give one"):
        snn_async.asynchronize(model, input_shape=(2, 6, 6), example_inputs=small)
    with pytest.raises(OptionError, match="batch_norm='batch'.*barrier"):
        snn_async.asynchronize(model, batch_norm="batch")


class OwnLinear(nn.Module):
    """Affine, but of a function no graph knows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 2, 2, 2))

    def forward(self, x):
        return F.conv_transpose2d(x, self.weight, stride=2)


@pytest.mark.parametrize("module", [OwnLinear(), layer.ConvTranspose2d(3, 2, 2, 2), layer.WSConv2d(3, 2, 2)])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_other_affine_modules_are_called_as_they_are(module, mode):
    inner = layer.SeqToANNContainer(module) if isinstance(module, OwnLinear) and mode == "m" else module
    model = nn.Sequential(neuron.IFNode(v_threshold=0.5), inner, neuron.IFNode(v_threshold=0.2))
    functional.set_step_mode(model, mode)
    net = assert_layered_equals(model, images(3, 3, 4, steps=3), spikingjelly_run)
    ((synapses),) = [p.synapses for p in net.graph.into("2")]
    assert isinstance(synapses, Affine) or type(module) is layer.WSConv2d


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (neuron.IFNode(v_threshold=0.3) for _ in range(3))
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(40, 40, bias=False)

    def forward(self, x):
        kept = self.drop(self.a(x))
        return self.c(self.fc(self.b(kept)) + kept)


def test_a_dropout_used_twice_has_one_mask():
    net = snn_async.asynchronize(Dropped().double(), backend="reference").train()
    net.model.fc.weight.data.zero_()
    run = net.run(torch.ones(1, 3, 40).double(), record="b")
    assert torch.equal(run.spikes, run.records["b"].spikes) and 0 < run.spikes.sum() < 120


@pytest.mark.parametrize(("kind", "per_run"), [(nn.Dropout, False), (layer.Dropout, True)])
def test_the_mask_of_a_dropout_is_drawn_in_every_timestep_or_once(kind, per_run):
    """SpikingJelly's own is drawn once after a reset."""
    model = nn.Sequential(neuron.IFNode(v_threshold=0.5), kind(0.5), neuron.IFNode(v_threshold=0.5))
    net, x = snn_async.asynchronize(model.double()).train(), torch.ones(4, 2, 50).double()
    for run in (net(x), net.layered(x).result):
        assert run.any() and bool((run == run[0]).all()) is per_run
    assert bool(
        (net.run(x, seed=1).spikes != net.run(x, seed=1).spikes).any()
    )  # drawn by torch, not by the seed
    assert net.eval()(x).all()


def test_joins_hold_for_one_timestep():
    model = residual(sew_resnet.BasicBlock, cnf="AND")
    with pytest.raises(OptionError, match="leftover='carry' with the join '4.mul'"):
        snn_async.asynchronize(model, leftover="carry", input_shape=(2, 8, 8))
