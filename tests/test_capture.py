"""A model is run as it is written: what it becomes, what stays live, what is refused and why."""

import copy
import io
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import snntorch as snn
import torch
from networks import ATan
from snntorch import utils
from spikingjelly.activation_based import functional, layer, monitor, neuron
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import snn_async
from snn_async.errors import InputError, SnnAsyncError, UnsupportedModelError

T, B = 4, 2


pytestmark = pytest.mark.usefixtures("double_precision")


def leaky(**options):
    return snn.Leaky(**(dict(beta=0.9, threshold=0.3, spike_grad=ATan.apply, init_hidden=True) | options))


def passing(**options):
    """With its states passed in and out."""
    return leaky(init_hidden=False, **options)


def if_node(**options):
    return neuron.IFNode(**(dict(v_threshold=0.4) | options))


def x(*shape, scale=3.0):
    return scale * torch.rand(T, B, *(shape or (8,)), generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A model whose forward is given as a function."""

    def __init__(self, forward, **modules):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(8, 6), nn.Linear(6, 4)
        self.lif1, self.lif2 = leaky(), leaky()
        for name, module in modules.items():
            self.add_module(name, module)
        self.body = forward

    def forward(self, x):
        return self.body(self, x)


def captured(model, *args, **options):
    return snn_async.asynchronize(model, backend="torch", example_inputs=args, **options)


def spiking(mode="m"):
    """Of SpikingJelly, because its modules can be copied and pickled."""
    torch.manual_seed(0)
    model = nn.Sequential(layer.Linear(8, 6), if_node(), layer.Linear(6, 4), if_node())
    functional.set_step_mode(model, mode)
    return model


def own(model):
    """What a copy of a model whose forward is one timestep returns."""
    twin = copy.deepcopy(model)
    return torch.stack([twin(frame) for frame in x()])


def projections(net):
    return [(p.source, p.target) for p in net.graph.projections]


# -- what a model becomes --------------------------------------------------------------------------------


def test_populations_are_named_by_their_modules_and_their_calls():
    modules = (
        nn.Linear(8, 6),
        nn.Sequential(leaky(), nn.Identity()),
        nn.Linear(6, 4),
        nn.Linear(4, 3),
        leaky(),
    )
    net = captured(nn.Sequential(*modules), x())
    assert [(p.name, p.shape) for p in net.graph.populations] == [("1.0", (6,)), ("4", (3,))]
    assert projections(net) == [("input", "1.0"), ("1.0", "4")] and net.graph.output == "4"

    def one_object_for_two_layers(net, x):
        mem1 = mem2 = torch.zeros(B, 6)
        for frame in x:
            spk, mem1 = net.lif1(net.fc1(frame), mem1)
            spk, mem2 = net.lif1(net.fc2(spk), mem2)
        return spk

    net = captured(Net(one_object_for_two_layers, lif1=passing(), fc2=nn.Linear(6, 6)), x())
    assert projections(net) == [("input", "lif1"), ("lif1", "lif1 (2)")]


def test_what_follows_the_last_neuron_is_none_of_the_graph():
    net = captured(nn.Sequential(*spiking("s"), nn.Linear(4, 3), nn.Softmax(1)), x())
    assert [p.name for p in net.graph.populations] == ["1", "3"] and net(x()).shape == (T, B, 3)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_graph_does_not_depend_on_the_step_mode(mode):
    assert projections(captured(spiking(mode), x())) == [("input", "1"), ("1", "3")]


def test_containers_are_looked_through():
    model = nn.Sequential(
        layer.SeqToANNContainer(nn.Linear(8, 6), nn.BatchNorm1d(6)),
        if_node(step_mode="m"),
        layer.MultiStepContainer(nn.Linear(6, 4), if_node()),
    ).eval()
    assert [p.name for p in captured(model, x()).graph.populations] == ["1", "2.1"]


def contents(model):
    """What a model and its modules hold, and what the tables among it hold, by identity."""
    held = [(name, v) for module in model.modules() for name, v in vars(module).items()]
    tables = [
        v.items() if isinstance(v, dict) else enumerate(v) for _, v in held if isinstance(v, dict | list)
    ]
    return [[(name, id(v)) for name, v in table] for table in (held, *tables)]


def test_the_model_stays_as_it_was():
    """Attributes, parameters, buffers, records, states of a run before; modes; torch's random numbers."""

    def recording(net, x):
        net.steps, net.seen["last"] = len(x), x
        for frame in x:
            net.seen["spikes"].append(net.lif2(net.fc2(net.node(net.lif1(net.norm(net.fc1(frame)))))))
        return torch.stack(net.seen["spikes"])

    model = Net(recording, node=if_node(), norm=nn.BatchNorm1d(6)).train()
    model.steps, model.seen = 0, {"spikes": []}
    model.norm.eval()
    model.node.v = model.lif1.mem = torch.ones(B, 6)
    before, values, generator = contents(model), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    net = captured(model, x())
    assert contents(model) == before and torch.equal(generator, torch.get_rng_state())
    net(x()), net.layered(x()), net.trace(x())
    assert contents(model) == before and model.node.v.all() and not model.norm.training and model.training
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())


