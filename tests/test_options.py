"""What `asynchronize` is told reaches the run, each option shown by what it does to a real snnTorch model."""

import pytest
import snntorch
import torch
from torch import nn

import snn_async
from snn_async.schedulers import Fifo, Layered, Momentum, Random
from snn_async.snntorch import Leaky
from snn_async.stopping import After, Output, Quiescent


def model(first=snntorch.Leaky, **options):
    """One input spike lifts two hidden neurons to 2 and 3; the first excites the output, the second too."""
    built = nn.Sequential(
        nn.Linear(1, 2, bias=False),
        first(beta=0.5, reset_mechanism="zero", reset_delay=False, init_hidden=True, **options),
        nn.Linear(2, 1, bias=False),
        snntorch.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False, init_hidden=True),
    )
    with torch.no_grad():
        built[0].weight.copy_(torch.tensor([[2.0], [3.0]]))
        built[2].weight.copy_(torch.tensor([[2.0, 2.0]]))
    return built


def run(frames=((1.0,),), train=False, **options):
    net = snn_async.asynchronize(model(), forward_group_size=1, **options).train(train)
    return net.run(torch.tensor(frames).unsqueeze(1))


@pytest.mark.parametrize(
    "option, member, value",
    [
        (dict(scheduler="random"), "scheduler", Random()),
        (dict(scheduler="fifo"), "scheduler", Fifo()),
        (dict(scheduler="layered"), "scheduler", Layered()),
        (dict(momentum_noise=0.5), "scheduler", Momentum(0.5)),
        (dict(), "stop", Quiescent()),
        (dict(stop="output(2)"), "stop", Output(2)),
        (dict(stop=After(3)), "stop", After(3)),
        (dict(forward_group_size=None), "forward_group_size", None),
        (dict(leftover="carry"), "leftover", "carry"),
        (dict(input="queued"), "input", "queued"),
        (dict(max_forward_steps=9), "max_forward_steps", 9),
        (dict(refractory="off"), "refractory", ("off", "off")),
        (dict(refractory_dropout=0.25), "refractory_dropout", (0.25, 0.25)),
    ],
)
def test_an_option_is_what_was_given(option, member, value):
    assert getattr(snn_async.asynchronize(model(), input_shape=(1,), **option).execution, member) == value


def test_options_change_what_happens():
    assert run().spikes.sum() == 1 and run().activity.forward_steps.item() == 3
    assert run(refractory="off").spikes.sum() == 2
    assert run(refractory="integrate").potentials.item() == 2
    assert run(refractory_dropout=1.0, train=True).spikes.sum() == 2
    assert run(stop="output").activity.forward_steps.item() == 2
    assert run(stop="after(1)", leftover="carry").state.pending.source.tolist() == [1, 2]
    assert run(input="queued").activity.forward_steps.item() == 4
    seeds = [
        snn_async.asynchronize(model(), seed=seed).eval().run(torch.ones(1, 1, 1)).state.seed
        for seed in (0, 5)
    ]
    assert seeds == [0, 5]


def test_a_layers_own_options_come_before_the_networks():
    own = model(Leaky, refractory="integrate", refractory_dropout=0.5)
    options = dict(refractory="discard", refractory_dropout=0.1)
    execution = snn_async.asynchronize(own, input_shape=(1,), **options).execution
    assert execution.refractory == ("integrate", "discard")
    assert execution.refractory_dropout == (0.5, 0.1)


@pytest.mark.parametrize(
    "reset, delay, expected",
    [
        ("zero", False, "discard"),
        ("zero", True, "integrate"),
        ("subtract", False, "integrate"),
        ("subtract", True, "integrate"),
        ("none", True, "integrate"),
    ],
)
def test_by_default_what_a_neuron_keeps_does_not_depend_on_the_order_of_its_currents(reset, delay, expected):
    kept, x = [], torch.tensor([[[1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]])
    for order in ([1.5, 2.0, 0.5], [2.0, 0.5, 1.5], [0.5, 1.5, 2.0]):
        neuron = snntorch.Leaky(beta=0.5, reset_mechanism=reset, reset_delay=delay, init_hidden=True)
        net = nn.Sequential(nn.Linear(3, 1, bias=False), neuron)
        with torch.no_grad():
            net[0].weight.copy_(torch.tensor([order]))
        single = snn_async.asynchronize(net, scheduler="fifo", forward_group_size=1, input="queued")
        kept.append(single.eval().run(x).potentials.flatten().tolist())
        assert single.execution.refractory == (expected,)
    assert kept[0] == kept[1] == kept[2]
    assert kept[0] == single.layered(x).potentials.flatten().tolist()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(refractory="off", refractory_dropout=0.5), "refractory_dropout=0.5 has no effect on '1'"),
        (dict(backend=["numba"]), r"backend=\['numba'\] is unknown"),
        (dict(momentum_noise="much"), "momentum_noise='much' must be a finite number"),
    ],
)
def test_options_that_make_no_sense_together_or_at_all(options, message):
    with pytest.raises(snn_async.errors.OptionError, match=message):
        snn_async.asynchronize(model(), input_shape=(1,), **options)


