"""What the frameworks' neurons do around their dynamics: a call with the dynamics left to their neuron model is a call
of the class, in everything that it returns and keeps, and in its gradients.
"""

import copy

import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from test_neurons import (
    IMAGE,
    IMAGES,
    ONE_OF_EACH,
    SIZE,
    SJ,
    ST,
    OwnPLIF,
    Rounded,
    T,
    build,
    going_on,
    inputs,
)
from torch import nn
from torch.utils import _pytree as pytree

from snn_async.errors import InputError, UnsupportedModelError
from snn_async.frameworks import snntorch_calls, spikingjelly_calls, spikingjelly_neurons
from snn_async.frameworks.calls import replaced
from snn_async.graph.grids import to_units


def emitter(module):
    """The dynamics of a module's neuron model, with the barrier."""
    made, last = [], []

    def emit(current, states, sequence, count):
        currents = current if sequence else current[None]
        made[:] = made or [build(module, tuple(currents.shape[2:]))]
        states = tuple(to_units(state.flatten(1), made[0].grid) for state in states)

        def start(rest):
            if states and torch.equal(states[0], last[0]):  # the neuron's further ones go on where they were
                return (*states, *last[len(states) :])
            # what snnTorch's reset_mem returns, if anything
            assert all(torch.equal(a, b) for a, b in zip(states, rest, strict=False))
            return rest

        spikes, *after, last[:] = going_on(made[0], currents, start)
        after = tuple(after[:count])
        return (spikes, after) if sequence else (spikes[0], tuple(value[0] for value in after))

    return emit


def smaller(module, frames):
    """Frames of another batch size for a class that takes them without a reset, else the same."""
    fixed = snntorch.DeltaLeaky | neuron.SimpleBaseNode | neuron.OTTTLIFNode
    return frames if isinstance(module, fixed) else frames[:, :-1]


def given(module, forward, currents):
    """States as arguments, from what the class gives to begin with."""
    states = module.reset_mem() if hasattr(module, "reset_mem") else ()
    states = (
        states if isinstance(states, tuple) and not isinstance(module, snntorch.DeltaLeaky) else (states,)
    )
    returned = []
    for current in currents:
        spikes, *states = forward(current, *states)
        returned.append((spikes, *states))
        if isinstance(module, snntorch.RLeaky | snntorch.RSynaptic):
            states = [spikes, *states]
    return returned


def hidden(module, forward, currents):
    """States kept, with another batch size in between and from rest again, and shown or not."""
    module.init_hidden, returned = True, []
    for frames in (currents[:3], smaller(module, currents[:3])):
        returned += [forward(frame) for frame in frames]
    module.output = True
    module.reset_mem()
    returned += [forward(frame) for frame in currents[:, :-1]]
    module.init_hidden = module.output = False
    return returned


def left_out(module, forward, currents):
    """States kept, though they could be given."""
    module.reset_mem()
    return [forward(current) for current in currents]


def single(module, forward, currents):
    """States kept by a SpikingJelly module, with another batch size in between and from rest again."""
    module.step_mode, returned = "s", []
    parallel = isinstance(module, neuron.SlidingPSN | neuron.MaskedPSN)  # whose queue is another
    for frames in (currents, smaller(module, currents[:3])):
        returned += [(forward(frame), *(() if parallel else module.memories())) for frame in frames]
        returned.append(getattr(module, "v_seq", None))
        functional.reset_net(module)
    return returned


def multiple(module, forward, currents):
    """The same with several timesteps in a call."""
    module.step_mode, returned = "m", []
    for frames in (currents[:2], currents[2:], smaller(module, currents), None, currents[:3]):
        if frames is None:
            functional.reset_net(module)
        else:
            records = (getattr(module, name, None) for name in ("v_seq", "state_seqs"))
            returned.append((forward(frames), *module.memories(), *records))
    functional.reset_net(module)
    return returned


def whole(module, forward, currents):
    """All timesteps at once, twice."""
    kept = ("spk", "mem", "v", "c", "u")
    module.step_mode, module.noise_step = "m", -1
    return [(forward(currents.clone()), *(getattr(module, name, None) for name in kept)) for _ in range(2)]