# -- what stays live -------------------------------------------------------------------------------------


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Rounded(nn.Module):
    """A fake quantizer: rounded weights, gradients straight through."""

    def forward(self, weight):
        scale = weight.detach().abs().max() / 7
        return weight + ((weight / scale).round() * scale - weight).detach()


LIVE = {
    "a quantizer": lambda linear: parametrize.register_parametrization(linear, "weight", Rounded()),
    "weight norm": parametrizations.weight_norm,
    "spectral norm": lambda linear: parametrizations.spectral_norm(linear).eval(),
    "pruning": lambda linear: prune.l1_unstructured(linear, "weight", 0.2),
    "a parametrization": lambda linear: parametrize.register_parametrization(linear, "weight", Doubled()),
}


@pytest.mark.parametrize("wrap", LIVE.values(), ids=LIVE)
def test_derived_weights_are_evaluated_in_every_run(wrap):
    model = spiking()
    wrap(model[0]), wrap(model[2])
    model.eval()
    net = captured(model, x())
    for _ in range(2):
        functional.reset_net(model)
        expected = model(x())
        parameters = [p for p in model.parameters() if p.requires_grad]
        ours = net.layered(x()).result
        assert torch.equal(ours, expected) and expected.any()
        found = torch.autograd.grad(ours.sum(), parameters)
        for a, b in zip(found, torch.autograd.grad(expected.sum(), parameters), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert all(gradient.any() for gradient in found)
        with torch.no_grad():
            parameters[0].add_(0.3)


def test_weights_of_others_are_those_of_the_run():
    """An average of models, and a call with other parameters."""
    model, other = spiking(), spiking()
    with torch.no_grad():
        other[0].weight.mul_(-1)
    net, expected = captured(model, x()).eval(), captured(other, x()).eval()(x())
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    assert torch.equal(average(x()), net(x())) and not torch.equal(net(x()), expected)
    parameters = {f"model.{name}": value for name, value in other.named_parameters()}
    assert torch.equal(torch.func.functional_call(net, parameters, (x(),)), expected)


def test_a_checkpoint_that_the_source_model_loads_takes_effect():
    model, other = spiking(), spiking()
    net = captured(model, x()).eval()
    before = net(x())
    with torch.no_grad():
        other[0].weight.mul_(-1)
    model.load_state_dict(other.state_dict())
    assert torch.equal(net(x()), captured(other, x()).eval()(x())) and not torch.equal(net(x()), before)


CHANGES = {
    "another layer": lambda m: m.__setitem__(2, nn.AvgPool2d(2)),
    "one more layer": lambda m: m.append(nn.Flatten()),
    "kernel size": lambda m: setattr(m[2], "kernel_size", (1, 2)),
    "threshold": lambda m: setattr(m[1], "v_threshold", 0.9),
    "another neuron": lambda m: m.__setitem__(1, neuron.LIFNode(v_threshold=0.1)),
    "step mode": lambda m: functional.set_step_mode(m, "m"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_of_the_model_are_followed(change):
    def run(model):
        functional.reset_net(model)
        return model(images) if model[1].step_mode == "m" else torch.stack([model(frame) for frame in images])

    images = x(2, 6, 6)
    model = nn.Sequential(layer.Conv2d(2, 4, 3), if_node(), layer.MaxPool2d(2), if_node(v_threshold=0.9))
    net = captured(model, images)
    assert torch.equal(net.layered(images).result, run(model))
    change(model)
    expected = run(model)
    assert torch.equal(net.layered(images).result, expected) and expected.any()


HELD = {
    "an item of a list": lambda m: m.gains.__setitem__(0, 5.0),
    "a list": lambda m: setattr(m, "gains", [5.0]),
    "an item of a dictionary": lambda m: m.settings.update(gain=5.0),
    "a number": lambda m: setattr(m, "gain", 5.0),
    "a tensor": lambda m: setattr(m, "scale", torch.full((6,), 5.0)),
    "a tensor in place": lambda m: m.scale.fill_(5.0),
}


@pytest.mark.parametrize("change", HELD.values(), ids=HELD)
def test_changes_of_what_the_model_holds_are_followed(change):
    model = Net(
        lambda net, x: net.lif1(net.fc1(x) * net.gain * net.gains[0] * net.settings["gain"] * net.scale)
    )
    model.gain, model.gains, model.settings, model.scale = 0.2, [1.0], {"gain": 1.0}, torch.ones(6)
    net = captured(model, x())
    before = net.layered(x()).result
    assert torch.equal(before, own(model))
    change(model)
    assert torch.equal(net.layered(x()).result, own(model)) and not torch.equal(before, own(model))


def test_training_and_evaluation_are_followed_each_with_its_own_forward():
    def branching(net, x):
        return net.lif1(net.fc1(x if net.training else -x))

    model = Net(branching).eval()
    net = captured(model, x())
    for training in (False, True, False):
        assert torch.equal(net.layered(x()).result, own(model)) and net.layered(x()).result.any()
        net.train(not training)
        assert model.training is not training


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_first_call_without_gradient_leaves_the_gradient_of_later_calls(mode):
    def encoding(net, x):
        with torch.no_grad():
            x = x.clamp(0, 2)
        return net.lif2(net.fc2(net.lif1(net.fc1(x))))

    model = Net(encoding)
    net = snn_async.asynchronize(model, forward_group_size=None, backend="torch")
    with mode():
        net(x())
    leaves = list(model.parameters())
    found = torch.autograd.grad(net(x()).sum(), leaves)
    twin = copy.deepcopy(model)
    theirs = torch.stack([twin(frame) for frame in x()]).sum()
    for a, b in zip(found, torch.autograd.grad(theirs, list(twin.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# -- what projects do with a model -----------------------------------------------------------------------


def test_hooks_on_neurons_see_asynchronous_spikes_over_time():
    model, seen = spiking("s"), []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    watch = monitor.OutputMonitor(model, neuron.IFNode)
    net = captured(model, x(), forward_group_size=1).eval()
    run = net.run(x(), record=["1"])
    assert torch.equal(seen[-1], run.records["1"].spikes) and torch.equal(watch.records[-1], run.spikes)
    assert seen[-1].shape == (T, B, 6) and len(seen) == 1 and len(watch.records) == 2
    watch.remove_hooks()
    net(x())
    assert len(seen) == 2 and len(watch.records) == 2


@pytest.mark.parametrize(
    "make, state", [(if_node, "v"), (lambda: if_node(store_v_seq=True), "v_seq"), (leaky, "mem")]
)
def test_hooks_that_read_what_a_run_does_not_keep_are_refused_by_name(make, state):
    model = nn.Sequential(nn.Linear(8, 6), make())
    net, before = captured(model, x()), getattr(model[1], state)
    for hook, message in (
        (lambda module, inputs, output: getattr(module, state), f"'1' reads its '{state}'.*records"),
        (lambda module, inputs, output: inputs[0], "reads the inputs.*third argument"),
    ):
        with model[1].register_forward_hook(hook), pytest.raises(UnsupportedModelError, match=message):
            net(x())
    assert getattr(model[1], state) is before


def test_the_frameworks_resets_are_harmless():
    def once(net, x):
        return net.lif1(net.fc1(x))

    for model, resets in (
        (spiking(), (functional.reset_net, functional.detach_net)),
        (Net(once), (utils.reset,)),
    ):
        net = captured(model, x()).eval()
        expected = net(x())
        for reset in resets:
            reset(net)
            assert torch.equal(net(x()), expected) and expected.any()


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": saved,
    "torch.compile": lambda net: torch.compile(net, backend="eager"),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_copies_run_as_the_network_does(make):
    net = snn_async.asynchronize(spiking(), forward_group_size=2, backend="torch", seed=3).eval()
    for given in (net, copy.deepcopy(net)):  # captured, and not yet
        expected = net(x()) if given is net else given(x())
        twin = make(given)
        assert torch.equal(twin(x()), expected) and expected.any()


def test_several_threads_call_networks_at_once():
    shared = snn_async.asynchronize(spiking(), forward_group_size=2, backend="torch").eval()
    own = [snn_async.asynchronize(spiking(), forward_group_size=2, backend="torch").eval() for _ in range(6)]
    inputs = [x()[:, :, :8] * factor for factor in (0.5, 1, 2, 3, 4, 5)]
    expected = [copy.deepcopy(shared)(frames) for frames in inputs]
    with ThreadPoolExecutor(4) as pool:
        for nets in ([shared] * 6, own):
            found = list(pool.map(lambda net, frames: net(frames), nets, inputs))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        several = [inputs[0][:t, :b] for t in (1, 2, 3) for b in (1, 2)] * 3  # captured while others run
        sizes = [result.shape[:2] for result in pool.map(shared, several)]
        assert sizes == [frames.shape[:2] for frames in several]
    assert nn.Linear(2, 2)(torch.zeros(1, 2)).shape == (1, 2)  # torch is as it was


# -- what is changed in the forward ----------------------------------------------------------------------


def loop(before_the_loop=lambda net: None, in_the_loop=lambda net, t: None):
    """A time loop of one layer, for a change of the model before it or within."""

    def forward(net, x):
        before_the_loop(net)
        spikes = []
        for t, frame in enumerate(x):
            in_the_loop(net, t)
            spikes.append(net.lif1(net.fc1(frame)))
        return torch.stack(spikes)

    return forward


def without_gradient(change):
    def changed(net, *t):
        with torch.no_grad():
            change(net, *t)

    return changed


PARTS = [
    nn.Parameter(torch.rand(6, 8, generator=torch.Generator().manual_seed(i)).double()) for i in range(2)
]
CHANGED = {
    "a threshold": (
        leaky,
        lambda net, t: setattr(net.lif1, "threshold", torch.tensor(0.1 + 0.3 * t)),
        "threshold",
    ),
    "a threshold in place": (leaky, lambda net, t: net.lif1.threshold.fill_(0.1 + 0.3 * t), "threshold"),
    "an attribute": (if_node, lambda net, t: setattr(net.lif1, "v_threshold", 0.2 + 0.3 * t), "v_threshold"),
    "a neuron's parameter": (
        neuron.ParametricLIFNode,
        without_gradient(lambda net, t: net.lif1.w.fill_(float(t))),
        "lif1",
    ),
    "a reset": (if_node, lambda net, t: setattr(net.lif1, "v_reset", (None, 0.0)[t % 2]), "v_reset"),
    "a weight": (leaky, lambda net, t: setattr(net.fc1, "weight", PARTS[t // 2]), "fc1"),
    "a weight in place": (leaky, without_gradient(lambda net, t: net.fc1.weight.mul_(0.5)), "fc1"),
    "training": (if_node, lambda net, t: net.train(t % 2 == 0), "training"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_changes_in_the_time_loop_is_run_as_it_is_meant_or_refused_by_name(case):
    make, change, name = CHANGED[case]
    model = Net(loop(in_the_loop=change), lif1=make())
    values = copy.deepcopy(model.state_dict())
    expected = copy.deepcopy(model)(x())
    try:
        net = captured(model, x())
    except UnsupportedModelError as refusal:
        assert name in str(refusal)
    else:
        assert torch.equal(net.layered(x()).result, expected) and expected.any()
        model.load_state_dict(values)  # the run changes what the model's own would
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())


SET_FIRST = {
    "a threshold": (leaky, lambda net: setattr(net.lif1, "threshold", torch.tensor(0.9))),
    "a threshold in place": (leaky, lambda net: net.lif1.threshold.fill_(0.9)),
    "an attribute": (if_node, lambda net: setattr(net.lif1, "v_threshold", 2.0)),
    "a reset": (leaky, lambda net: setattr(net.lif1, "reset_delay", False)),
    "a clamped parameter": (
        lambda: leaky(learn_beta=True),
        without_gradient(lambda net: net.lif1.beta.clamp_(0, 0.2)),
    ),
    "a clamped weight": (leaky, without_gradient(lambda net: net.fc1.weight.clamp_(0, 0.2))),
    "a weight": (leaky, lambda net: setattr(net.fc1, "weight", PARTS[0])),
    "no bias": (leaky, lambda net: setattr(net.fc1, "bias", None)),
    "a potential": (if_node, lambda net: setattr(net.lif1, "v", 0.3)),
}


@pytest.mark.parametrize("case", SET_FIRST)
def test_what_is_set_before_the_time_loop_holds_or_is_refused(case):
    make, change = SET_FIRST[case]
    model = Net(loop(before_the_loop=change), lif1=make())
    expected = copy.deepcopy(model)(x())
    try:
        net = captured(model, x())
    except UnsupportedModelError:
        return
    assert torch.equal(net.layered(x()).result, expected) and expected.any()


def test_a_capture_runs_nothing_that_changes_the_model():
    model = Net(loop(without_gradient(lambda net: net.fc1.weight.mul_(2))))
    before = model.fc1.weight.detach().clone()
    with suppress(UnsupportedModelError):
        captured(model, x())
    assert torch.equal(model.fc1.weight, before)


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.lif1(net.fc1(x), net.lif1.init_leaky())[0],
        lambda net, x: net.lif1(net.fc1(x), torch.zeros(len(x), 6))[0],
        lambda net, x: (utils.reset(net), net.lif2(net.fc1(x)))[1],
    ],
)
def test_a_timestep_that_starts_from_rest_is_called_as_it_is(forward):
    """Not timestep by timestep: it would start anew in each, so all of x is one."""
    model = Net(forward, lif1=passing())
    expected = model(x())
    utils.reset(model)
    assert torch.equal(captured(model, x()).layered(x()).result, expected) and expected.any()


def test_states_are_cut_off_between_timesteps_as_the_model_does():
    """Truncated backpropagation through time, by either framework's function within the loop."""
    for detach, make in ((functional.detach_net, if_node), (lambda net: net.lif1.detach_hidden(), leaky)):
        model = Net(loop(in_the_loop=lambda net, t, detach=detach: detach(net)), lif1=make())
        expected = copy.deepcopy(model)(x())
        net = captured(model, x())
        assert net.graph.populations[0].detached and torch.equal(net.layered(x()).result, expected)


def assigned_slice(net, spk):
    taken = torch.zeros(B, 6)
    taken[:, :3] = spk[:, 3:]
    return taken


def scaled_slice(net, spk):
    spk = spk.clone()
    spk[:, :3] *= 2
    return spk


IN_PLACE = {
    "a slice assigned": assigned_slice,
    "a slice scaled": scaled_slice,
    "filled where the input says": lambda net, spk: spk.masked_fill(net.seen > 1, 0.0),
    "chosen by the input": lambda net, spk: torch.where(net.seen > 1, spk, torch.zeros(())),
    "added to": lambda net, spk: spk.clone().add_(net.seen),
    "multiplied": lambda net, spk: spk.mul_(0.5),
    "turned around": lambda net, spk: spk.clone().neg_().add_(1),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_changes_in_place_between_neurons_hold_or_are_refused(case):
    def forward(net, x):
        net.seen = x[:, :6]
        return net.lif2(net.fc2(IN_PLACE[case](net, net.lif1(net.fc1(x)))))

    model = Net(forward, lif1=if_node(v_threshold=0.3), lif2=if_node(v_threshold=0.1))
    try:
        net = captured(model, x())
    except UnsupportedModelError:
        return
    leaves = list(model.parameters())
    expected, found = own(model), net.layered(x()).result
    assert torch.equal(found, expected) and expected.any()
    assert torch.equal(found, net.layered(x()).result)
    model.zero_grad()
    functional.reset_net(model)
    theirs = torch.autograd.grad(torch.stack([model(frame) for frame in x()]).sum(), leaves)
    for a, b in zip(torch.autograd.grad(found.sum(), leaves), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_loop_over_time_is_not_taken_for_one_over_the_batch():
    """What is refused for all timesteps is not tried with one of them, whose samples such a loop would run over."""

    def detached_once(net, x):
        mem, spikes = torch.zeros(B, 6), []
        for t in range(len(x)):
            spk, mem = net.lif1(net.fc1(x[t]), mem.detach() if t == 2 else mem)
            spikes.append(spk)
        return torch.stack(spikes)

    with pytest.raises(
        UnsupportedModelError, match=r"test_capture.py.*'lif1' are detached in some timesteps only"
    ):
        captured(Net(detached_once, lif1=passing()), x())


def test_values_that_the_forward_counts_are_no_part_of_the_model_or_it_is_refused():
    def counting(net, x):
        net.calls += 1
        net.log["spikes"].append(net.lif1(net.fc1(x)))
        return net.log["spikes"][-1] * (net.calls if net.used else 1)

    model = Net(counting)
    model.calls, model.log, model.used = 0, {"spikes": []}, False
    net = captured(model, x())
    assert torch.equal(net.layered(x()).result, own(model)) and model.calls == 0
    model.used = True
    with pytest.raises(UnsupportedModelError, match=r"changes \['calls'\] and computes something else"):
        net(x())


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_a_population_that_gets_only_the_last_timesteps_spikes(engine):
    def later(net, x):
        spk, results = x.new_zeros(B, 6), []
        for frame in x:
            results.append(net.lif2(net.fc2(spk)))
            spk = net.lif1(net.fc1(frame))
        return torch.stack(results)

    model = Net(later, lif1=if_node(), lif2=if_node(v_threshold=0.1))
    found = snn_async.asynchronize(model, backend=engine, forward_group_size=2).layered(x()).result
    expected = model(x())
    assert torch.equal(found, expected) and expected.any()
    leaves = list(model.parameters())
    for a, b in zip(*(torch.autograd.grad(r.sum(), leaves) for r in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_surrogate_function_between_neurons_passes_its_gradient_on():
    def gated(net, x):
        spk = net.lif1(net.fc1(x))
        with torch.no_grad():
            scale = spk.new_tensor(0.7)
        return net.lif2(net.fc2(ATan.apply(net.gate(spk) - 0.1) * spk * scale))

    model = Net(gated, gate=nn.Linear(6, 6), lif1=if_node(), lif2=if_node(v_threshold=0.1))
    leaves, found = list(model.parameters()), captured(model, x()).layered(x()).result
    expected = torch.stack([model(frame) for frame in x()])
    assert torch.equal(found, expected) and expected.any()
    for a, b in zip(*(torch.autograd.grad(r.sum(), leaves) for r in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert b.any()


# -- what is refused -------------------------------------------------------------------------------------


def one_layer(module):
    return nn.Sequential(nn.Linear(8, 6), module)


def hooked():
    model = one_layer(leaky())
    model[0].register_forward_hook(lambda *_: None)
    return model


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.jit.script(nn.Linear(8, 8)), leaky())


def imprecise():
    module = if_node()
    module._neuron_precision = ("fp16", "fp32", "fp32")
    return one_layer(module)


def inhibited():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return one_layer(leaky(inhibition=True))


def two_steps_late(net, x):
    earlier, last, spikes = torch.zeros(B, 6), torch.zeros(B, 6), []
    for frame in x:
        spikes.append(net.lif2(net.fc2(earlier)))
        earlier, last = last, net.lif1(net.fc1(frame))
    return torch.stack(spikes)


def alternating(net, x):
    spikes = [net.lif1(net.fc1(frame)) for frame in x]
    return torch.stack([net.lif2(net.fc2(spk) if t % 2 else -net.fc2(spk)) for t, spk in enumerate(spikes)])


def shared_state(net, x):
    spk1, mem = net.lif1(net.fc1(x[0]))
    return net.lif2(net.fc2(spk1), mem)[0] + net.lif1(net.fc1(x[1]), mem)[0]


def scaled_state(net, x):
    mem, spikes = torch.zeros(B, 6), []
    for frame in x:
        spk, mem = net.lif1(net.fc1(frame), 0.5 * mem)
        spikes.append(spk)
    return torch.stack(spikes)


def used_twice(net, x):
    return torch.stack([net.lif1(net.fc2(net.lif1(net.fc1(frame)))) for frame in x])


def over_the_batch(net, x):
    spk = net.lif1(net.fc1(x))
    return net.lif2(net.fc2(spk - spk.mean(0)))


def above_average(net, x):
    spk = net.lif1(net.fc1(x))
    return net.lif2(net.fc2(spk * (spk > spk.mean())))


def in_time(first=True, restart=False):
    """A time loop whose second neuron is called from the second timestep on, or starts anew in each."""

    def forward(net, x):
        mem1, mem2, spikes = torch.zeros(B, 6), torch.zeros(B, 4), []
        for t, frame in enumerate(x):
            spk, mem1 = net.lif1(net.fc1(frame), mem1)
            if first or t:
                spk, after = net.lif2(net.fc2(spk), mem2)
                mem2 = mem2 if restart else after
                spikes.append(spk)
        return torch.stack(spikes)

    return lambda: Net(forward, lif1=passing(), lif2=passing())


def in_sequence(between, **modules):
    """Two neurons that take whole sequences, and what is done between them."""

    def forward(net, x):
        return net.lif2(net.fc2(between(net, net.lif1(net.fc1(x)))))

    return lambda: Net(forward, **{"lif1": if_node(step_mode="m"), "lif2": if_node(step_mode="m")} | modules)


def swapped_states(net, x):
    syn, mem = net.lif1.init_synaptic()
    for frame in x:
        spk, mem, syn = net.lif1(net.fc1(frame), syn, mem)
    return spk


def helping(spikes):
    return spikes if spikes.any() else -spikes


OWN_LINE = r"test_capture\.py:\d+"
REFUSED = {
    "not a module": (lambda: print, "pass a torch.nn.Module"),
    "no neuron": (lambda: nn.Sequential(nn.Linear(8, 2)), "no spiking neuron"),
    "scripted": (scripted, "'0'.*pass the module itself"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(5), leaky()), "run one batch"),
    "hooks": (hooked, r"'0'.*forward hooks.*on the neurons"),
    "inhibition": (inhibited, "inhibition=True"),
    "precision": (imprecise, "precision"),
    "learnt Lapicque": (lambda: one_layer(snn.Lapicque(beta=0.9, learn_beta=True)), "learn_beta=True"),
    "V's shape": (
        lambda: one_layer(snn.RLeaky(0.9, V=torch.ones(2, 2), all_to_all=False, init_hidden=True)),
        r"\[2, 2\]",
    ),
    "beta's shape": (lambda: one_layer(leaky(beta=torch.rand(4))), r"'1'|size of tensor"),
    "features": (lambda: nn.Sequential(nn.Linear(8, 4), nn.Linear(3, 2), leaky()), "Sequential fails"),
    "branch on the input": (
        lambda: Net(lambda net, x: net.lif1(net.fc1(x)) if x.sum() > 0 else x),
        OWN_LINE + ".*needs the values of a tensor",
    ),
    "branch on spikes": (
        lambda: Net(lambda net, x: x if net.lif1(net.fc1(x)).any() else x),
        OWN_LINE + ".*needs the values of a tensor.*torch.where",
    ),
    "numpy": (lambda: Net(lambda net, x: net.lif1(net.fc1(torch.from_numpy(x.numpy())))), OWN_LINE),
    "drawn constant": (lambda: Net(lambda net, x: net.lif1(net.fc1(x) * torch.rand(1).item())), OWN_LINE),
    "infinite factor": (lambda: Net(lambda net, x: net.lif1(net.fc1(x) * float("inf"))), "inf"),
    "branch in a function": (
        lambda: Net(lambda net, x: helping(net.lif1(net.fc1(x)))),
        rf"test_capture\.py:{helping.__code__.co_firstlineno + 1}: .*a branch on it",
    ),
    "a value": (
        lambda: Net(lambda net, x: net.lif1(net.fc1(x)).sum().item()),
        OWN_LINE + r".*`\.item\(\)`.*return the tensor",
    ),
    "called later": (
        in_time(first=False),
        OWN_LINE + ".*'lif2' is called in 3 timesteps, other neurons in 4",
    ),
    "restarted": (in_time(restart=True), OWN_LINE + ".*'lif2' starts from rest in every timestep"),
    "swapped states": (
        lambda: Net(swapped_states, lif1=snn.Synaptic(0.9, 0.8)),
        OWN_LINE + ".*'lif1' goes on with state . of 'lif1' in the place of another",
    ),
    "several sequences": (
        in_sequence(lambda net, spk: net.lif1(spk)),
        OWN_LINE + ".*'lif1' is called with several sequences, one after another",
    ),
    "step modes": (
        in_sequence(lambda net, spk: spk, lif2=if_node()),
        OWN_LINE + ".*'lif2' is called for single",
    ),
    "a weight for each timestep": (
        in_sequence(
            lambda net, spk: spk * net.gains[0], gains=nn.ParameterList([torch.rand(T, 1, 6).double()])
        ),
        OWN_LINE + r".*mul takes a tensor of shape \(4, 1, 6\), with a value for each timestep",
    ),
    "one neuron of two layers": (
        lambda: Net(used_twice, fc2=nn.Linear(6, 6)),
        "fc1.weight.*fc2.weight.*give each a neuron of its own",
    ),
    "two timesteps late": (lambda: Net(two_steps_late), OWN_LINE + ".*'lif1' are taken 2 timesteps later"),
    "alternating": (lambda: Net(alternating), r"differ in what reaches 'lif2'.*" + OWN_LINE),
    "shared state": (
        lambda: Net(shared_state, lif1=passing(), lif2=passing(), fc2=nn.Linear(6, 6)),
        OWN_LINE + ".*another call went on with already",
    ),
    "computed state": (lambda: Net(scaled_state, lif1=passing()), OWN_LINE + ".*computed between two calls"),
    "over the batch": (lambda: Net(over_the_batch), OWN_LINE + ".*depends on other samples"),
    "compared with the batch": (lambda: Net(above_average), OWN_LINE + ".*depends on other samples"),
    "potential between neurons": (
        lambda: Net(lambda net, x: net.lif2(net.fc2(net.lif1(net.fc1(x))[1])), lif1=passing()),
        OWN_LINE + ".*a potential of 'lif1' reaches another neuron",
    ),
    "detached spikes": (
        lambda: Net(lambda net, x: net.lif2(net.fc2(net.lif1(net.fc1(x)).detach()))),
        OWN_LINE + ".*detach between neurons",
    ),
    "statistics of the batch": (
        lambda: Net(
            lambda net, x: net.lif2(net.norm(net.fc2(net.lif1(net.fc1(x))))),
            norm=nn.BatchNorm1d(4, track_running_stats=False),
        ),
        OWN_LINE + ".*depends on other samples.*BatchNorm",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_place_and_the_reason(case):
    make, message = REFUSED[case]
    with pytest.raises(SnnAsyncError, match=message):
        captured(make(), x())


@pytest.mark.parametrize(
    "module",
    [nn.MaxPool2d(2, padding=2), nn.AvgPool2d(2, 0), nn.Upsample(), nn.Conv2d(2, 2, 3, stride=0)],
    ids=repr,
)
def test_settings_that_torch_refuses(module):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), module, leaky()).double()
    with pytest.raises(SnnAsyncError, match="Sequential fails on this input"):
        captured(model, x(1, 8, 8))


class CarriedOver(nn.Module):
    """Its populations wait in another order than they are called in."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.out = (passing() for _ in range(4))
        self.fa, self.fb, self.fc, self.fo = (nn.Linear(*s) for s in ((6, 8), (8, 5), (6, 4), (9, 3)))

    def forward(self, x):
        a, b, c, out = (lif.init_leaky() for lif in (self.a, self.b, self.c, self.out))
        trace, potentials = torch.zeros(x.shape[1], 5), []
        for frame in x:
            spk_a, a = self.a(self.fa(frame), a)
            spk_b, b = self.b(self.fb(torch.tanh(spk_a)), b)
            spk_c, c = self.c(self.fc(frame), c)
            trace = 0.7 * trace + spk_b
            _, out = self.out(self.fo(torch.cat((trace, spk_c), 1)), out)
            potentials.append(out)
        return torch.stack(potentials)


def test_a_value_carried_over_takes_the_spikes_of_its_own_population():
    torch.manual_seed(0)
    model, x = CarriedOver(), torch.rand(5, 3, 6)
    net = captured(model, x)
    assert [p.name for p in net.graph.populations] == ["a", "c", "b", "out"]
    torch.testing.assert_close(net.layered(x).result, model(x), rtol=0, atol=1e-12)


# -- what a capture depends on --------------------------------------------------------------------------------


@dataclass
class Settings:
    gain: float = 1.0


class Configured(nn.Module):
    """Computes with what it holds elsewhere than in parameters and buffers."""

    def __init__(self):
        super().__init__()
        self.fc, self.lif = nn.Linear(4, 4), leaky(threshold=2.5)
        self.mask, self.nested, self.settings = [torch.ones(4)], {"a": {"gain": 1.0}}, Settings()

    def forward(self, x):
        gain = self.nested["a"]["gain"] * self.settings.gain
        return self.lif(self.fc(x) * (self.mask[0] * 2 + 1) * gain)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.mask[0].mul_(3),
        lambda net: net.nested["a"].update(gain=3.0),
        lambda net: setattr(net.settings, "gain", 3.0),
    ],
    ids=["a tensor in place", "a nested dictionary", "an object"],
)
def test_what_modules_hold_may_change_between_calls(change):
    torch.manual_seed(0)
    model, frames = Configured(), torch.rand(3, 2, 4)
    net = snn_async.asynchronize(model, forward_group_size=2).eval()
    before = net(frames)
    assert torch.equal(net(frames), before) and len(net._plans) == 1
    change(model)
    expected = snn_async.asynchronize(model, forward_group_size=2)(frames)
    assert torch.equal(net(frames), expected) and not torch.equal(before, expected)


def test_tensors_within_objects_are_refused():
    model = nn.Sequential(nn.Linear(4, 3), snn.Leaky(beta=0.9, init_hidden=True))
    with pytest.raises(InputError, match="an argument is a SimpleNamespace, which holds tensors"):
        snn_async.asynchronize(model)(torch.rand(3, 2, 4), SimpleNamespace(y=torch.rand(2)))

    class Boxed(nn.Sequential):
        def forward(self, x):
            return SimpleNamespace(spikes=super().forward(x))

    with pytest.raises(UnsupportedModelError, match="the result of the forward is a SimpleNamespace"):
        snn_async.asynchronize(Boxed(*model))(torch.rand(3, 2, 4))


def test_neurons_are_no_samples():
    """Without time, features are not taken for samples."""
    net = snn_async.asynchronize(nn.Sequential(nn.Linear(20, 5), snn.Leaky(beta=0.9, init_hidden=True)))
    assert net(torch.rand(4, 20)).shape == (4, 5)
    assert (net.shown.capture.steps, net.shown.capture.samples) == (1, 4)