def test_a_source_model_with_a_part_called_model_loads_its_own_checkpoint():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model()

        def forward(self, x):
            return self.model(x)

    source = Wrapped()
    net = snn_async.asynchronize(Wrapped())
    net.load_state_dict(source.state_dict())
    net.load_state_dict(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), source.parameters(), strict=True))


def test_a_module_that_returns_its_potential_is_read_by_its_potential():
    class Readout(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(1, 2)
            self.lif = snntorch.Leaky(beta=0.5, reset_mechanism="none")

        def forward(self, x, mem):
            _, mem = self.lif(self.fc(x), mem)
            return mem

    source, x = Readout(), torch.ones(2, 1, 1)
    net = snn_async.asynchronize(source)
    first = source(x[0], torch.zeros(1, 2))
    torch.testing.assert_close(net(x), torch.stack((first, source(x[1], first))))


@pytest.mark.parametrize("carried", ["potentials", "pending events", "last spikes"])
def test_a_state_carries_gradient_until_it_is_detached(engine, carried):
    source, options = model(), dict(refractory="integrate")
    if carried == "pending events":
        options |= dict(stop="after(2)", leftover="carry", forward_group_size=1)
    if carried == "last spikes":
        source[1] = snntorch.RLeaky(
            beta=0.0, V=0.5, all_to_all=False, reset_mechanism="none", init_hidden=True
        )
    net = snn_async.asynchronize(source, backend=engine, **options).eval()
    x = torch.ones(2, 1, 1, requires_grad=True)
    for detach in (False, True):
        state = net.run(x).state
        after = net.run(torch.zeros(2, 1, 1), state=state.detach() if detach else state)
        (gradient,) = torch.autograd.grad(after.potentials.sum(), x, allow_unused=True)
        assert (gradient is not None and bool(gradient.any())) is not detach


@pytest.mark.parametrize(
    "other, says",
    [
        (lambda: model(snntorch.Synaptic, alpha=0.5), "'Synaptic'.*this one has.*'Leaky'"),
        (
            lambda: model().double(),
            r"2 states of torch.float64 on cpu.*this network's \['2 states of torch.float32",
        ),
    ],
)
def test_a_state_of_other_neurons_or_precision_is_refused(other, says):
    x = torch.ones(1, 1, 1)
    state = snn_async.asynchronize(other(), backend="torch").run(x).state
    with pytest.raises(snn_async.errors.InputError, match=says):
        snn_async.asynchronize(model(), backend="torch").run(x, state=state)


def test_a_state_made_in_inference_mode_can_be_trained_from():
    options = dict(stop="after(2)", leftover="carry", forward_group_size=1, refractory="integrate")
    net, x = snn_async.asynchronize(model(), backend="torch", **options).eval(), torch.ones(2, 1, 1)
    gradients = []
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            state = net.run(x).state
        assert len(state.pending.source)
        gradients.append(torch.autograd.grad(net.run(x, state=state).potentials.sum(), net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_one_sample_and_timestep_of_a_loop_over_time_is_not_taken_for_a_batch_without_time():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Conv2d(2, 2, 3, padding=1), nn.ConvTranspose2d(2, 2, 3, padding=1))
            self.neurons = nn.ModuleList(snntorch.Leaky(beta=0.5, init_hidden=True) for _ in range(3))

        def forward(self, x):
            a, b, c = self.neurons
            return torch.stack([c(self.second(b(self.first(a(frame))))) for frame in x])

    net, x = snn_async.asynchronize(Loop(), backend="torch").eval(), torch.full((1, 1, 2, 4, 4), 9.0)
    assert torch.equal(net.layered(x).result, Loop.forward(net.model, x)) and net(x).shape == x.shape
