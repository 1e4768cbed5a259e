"""Source models as graphs: neurons keep the framework's rules, structures are read, all else is refused."""

import operator
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from snn_async.capture import build_graph
from snn_async.errors import UnsupportedModelError
from snn_async.neurons import Outcome

SIZE = 5


def leaky(**options):
    return snn.Leaky(**({"beta": 0.9, "init_hidden": True} | options))


def one_layer(module):
    return nn.Sequential(nn.Linear(3, SIZE), module)


def as_documented(population, currents: torch.Tensor) -> torch.Tensor:
    """Spikes (T, size) of currents by the rules in neurons/base.py, a layered run."""
    neuron, like = population.neuron, currents[:1]
    live = neuron.read(population, like)
    state, spikes = neuron.rest(live, 1, like), []
    for current in currents.unbind():
        base, gain, threshold = neuron.begin(live, state)
        u = base + gain * current
        fired = (u >= threshold if neuron.inclusive else u > threshold) & torch.tensor(neuron.spiking)
        after = {"subtract": u - threshold, "value": torch.full_like(u, neuron.reset_value), "none": u}[
            neuron.reset
        ]
        state = neuron.end(live, state, Outcome(fired.double(), current[None], torch.where(fired, after, u)))
        spikes.append(fired.double() if neuron.spiking else state[0])
    return torch.cat(spikes)


RESETS = ("subtract", "zero", "none")
SNNTORCH = [
    *(leaky(reset_mechanism=r, reset_delay=d, threshold=0.4) for r in RESETS for d in (True, False)),
    leaky(beta=torch.linspace(0.2, 1.3, SIZE), threshold=torch.linspace(0.2, 2, SIZE), learn_beta=True),
    leaky(learn_threshold=True, surrogate_disable=True),
    leaky(init_hidden=False, spike_grad=surrogate.fast_sigmoid()),
    *(snn.Lapicque(beta=0.8, reset_mechanism=r, threshold=0.7, init_hidden=True) for r in RESETS),
    snn.Lapicque(R=2.0, C=1.5, time_step=0.5, init_hidden=True, output=True),
]
SPIKINGJELLY = [
    neuron.IFNode(),
    neuron.IFNode(v_reset=None, detach_reset=True),
    *(neuron.LIFNode(3.0, decay_input=d, v_reset=r) for d in (True, False) for r in (0.0, 0.3, -0.7, None)),
    *(neuron.ParametricLIFNode(1.5, d, v_reset=r) for d in (True, False) for r in (0.2, None)),
    neuron.NonSpikingIFNode(),
    neuron.NonSpikingLIFNode(4.0),
]


@pytest.mark.parametrize("module", SNNTORCH + SPIKINGJELLY, ids=lambda module: type(module).__name__)
def test_mapped_neuron_spikes_like_the_framework(module):
    """200 steps, so that leftovers above threshold, inhibition and resets all occur."""
    currents = torch.randn(200, SIZE, generator=torch.Generator().manual_seed(0)).double() + 0.6
    population = build_graph(one_layer(module)).populations[0]
    ours = as_documented(population, currents).detach()
    if isinstance(module, neuron.base_node.NonSpikingBaseNode):
        theirs = torch.stack(module(currents))
    else:
        outputs = [module(current[None]) for current in currents]
        theirs = torch.cat([out[0] if isinstance(out, tuple) else out for out in outputs])
    torch.testing.assert_close(ours, theirs.detach().double(), rtol=1e-6, atol=1e-6)
    assert 0 < ours.count_nonzero() < ours.numel() or not population.neuron.spiking


def test_parameters_are_live_and_differentiable():
    module = leaky(beta=1.5, learn_beta=True, learn_threshold=True)

    def read(module):
        population = build_graph(one_layer(module)).populations[0]
        return population.neuron.read(population, torch.zeros(1, SIZE))

    assert (read(module).leak == 1).all()  # clamped
    with torch.no_grad():
        module.beta.fill_(0.5)
    read(module).leak[0].backward()
    assert (read(module).leak == 0.5).all() and module.beta.grad == 1.0
    plif = neuron.ParametricLIFNode(2.0, v_reset=0.4)
    parameters = read(plif)
    assert [float(p[0].detach()) for p in parameters] == pytest.approx([0.5, 0.5, 0.2, 1.0])
    sum(p[0] for p in parameters[:3]).backward()
    assert plif.w.grad == pytest.approx(0.25 * 0.4)