def ways(module):
    at_once = (*spikingjelly_neurons.NON_SPIKING, *spikingjelly_neurons.IN_SEQUENCE, neuron.GatedLIFNode)
    if isinstance(module, (*at_once, snntorch.StateLeaky)):
        return [whole]
    if isinstance(module, neuron.MaskedPSN):
        return [single, whole]
    if not isinstance(module, snntorch.SpikingNeuron):
        return (
            [single]
            if isinstance(module, (*spikingjelly_calls.SINGLE_STEP, neuron.CUBALIFNode, OwnPLIF))
            else [single, multiple]
        )
    if isinstance(module, snntorch.DeltaLeaky):
        return [given, hidden]
    return [given, hidden, left_out] if isinstance(module, snntorch.LIF) else [given]


def differentiated(way, module, forward, shape):
    currents = inputs(*shape)
    leaves, structure = pytree.tree_flatten(way(module, forward, currents))
    generator = torch.Generator().manual_seed(1)
    total = sum(
        (torch.randn(v.shape, generator=generator, dtype=torch.float64) * v).sum()
        for v in leaves
        if isinstance(v, torch.Tensor)
    )
    sources = [currents, *(p for p in module.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(total, sources, allow_unused=True)
    return structure, leaves, [torch.zeros(()).double() if g is None else g for g in gradients]


def check(module, shape=(SIZE,)):
    calls = snntorch_calls if isinstance(module, snntorch.SpikingNeuron) else spikingjelly_calls
    emit = emitter(module)
    for way in ways(module):
        expected = differentiated(way, module, module.forward, shape)
        calls.rest(module)
        actual = differentiated(way, module, lambda *x: calls.caller(module)(emit, *x), shape)
        calls.rest(module)
        assert actual[0] == expected[0]
        for mine, theirs, tolerance in zip(actual[1:], expected[1:], (1e-12, 1e-9), strict=True):
            for a, b in zip(mine, theirs, strict=True):
                if b is None:
                    assert a is None
                else:
                    torch.testing.assert_close(a, b.to(a), rtol=tolerance, atol=tolerance)


V = dict(beta=0.8, learn_beta=True, learn_recurrent=True, **ST)
CASES = {
    **ONE_OF_EACH,
    **{
        f"{cls.__name__} v_reset={v}": lambda cls=cls, v=v: cls(1.7, v_reset=v, store_v_seq=True, **SJ)
        for cls in (neuron.OTTTLIFNode, neuron.SLTTLIFNode)
        for v in (None, 0.1)
    },
    **{
        f"{cls.__name__} {o}": lambda cls=cls, o=o: cls(**SJ, **o)
        for cls in (neuron.IFNode, neuron.LIFNode, neuron.QIFNode, neuron.IzhikevichNode, neuron.RAFNode)
        for o in (dict(store_v_seq=True), dict(v_reset=-0.2, detach_reset=True, store_v_seq=True))
    },
    "LIAF relative to its threshold": lambda: neuron.LIAFNode(torch.tanh, True, tau=1.7, **SJ),
    "ComplementaryLIF, recording": lambda: neuron.ComplementaryLIFNode(1.7, store_state_seqs=True, **SJ),
    **{
        f"{cls.__name__} decode={d}": lambda cls=cls, d=d: cls(decode=d)
        for cls in (neuron.NonSpikingIFNode, neuron.NonSpikingLIFNode)
        for d in ("max-mem", "max-abs-mem", "mean-mem", "last_mem")
    },
    **{
        f"{name} {r} delay={d} {at}": lambda make=make, o=o, r=r, d=d: make(
            reset_mechanism=r, reset_delay=d, **o, **V
        )
        for name, make in (
            ("RLeaky", snntorch.RLeaky),
            ("RSynaptic", lambda **o: snntorch.RSynaptic(0.7, **o)),
        )
        for at, o in (
            ("V", dict(V=torch.linspace(-1, 1, SIZE), all_to_all=False)),
            ("linear", dict(linear_features=SIZE)),
        )
        for r in ("subtract", "zero", "none")
        for d in ((True, False) if name == "RLeaky" else (True,))
    },
    **{
        f"{name} with a factor": lambda make=make: make(
            graded_spikes_factor=1.5, learn_graded_spikes_factor=True, **ST
        )
        for name, make in {
            "Leaky": lambda **o: snntorch.Leaky(0.8, **o),
            "Leaky without delay": lambda **o: snntorch.Leaky(0.8, reset_delay=False, **o),
            "DeltaLeaky": lambda **o: snntorch.DeltaLeaky(0.7, 0.8, **o | {"threshold": 1.0}),
            "StateLeaky": lambda **o: snntorch.StateLeaky(0.8, SIZE, **o),
            "LinearLeaky": lambda **o: snntorch.LinearLeaky(0.8, SIZE, SIZE, **o),
        }.items()
    },
    "Leaky with quantized states": lambda: snntorch.Leaky(0.8, state_quant=Rounded.apply, **ST),
    "RLeaky with quantized states": lambda: snntorch.RLeaky(
        V=0.3, all_to_all=False, state_quant=Rounded.apply, **V
    ),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_a_call_is_the_call_of_the_class(make):
    torch.manual_seed(0)
    check(make().double())


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES.keys())
def test_calls_for_images(make):
    torch.manual_seed(0)
    check(make().double(), IMAGE)


@pytest.mark.parametrize("cls", [neuron.OTTTLIFNode, neuron.SLTTLIFNode, neuron.ComplementaryLIFNode])
def test_calls_in_evaluation(cls):
    check(cls(1.7, **SJ).double().eval())


class Halved(snntorch.Leaky):
    """A subclass whose forward goes on to the class's."""

    def forward(self, input_, mem=None):
        return super().forward(0.5 * input_, mem)


class Hidden(snntorch.SpikingNeuron):
    """Keeps its states in attributes, and takes none."""

    def __init__(self):
        super().__init__(init_hidden=True, **ST)
        self.mem = self.trace = None

    def forward(self, input_):
        if self.mem is None:
            self.mem = self.trace = torch.zeros_like(input_)
        self.trace = 0.5 * self.trace + input_
        self.mem = 0.8 * self.mem + self.trace
        spk = self.fire(self.mem)
        self.mem = self.mem - spk * self.threshold
        return spk


class Net(nn.Module):
    """Neurons of both libraries, a layer with a state of its own, records, and states from the run before."""

    def __init__(self):
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(SIZE, SIZE) for _ in range(5))
        self.halved, self.hidden = Halved(beta=0.8, **ST), Hidden()
        self.leaky = snntorch.Leaky(beta=0.7, init_hidden=True, **ST)
        self.delayed = nn.Sequential(neuron.LIFNode(1.7, store_v_seq=True, **SJ), layer.Delay(1))
        self.readout = neuron.NonSpikingLIFNode(1.7, decode="max-mem")
        self.records, self.times = [], {}

    def forward(self, x):
        mem, outputs = self.halved.reset_mem(), []
        self.leaky.reset_mem()
        functional.reset_net(self)
        self.hidden.mem = None
        for t, frame in enumerate(x):
            spk, mem = self.halved(4 * self.fc[0](frame), mem)
            spk = self.hidden(2 * self.fc[1](spk))
            spk = self.leaky(self.fc[2](spk) + frame)
            self.records.append(spk)
            self.times[t] = mem
            outputs.append(self.delayed(3 * self.fc[3](spk)))
        return self.readout(self.fc[4](torch.stack(outputs))), mem


def contents(model):
    """What a model and its modules hold, and what the tables among it hold, by identity."""
    held = [(name, v) for module in model.modules() for name, v in vars(module).items()]
    tables = [
        v.items() if isinstance(v, dict) else enumerate(v) for _, v in held if isinstance(v, dict | list)
    ]
    return [[(name, id(v)) for name, v in table] for table in (held, *tables)]


def test_a_model_with_replaced_neurons():
    torch.manual_seed(0)
    model, x, called, made = Net().double(), inputs(SIZE).detach(), [], []
    model.leaky.register_forward_hook(lambda *_: called.append("leaky"))
    model.fc[0].register_forward_hook(lambda *_: called.append("fc"))
    alone = dict(copy.deepcopy(model).named_modules())  # whose forward stays
    expected = model(x)
    called.clear()
    before, values = contents(model), copy.deepcopy(model.state_dict())

    def make(path, module):
        made.append(path)
        return emitter(alone[path])

    with replaced(model, make):
        actual = model(x)
    assert contents(model) == before and called == ["fc"] * T
    assert made == ["halved", "hidden", "leaky", "delayed.0", "readout"]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(model(x), expected)
    assert "leaky" in called


def test_a_model_is_put_back_after_an_error():
    def failing(path, module):
        raise InputError(path)

    model = Net().double()
    before = contents(model)
    with pytest.raises(InputError, match="halved"), replaced(model, failing):
        model(inputs(SIZE))
    assert contents(model) == before


def test_only_neurons_that_are_called_are_made():
    model = nn.ModuleDict({"used": neuron.IFNode(), "unused": neuron.PSN(T)})
    with replaced(model, lambda path, module: emitter(neuron.IFNode())):
        model["used"](torch.ones(2, SIZE))


class Own(snntorch.SpikingNeuron):
    def forward(self, input_, mem=None):
        mem = input_ if mem is None else 0.5 * mem + input_
        return self.fire(mem), mem


def own_with_attribute():
    module = Own()
    module.mem = torch.zeros(2, SIZE)
    return module


def step_mode_m(module):
    functional.set_step_mode(module, "m")
    return module


WRONG = {
    "T=4 timesteps, but its input has 6; give 4": (
        lambda: neuron.MaskedPSN(2, 4, 1.0, step_mode="m"),
        inputs(SIZE),
    ),
    "T=9 timesteps, but its input has 6": (lambda: neuron.GatedLIFNode(9), inputs(*IMAGE)),
    "made for step_mode='s', in 'm'": (lambda: step_mode_m(neuron.SLTTLIFNode()), inputs(SIZE)),
    "give mem in the call": (own_with_attribute, inputs(SIZE)[0]),
}


@pytest.mark.parametrize(("message", "make", "x"), [(k, *v) for k, v in WRONG.items()], ids=WRONG.keys())
def test_calls_that_have_no_meaning(message, make, x):
    module = make().double()
    calls = snntorch_calls if isinstance(module, snntorch.SpikingNeuron) else spikingjelly_calls
    with pytest.raises((InputError, UnsupportedModelError), match=message):
        calls.caller(module)(emitter(module), x)


def test_states_given_to_a_module_that_hides_them():
    module = snntorch.Synaptic(0.5, 0.8, init_hidden=True)
    with pytest.raises(TypeError, match="mem should not be passed"):
        snntorch_calls.caller(module)(emitter(module), torch.ones(2, SIZE), mem=torch.ones(2, SIZE))


def test_single_steps_of_a_masked_psn_end():
    module = neuron.MaskedPSN(2, 2, 1.0).double()
    emit, x = emitter(module), inputs(SIZE)
    for frame in x[:2]:
        spikingjelly_calls.caller(module)(emit, frame)
    with pytest.raises(InputError, match="has run its T=2 timesteps; reset it"):
        spikingjelly_calls.caller(module)(emit, x[2])


def test_which_attributes_hold_states():
    for module, names in (
        (snntorch.RSynaptic(0.5, 0.8, all_to_all=False), {"spk", "syn", "mem"}),
        (Hidden(), {"mem", "trace"}),
        (neuron.IzhikevichNode(), {"v", "w", "v_seq"}),
        (neuron.NoisyCUBALIFNode(SIZE), {"v", "c", "noise_step"}),
        (neuron.NonSpikingIFNode(), {"v"}),
    ):
        calls = snntorch_calls if isinstance(module, snntorch.SpikingNeuron) else spikingjelly_calls
        assert names <= set(calls.state_attributes(module))