def test_nested_sequential():
    model = nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(8, 6),
        nn.Sequential(leaky(), nn.Identity(), nn.Dropout(0.2)),
        nn.Linear(6, 3, bias=False),
        nn.Linear(3, 4),
        nn.Dropout(0.3),
        leaky(output=True),
    )
    graph = build_graph(model)
    assert [(p.name, p.size) for p in graph.populations] == [("3.0", 6), ("7", 4)] and graph.output == "7"
    first, second = graph.projections
    assert graph.flatten and first.synapses.layers == (model[2],)
    assert second.synapses.layers == (model[4], model[5])
    assert [d.rate for p in (first, second) for d in (*p.source_dropout, *p.target_dropout)] == [
        0.1,
        0.2,
        0.3,
    ]
    torch.testing.assert_close(second.synapses.weight(), model[5].weight @ model[4].weight)


class Net(nn.Module):
    """A model whose forward is given as a function."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 6), nn.Linear(6, 4)
        self.lif1, self.lif2 = snn.Leaky(beta=0.9), snn.Leaky(beta=0.8)
        for name, module in modules.items():
            self.add_module(name, module)
        self.seen = []
        self.body = forward

    def forward(self, x, mem1=None, mem2=None, steps=4):
        self.steps = steps
        return self.body(self, x, mem1, mem2)


def explicit(net, x, mem1, mem2):
    spk1, mem1 = net.lif1(net.fc1(x.view(x.size(0), -1)), mem1)
    spk2, mem2 = net.lif2(net.fc2(spk1), mem=mem2)
    return spk2, (mem1, mem2)


def started_inside(net, x, *_):
    return explicit(net, x, net.lif1.reset_mem(), net.lif2.init_leaky())


def tutorial(net, x, *_):
    mem1, mem2 = net.lif1.reset_mem(), net.lif2.reset_mem()
    spikes, potentials = [], []
    for step in range(net.steps):
        spk1, mem1 = net.lif1(net.fc1(x[step].flatten(1)), mem1)
        spk2, mem2 = net.lif2(net.fc2(spk1), mem2)
        spikes.append(spk2)
        potentials.append(mem2)
        net.seen.append(spk1)
    return torch.stack(spikes, dim=0), torch.stack(potentials)


def static_input(net, x, *_):
    mem1, mem2, current = net.lif1.reset_mem(), None, net.fc1(torch.flatten(x, 1))
    for _ in range(3):
        spk1, mem1 = net.lif1(current, mem1)
        spk2, mem2 = net.lif2(net.fc2(spk1), mem2)
    return mem2


@pytest.mark.parametrize("forward", [explicit, started_inside, tutorial, static_input])
def test_forms_of_forward_give_one_graph_and_leave_the_model_alone(forward):
    net = Net(forward)
    net.lif1.mem = mem = torch.ones(2, 6)
    net.steps = 1
    before, buffers = dict(vars(net)), dict(net.named_buffers())
    graph = build_graph(net)
    assert graph.flatten and graph.output == "lif2"
    assert [(p.source, p.target, p.synapses.layers) for p in graph.projections] == [
        ("input", "lif1", (net.fc1,)),
        ("lif1", "lif2", (net.fc2,)),
    ]
    assert vars(net) == before and net.seen == [] and net.lif1.mem is mem
    assert all(value is buffers[name] for name, value in net.named_buffers())


@pytest.mark.parametrize("mode", ["s", "m"])
def test_spikingjelly_in_both_step_modes(mode):
    model = nn.Sequential(
        layer.Flatten(),
        layer.Linear(8, 6),
        neuron.LIFNode(),
        layer.Dropout(0.4),
        layer.Linear(6, 4),
        neuron.IFNode(),
    )
    functional.set_step_mode(model, mode)
    graph = build_graph(model)
    assert graph.flatten and graph.projections[1].source_dropout[0].per_run
    assert [p.name for p in graph.populations] == ["2", "5"]


def test_spikingjelly_containers():
    model = nn.Sequential(
        layer.SeqToANNContainer(nn.Flatten(), nn.Linear(8, 6)),
        neuron.LIFNode(step_mode="m"),
        layer.MultiStepContainer(nn.Linear(6, 4), neuron.IFNode()),
    )
    assert [p.name for p in build_graph(model).populations] == ["1", "2.1"]
    assert build_graph(layer.MultiStepContainer(nn.Linear(6, 4), neuron.IFNode())).output == "1"


def hooked():
    model = one_layer(leaky())
    model[0].register_forward_hook(lambda *_: None)
    return model


def replaced_reset():
    module = leaky()
    module.reset_mechanism = "zero"
    return one_layer(module)


def inhibited():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return one_layer(leaky(inhibition=True))


def imprecise():
    module = neuron.IFNode()
    module._neuron_precision = ("fp16", "fp32", "fp32")
    return one_layer(module)


def by_data(net, x, *_):
    for step in range(x.size(0)):
        spk, _ = net.lif1(net.fc1(x[step]))
    return spk


def branch(net, x, *_):
    return net.lif1(net.fc1(x)) if x.sum() > 0 else None


def restarted(net, x, *_):
    spikes = [net.lif1(net.fc1(x[step]), net.lif1.reset_mem())[0] for step in range(3)]
    return torch.stack(spikes)


def used_twice(net, x, *_):
    spk, mem = net.lif1(net.fc1(x))
    return net.lif1(net.fc2(spk), mem)


def delayed(net, x, *_):
    spk1, mem1 = net.lif1(net.fc1(x[0]))
    spk2, mem2 = net.lif2(net.fc2(spk1))
    spk1b, _ = net.lif1(net.fc1(x[1]), mem1)
    return net.lif2(net.fc2(spk1), mem2)


def two_outputs(net, x, *_):
    return net.lif1(net.fc1(x)), net.lif2(net.fc2(x))


def batch_first(net, x, *_):
    spk, mem = net.lif1(net.fc1(x[:, 0]))
    return torch.stack([spk, net.lif1(net.fc1(x[:, 1]), mem)[0]])


def plus_one(net, x, *_):
    spk1, _ = net.lif1(net.fc1(x))
    return net.lif2(net.fc2(spk1) + 1)


def joined(net, x, *_):
    spk1, _ = net.lif1(net.fc1(x))
    return net.lif2(net.fc2(torch.cat([spk1, spk1], 1)))


def differing(net, x, *_):
    spk1, _ = net.lif1(net.fc1(x))
    return net.lif2(net.fc2(spk1 - x))


def gated(net, x, *_):
    spk1, _ = net.lif1(net.fc1(x))
    return net.lif2(net.fc2(net.fc1(x) * spk1))


def rectified(net, x, *_):
    return net.lif1(torch.relu(net.fc1(x)))


def noisy(net, x, *_):
    return net.lif1(net.fc1(x + torch.rand_like(x)))


def over_time(net, x, *_):
    mem, total = None, 0
    for step in range(3):
        spk, mem = net.lif1(net.fc1(x[step]), mem)
        total = total + spk
    return total


def averaged(net, x, *_):
    return net.fc2(net.lif1(net.fc1(x))[0]).mean(0)


def flattened_twice(net, x, *_):
    spk1, _ = net.lif1(net.fc1(x))
    return net.lif2(net.fc2(spk1).view(-1, 7))


def partly(net, x, *_):
    spk, mem = net.lif1(net.fc1(x[0]))
    return torch.stack([net.lif1(net.fc1(x[1]), mem)[0]])


def shared_state(net, x, mem1, _):
    spk1, _ = net.lif1(net.fc1(x), mem1)
    return net.lif2(net.fc2(spk1), mem1)


def skipping(net, x, *_):
    spk, mem = net.lif1(net.fc1(x[0]))
    return net.lif1(net.fc1(x[2]), mem)


REFUSED_SETTINGS = (
    nn.MaxPool2d(2, padding=2),
    nn.MaxPool2d(2, 0),
    nn.MaxPool2d(0),
    nn.AvgPool2d(2, padding=2),
    nn.AvgPool2d(2, 0),
    nn.AvgPool2d(2, divisor_override=0),
    nn.AdaptiveAvgPool2d(0),
    nn.AdaptiveAvgPool2d(2.0),
    nn.AdaptiveAvgPool2d((3, 3, 3)),
    nn.Upsample(),
    nn.Upsample(scale_factor=(2, 2, 2)),
    nn.Upsample(size=(12, 12, 12)),
    *(nn.Upsample(scale_factor=factor) for factor in (0, float("nan"), float("inf"))),
    nn.Conv2d(2, 2, 3, stride=0),
    nn.Conv2d(2, 2, 3, dilation=0),
    nn.Conv2d(2, 2, 3, padding=-1),
)


@pytest.mark.parametrize("module", REFUSED_SETTINGS, ids=repr)
def test_settings_that_torch_refuses_name_their_layer(module):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), module, leaky())
    with pytest.raises(UnsupportedModelError, match=rf"'1' \(torch.{type(module).__name__}\)"):
        build_graph(model, (1, 8, 8))


def test_a_pooling_function_is_held_to_torch_too():
    def pooled(net, x, *_):
        return net.lif1(nn.functional.max_pool2d(net.fc1(x), 2, padding=2))

    with pytest.raises(UnsupportedModelError, match="'max_pool2d'.*pad should be at most half"):
        build_graph(Net(pooled, fc1=nn.Conv2d(1, 2, 3)), (1, 8, 8))


def drawn(net, x, *_):
    return net.lif1(net.fc1(x) * torch.rand(1).item())


def endless(net, x, *_):
    return net.lif1(net.fc1(x) * float("inf"))


def stacked(net, x, *_):
    a = net.lif1(net.fc1(x))
    return net.lif2(torch.stack([a, net.fc2(a)]).sum(0))


def over_positions(net, x, *_):
    return net.lif1(net.fc1(x).mean((2, 3)))


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.jit.script(nn.Linear(3, 3)), leaky())


class DrawsScale(nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5)


def changed_in_place(net, x, *_):
    cur = net.fc1(x)
    cur.mul_(3.0)
    return net.lif2(net.fc2(net.lif1(cur)))


def changed_by_name(net, x, *_):
    cur = net.fc1(x)
    other = cur
    other *= 3.0
    return net.lif2(net.fc2(net.lif1(cur)))


class LagTwo(nn.Module):
    def forward(self, x):
        return x + x.roll(2, 0)


def mixed_modes():
    return nn.Sequential(nn.Linear(3, 3), neuron.IFNode(), nn.Linear(3, 3), neuron.IFNode(step_mode="m"))


REFUSED = {
    "not a module": (lambda: print, "pass a torch.nn.Module"),
    "single neuron": (leaky, "single Leaky"),
    "wrapped": (lambda: nn.DataParallel(one_layer(leaky())), r"pass the model in it, \.module"),
    "padding": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), leaky()),
        r"'0' \(torch.*padding_mode='circular'",
    ),
    "no statistics": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False), leaky()),
        r"'1'.*track_running_stats=True",
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), leaky()),
        "LayerNorm.*a barrier; use nn.Batch",
    ),
    "batch norm through time": (
        lambda: nn.Sequential(nn.Linear(3, 3), layer.BatchNormThroughTime1d(4, 3), neuron.IFNode()),
        "another BatchNorm in every timestep",
    ),
    "activation of currents": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(), leaky()),
        "'1'.*ReLU.*currents of events must add up",
    ),
    "function of currents": (lambda: Net(rectified), r"'relu'.*currents of events must add up"),
    "dropped channels": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout2d(), leaky()),
        "Dropout2d.*use nn.Dropout",
    ),
    "indices": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, return_indices=True), leaky()),
        "return_indices",
    ),
    "joined": (lambda: Net(joined), r"function 'cat'.*add the results"),
    "difference": (lambda: Net(differing), r"function 'sub'.*negate the weights"),
    "gated current": (lambda: Net(gated), r"'mul'.*'fc1' brings a bias"),
    "noise": (lambda: Net(noisy), "'rand_like'.*random numbers"),
    "sum over time": (lambda: Net(over_time), r"joins several timesteps.*net\(x\)"),
    "mean over time": (lambda: Net(averaged), r"'mean'.*take net\(x\)\.mean\(0\)"),
    "step mode": (
        lambda: nn.Sequential(layer.Conv2d(1, 2, 3), neuron.IFNode(step_mode="m")),
        r"'0'.*takes \(N, \.\.\.\), but gets \(T, N",
    ),
    "recurrent product": (
        lambda: nn.Sequential(
            nn.Linear(3, 3), layer.ElementWiseRecurrentContainer(neuron.IFNode(), lambda x, y: x * y)
        ),
        "'mul'.*'0' brings a bias",
    ),
    "recurrent bias": (
        lambda: nn.Sequential(
            nn.Linear(3, 3),
            layer.ElementWiseRecurrentContainer(
                nn.Sequential(nn.Conv1d(3, 3, 1), neuron.IFNode()), operator.add
            ),
        ),
        "feedback together; use bias=False",
    ),
    "in place": (lambda: Net(changed_in_place), r"'mul_'.*changes a value in place that is read again"),
    "in place by name": (lambda: Net(changed_by_name), r"'imul'.*in place that is read again"),
    "lag of two steps": (
        lambda: nn.Sequential(nn.Linear(3, 3), LagTwo(), neuron.IFNode(step_mode="m")),
        "a timestep's result depends on the other timesteps",
    ),
    "drawn constant": (lambda: Net(drawn), "draws random numbers in forward"),
    "infinite factor": (lambda: Net(endless), "'mul'.*factor inf is not finite"),
    "drawn in a module": (
        lambda: nn.Sequential(nn.Linear(3, 3), DrawsScale(), leaky()),
        r"'1'.*draws random numbers",
    ),
    "sum of a stack": (lambda: Net(stacked, lif1=leaky()), r"'sum'.*write a \+ b"),
    "mean over positions": (
        lambda: Net(over_positions, fc1=nn.Conv2d(1, 2, 3)),
        r"'mean'.*use nn.AdaptiveAvgPool2d\(1\)",
    ),
    "scripted": (scripted, "'0'.*pass the module itself"),
    "no image": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4), leaky()),
        r"'1'.*takes \(C, H, W\), but gets 4; use BatchNorm1d",
    ),
    "V's shape": (
        lambda: nn.Sequential(nn.Linear(3, 4), snn.RLeaky(0.9, V=torch.ones(2, 2), all_to_all=False)),
        r"'1'.*V has shape \(2, 2\)",
    ),
    "no neuron": (lambda: nn.Sequential(nn.Linear(3, 2)), "no spiking neuron"),
    "pair": (lambda: nn.Sequential(*one_layer(snn.Leaky(0.9)), nn.Linear(5, 2), leaky()), "init_hidden=True"),
    "features": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 2), leaky()),
        "takes 3 features, but gets 4",
    ),
    "flatten time": (lambda: nn.Sequential(nn.Flatten(2), *one_layer(leaky())), "begin at 1"),
    "flatten samples": (
        lambda: nn.Sequential(nn.Flatten(), *one_layer(neuron.IFNode(step_mode="m"))),
        r"'0'.*begin at 2",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(5), leaky()), "run one batch"),
    "hooks": (hooked, r"'0'.*forward hooks"),
    "loop over data": (lambda: Net(by_data), r"test_capture.py:\d+.*pass the single step"),
    "branch on data": (lambda: Net(branch), r"test_capture.py:\d+.*pass the single step"),
    "restarted": (lambda: Net(restarted), "'lif1'.*steps differ.*does not continue"),
    "used twice": (lambda: Net(used_twice), "'lif1'.*used twice in one step"),
    "delayed": (lambda: Net(delayed), "'lif2'.*steps differ"),
    "two outputs": (lambda: Net(two_outputs, fc2=nn.Linear(8, 4)), r"2 outputs, \['lif1', 'lif2'\]"),
    "batch first": (lambda: Net(batch_first), r"only x\[step\]"),
    "constant": (
        lambda: Net(plus_one),
        r"function 'add'.*Net\) at .*test_capture.py:\d+.*use the bias or the weights",
    ),
    "view": (lambda: Net(flattened_twice), "takes 7 features, but gets 4"),
    "some steps": (lambda: Net(partly), "every step in order"),
    "shared state": (lambda: Net(shared_state), "state 'mem1' is also passed to 'lif1'"),
    "skipped frame": (lambda: Net(skipping), "steps differ"),
    "mixed modes": (mixed_modes, "disagree on the step mode"),
    "inhibition": (inhibited, "inhibition=True"),
    "negative threshold": (
        lambda: one_layer(leaky(threshold=-0.5, reset_mechanism="zero", reset_delay=False)),
        "threshold -0.5",
    ),
    "changed reset": (replaced_reset, "reset_mechanism became 'zero'"),
    "recurrent size": (
        lambda: one_layer(snn.RLeaky(0.9, linear_features=4)),
        r"'1'.*takes 4 features, but its neurons are 5",
    ),
    "learnt Lapicque": (lambda: one_layer(snn.Lapicque(beta=0.9, learn_beta=True)), "learn_beta=True"),
    "beta's shape": (
        lambda: one_layer(leaky(beta=torch.rand(4))),
        r"'1'.*beta has shape \(4,\).*5 neurons",
    ),
    "unspiking surrogate": (
        lambda: one_layer(neuron.IFNode(surrogate_function=torch.sigmoid)),
        "binary spikes",
    ),
    "precision": (imprecise, "precision"),
    "activation": (lambda: one_layer(neuron.LIAFNode(torch.tanh, False)), "LIAFNode.*analog"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_with_the_reason(case):
    make, message = REFUSED[case]
    with pytest.raises(UnsupportedModelError, match=message):
        build_graph(make())


def test_several_threads_may_read_models_at_once():
    models = [one_layer(neuron.LIFNode()) for _ in range(24)]
    with ThreadPoolExecutor(4) as pool:
        assert {graph.size for graph in pool.map(build_graph, models)} == {SIZE}
    assert nn.Linear(2, 2)(torch.zeros(1, 2)).shape == (1, 2)  # torch.fx left torch as it was
