"""Neuron models by themselves, without an engine: layered execution of one population is the framework's own BPTT.

docs/design.md, section 5, property 1, at the level of `Neuron.begin` and `Neuron.end`: spikes, potentials and the
gradients of currents and parameters equal the framework's, in float64.
"""

import pytest
import snntorch
import torch
from networks import ATan
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn

import snn_async
from snn_async.errors import GradientError, UnsupportedByEngineError, UnsupportedModelError
from snn_async.frameworks import snntorch_neurons
from snn_async.frameworks.libraries import adapter_of
from snn_async.graph import Population
from snn_async.graph.grids import from_units, to_units
from snn_async.neurons import Outcome

T, B, SIZE = 6, 3, 5


def build(module, shape=(SIZE,)):
    """The population of a module, as capture makes it."""
    adapter, grid = adapter_of(module), (*shape, 1, 1)[:3]
    return Population("n", torch.Size(shape).numel(), adapter.make_neuron("n", module, shape), grid, shape)


def layered(population, currents):
    """Spikes and potentials (T, B, *shape) of a population that gets all of a timestep's current at once."""
    return going_on(population, currents, lambda rest: rest)[:2]


def going_on(population, currents, start):
    """Spikes and every state (T, B, *shape) from a state that `start` makes of that at rest, and the last in units."""
    model, grid = population.neuron, population.grid
    currents = to_units(currents.flatten(2), grid)
    live = model.read(population, currents)
    state = start(model.rest(live, currents.shape[1], currents))
    steps = []
    for current in currents:
        base, gain, threshold = model.begin(live, state)
        u = base + gain * current
        s = model.value(u, threshold) if model.spiking else u if model.analog else torch.zeros_like(u)
        reset = s.detach() if model.detach_reset else s
        by = {"subtract": -threshold, "value": model.reset_value - u, "none": 0.0}[model.reset]
        after = u + reset * by if model.spiking else u
        state = model.end(live, state, Outcome(s, current, after))
        steps.append((s, *state))
    found = (torch.stack(values) for values in zip(*steps, strict=True))
    return *(from_units(values, grid).unflatten(2, population.shape) for values in found), state


def own(module, currents):
    """The framework's spikes and potentials."""
    if isinstance(module, snntorch.SpikingNeuron):
        return snntorch_run(module, currents)
    if isinstance(module, neuron.NonSpikingBaseNode | neuron.NoisyNonSpikingBaseNode):
        potentials = torch.stack(module(currents))
        return torch.zeros_like(potentials), potentials
    if isinstance(module, neuron.NoisyBaseNode | neuron.ILCBaseNode):
        seen, reset = [], module.neuronal_reset
        module.neuronal_reset = lambda s: (reset(s), seen.append(module.v))
        spikes = module(currents.clone())  # which an ILC node changes
        del module.neuronal_reset
        return spikes, torch.stack(seen)
    if isinstance(module, neuron.SlidingPSN | neuron.MaskedPSN):
        return parallel_run(module, currents)
    functional.reset_net(module)
    if isinstance(module, neuron.GatedLIFNode):  # whose v is never reset: run once more for each potential
        return gated_run(module, currents)
    steps = []
    for current in currents:
        out = module(current)
        steps.append((out[0] if isinstance(out, list) else out, next(iter(module.memories()))))
    functional.reset_net(module)
    return tuple(map(torch.stack, zip(*steps, strict=True)))


def gated_run(module, currents):
    potentials = []
    for t in range(1, T + 1):
        module.T = t
        functional.reset_net(module)
        spikes = module(currents)
        potentials.append(module.v)
    return spikes, torch.stack(potentials)


def parallel_run(module, currents):
    """Whose potential is what its surrogate function is asked, less its bias."""
    asked = []
    handle = module.surrogate_function.register_forward_pre_hook(lambda _, given: asked.append(given[0]))
    module.step_mode = "m"
    spikes = module(currents)
    handle.remove()
    return spikes, asked[0].view(spikes.shape) - module.bias.reshape(-1, 1, 1)


def snntorch_run(module, currents):
    if isinstance(module, snntorch.StateLeaky):
        out = module(currents)
        return out if module.output else (torch.zeros_like(out), out)
    if isinstance(module, snntorch.DeltaLeaky):
        state, steps = (None, None), []
        for current in currents:
            spikes, state = module(current, state)
            steps.append((spikes, state[0]))
        return tuple(map(torch.stack, zip(*steps, strict=True)))
    count = len(snntorch_neurons.state_names(module) or ("mem",))
    states, steps = [torch.zeros_like(currents[0])] * count, []
    for current in currents:
        spikes, *states = module(current, *states)
        steps.append((spikes, states[-1]))
        if isinstance(module, snntorch.RLeaky | snntorch.RSynaptic):
            states = [spikes, *states[len(states) - count + 1 :]]
    return tuple(map(torch.stack, zip(*steps, strict=True)))


def per_neuron(low, high):
    return torch.linspace(low, high, SIZE)


ST = dict(spike_grad=ATan.apply, threshold=0.6)
EACH = dict(beta=per_neuron(0.5, 0.9), threshold=per_neuron(0.4, 0.9), learn_beta=True, learn_threshold=True)
SJ = dict(surrogate_function=surrogate.ATan(), v_threshold=0.6)
RESETS = ("subtract", "zero", "none")
HARD_AND_SOFT = [
    dict(v_reset=v, detach_reset=d) for v, d in ((-0.3, False), (0.0, True), (None, False), (None, True))
]


class Own(neuron.SimpleBaseNode):
    """A class of one's own: a threshold that adapts, and a leak of two speeds."""

    def __init__(self, **options):
        super().__init__(**options)
        self.register_memory("slow", 0.0)
        self.register_memory("barrier", 0.1)
        self.rate = nn.Parameter(torch.tensor(0.3))

    def neuronal_charge(self, x):
        bent = (self.v + 0 * x).tanh()
        self.slow = 0.9 * self.slow + self.rate * bent
        self.v = self.v - self.rate * (self.v - self.slow) + (bent - self.rate).sigmoid() * x

    def neuronal_fire(self):
        return self.surrogate_function(self.v - self.v_threshold - self.barrier)

    def neuronal_reset(self, spike):
        super().neuronal_reset(spike)
        self.barrier = 0.8 * self.barrier + 0.5 * spike


class OwnLeaky(snntorch.SpikingNeuron):
    """A class of one's own whose states are arguments: a spike resets at once, not detached, and weakens inputs."""

    def __init__(self, **options):
        super().__init__(**options)
        self.leak = nn.Parameter(torch.tensor(0.8))

    def forward(self, input_, trace=None, mem=None):
        trace = torch.zeros_like(input_) if trace is None else trace
        mem = torch.zeros_like(input_) if mem is None else mem
        mem = self.leak * mem + (1 - 0.3 * trace) * input_
        spk = self.fire(mem)
        return spk, 0.7 * trace + spk, mem - spk * self.threshold


class OwnRule(snntorch.Leaky):
    """A subclass with another rule: the leak is towards 0.2."""

    def _base_state_function(self, input_):
        return super()._base_state_function(input_) + 0.2 * (1 - self.beta)


class OwnPLIF(neuron.ParametricLIFNode):
    """A subclass with another rule: other currents, through a gain that is learnt."""

    def single_step_functional_forward(self, inputs, states, **kwargs):
        return super().single_step_functional_forward((1.1 * inputs[0] + 0.05,), states, **kwargs)


class OwnReadout(neuron.NonSpikingBaseNode):
    def neuronal_charge(self, x):
        self.v = self.v.tanh() + 0.5 * x


def recurrent(cls, **options):
    """Without recurrent synapses: they are a projection of the graph."""
    module = cls(beta=0.8, all_to_all=False, V=0.0, learn_recurrent=False, learn_beta=True, **ST, **options)
    return module


CASES = {
    **{
        f"Leaky {r} delay={d}": lambda r=r, d=d: snntorch.Leaky(
            **EACH, spike_grad=ATan.apply, reset_mechanism=r, reset_delay=d
        )
        for r in RESETS
        for d in (True, False)
    },
    **{f"Lapicque {r}": lambda r=r: snntorch.Lapicque(beta=0.8, reset_mechanism=r, **ST) for r in RESETS},
    **{
        f"RLeaky {r} delay={d}": lambda r=r, d=d: recurrent(snntorch.RLeaky, reset_mechanism=r, reset_delay=d)
        for r in RESETS
        for d in (True, False)
    },
    **{
        f"Synaptic {r} delay={d}": lambda r=r, d=d: snntorch.Synaptic(
            alpha=per_neuron(0.4, 0.8),
            learn_alpha=True,
            **EACH,
            spike_grad=ATan.apply,
            reset_mechanism=r,
            reset_delay=d,
        )
        for r in RESETS
        for d in (True, False)
    },
    **{
        f"RSynaptic {r}": lambda r=r: recurrent(
            snntorch.RSynaptic, alpha=0.6, learn_alpha=True, reset_mechanism=r
        )
        for r in RESETS
    },
    **{
        f"Alpha {r}": lambda r=r: snntorch.Alpha(
            alpha=0.8,
            beta=0.6,
            learn_beta=True,
            learn_threshold=True,
            reset_mechanism=r,
            **ST | {"threshold": 0.1},
        )
        for r in RESETS
    },
    "DeltaLeaky": lambda: snntorch.DeltaLeaky(0.8, 0.7, learn_beta=True, spike_grad=ATan.apply),
    "StateLeaky": lambda: snntorch.StateLeaky(
        per_neuron(0.5, 0.9), SIZE, learn_beta=True, learn_threshold=True, **ST
    ),
    "StateLeaky readout": lambda: snntorch.StateLeaky(0.7, SIZE, learn_beta=True, output=False),
    **{
        f"StateLeaky that forgets, {name}": lambda beta=beta: snntorch.StateLeaky(
            beta, SIZE, learn_beta=True, learn_threshold=True, kernel_truncation_steps=3, **ST
        )
        for name, beta in {"alike": 0.8, "per neuron": per_neuron(0.5, 0.9)}.items()
    },
    "a snnTorch class of one's own": lambda: OwnLeaky(learn_threshold=True, **ST),
    "a subclass of Leaky with another rule": lambda: OwnRule(beta=0.7, learn_beta=True, **ST),
    **{f"IF {o}": lambda o=o: neuron.IFNode(**SJ, **o) for o in HARD_AND_SOFT},
    **{
        f"{cls.__name__} {o} decay={d}": lambda cls=cls, o=o, d=d: cls(1.7, decay_input=d, **SJ, **o)
        for cls in (neuron.LIFNode, neuron.ParametricLIFNode)
        for o in HARD_AND_SOFT
        for d in (True, False)
    },
    **{
        f"QIF {o}": lambda o=o: neuron.QIFNode(tau=1.7, **SJ, **{"v_reset": -0.1} | o, v_rest=0.05)
        for o in HARD_AND_SOFT
    },
    **{f"EIF {o}": lambda o=o: neuron.EIFNode(tau=1.7, **SJ, **o, v_rest=0.05) for o in HARD_AND_SOFT},
    **{
        f"Izhikevich {o} a={a}": lambda o=o, a=a: neuron.IzhikevichNode(
            tau=1.5, a=a, b=0.3, w_rest=0.1, **SJ, **o
        )
        for o in HARD_AND_SOFT
        for a in (0.0, 0.4)
    },
    **{
        f"KLIF {o} decay={d} scale={s}": lambda o=o, d=d, s=s: neuron.KLIFNode(s, 1.7, d, **SJ, **o)
        for o in HARD_AND_SOFT
        for d in (True, False)
        for s in (True, False)
    },
    **{
        f"CUBALIF v_reset={v}": lambda v=v: neuron.CUBALIFNode(0.5, 0.7, v_reset=v, **SJ)
        for v in (0.0, 0.2, None)
    },
    **{f"RAF {o}": lambda o=o: neuron.RAFNode(**SJ, **o) for o in HARD_AND_SOFT},
    "ComplementaryLIF": lambda: neuron.ComplementaryLIFNode(1.7, **SJ),
    "ILIF": lambda: neuron.ILIFNode(v_threshold=0.3),
    "ILIF detached": lambda: neuron.ILIFNode(v_threshold=0.3, detach_reset=True),
    "ILIF with one spike": lambda: neuron.ILIFNode(
        v_threshold=0.6, surrogate_function=surrogate.MultiLevelSpikeCount(1)
    ),
    "IF counting": lambda: neuron.IFNode(0.3, None, surrogate.MultiLevelSpikeCount(4)),
    "IF counting, hard": lambda: neuron.IFNode(0.3, 0.1, surrogate.MultiLevelSpikeCount(4)),
    **{f"TernaryIF {o}": lambda o=o: neuron.TernaryIFNode(**SJ, **o) for o in HARD_AND_SOFT},
    **{
        f"TernaryLIF {o} decay={d}": lambda o=o, d=d: neuron.TernaryLIFNode(
            1.7, d, **SJ | {"v_threshold": 0.4}, **o
        )
        for o in HARD_AND_SOFT
        for d in (True, False)
    },
    **{
        f"LIAF {o} decay={d}": lambda o=o, d=d: neuron.LIAFNode(
            lambda h: h, False, tau=1.7, decay_input=d, **SJ, **o
        )
        for o in HARD_AND_SOFT
        for d in (True, False)
    },
    "HalfThreshold": lambda: neuron.HalfThresholdIFNode(0.6, surrogate.ATan()),
    **{
        f"ActivationAware {o}": lambda o=o: neuron.ActivationAwareIFNode(
            per_neuron(0.4, 0.9), per_neuron(-0.1, 0.2), surrogate_function=surrogate.ATan(), **o
        )
        for o in HARD_AND_SOFT
    },
    **{f"SimpleIF {o}": lambda o=o: neuron.SimpleIFNode(**SJ, **o) for o in HARD_AND_SOFT},
    **{
        f"SimpleLIF {o} decay={d}": lambda o=o, d=d: neuron.SimpleLIFNode(1.7, d, **SJ, **o)
        for o in HARD_AND_SOFT[:2]
        for d in (True, False)
    },
    **{f"a SpikingJelly class of one's own {o}": lambda o=o: Own(**SJ, **o) for o in HARD_AND_SOFT},
    "a subclass of PLIF with another rule": lambda: OwnPLIF(1.7, **SJ),
    "NoisyCUBALIF": lambda: neuron.NoisyCUBALIFNode(SIZE, is_training=False, T=T, **SJ),
    "NonSpikingIF": lambda: neuron.NonSpikingIFNode(),
    "NonSpikingLIF": lambda: neuron.NonSpikingLIFNode(1.7),
    "NoisyNonSpikingIF": lambda: neuron.NoisyNonSpikingIFNode(SIZE, is_training=False, T=T),
    "a readout of one's own": OwnReadout,
}


def noisy(module, **values):
    """With noise in its currents, for two runs."""
    module.reset_noise(2)
    return holding(module, **values)


ALL_AT_ONCE = {  # classes that take all timesteps in one call
    "NoisyCUBALIF with noise": lambda: noisy(neuron.NoisyCUBALIFNode(SIZE, T=T, **SJ), sigma_s=0.0),
    "NoisyNonSpikingIF with noise": lambda: noisy(neuron.NoisyNonSpikingIFNode(SIZE, T=T)),
    "ILCIF": lambda: neuron.ILCIFNode(1, SIZE, **SJ),
    "ILCLIF": lambda: neuron.ILCLIFNode(SIZE, 1, **SJ),
    "ILCCUBALIF": lambda: neuron.ILCCUBALIFNode(SIZE, 1, v_reset=0.1, **SJ),
    "NoisyILCCUBALIF": lambda: neuron.NoisyILCCUBALIFNode(1, SIZE, is_training=False, T=T, **SJ),
    "NoisyILCCUBALIF with noise": lambda: noisy(neuron.NoisyILCCUBALIFNode(1, SIZE, T=T, **SJ), sigma_s=0.0),
    **{f"SlidingPSN k={k}": lambda k=k: neuron.SlidingPSN(k) for k in (1, 3, T + 3)},
    **{f"MaskedPSN k={k}": lambda k=k: neuron.MaskedPSN(k, T, lambda_init=1.0) for k in (1, 3, T + 3)},
}


def normalizing(folded=None, **options):
    """After some batches; `folded`: with its normalization in its threshold, and in what it keeps."""
    module = neuron.MPBNLIFNode(1.7, out_features=SIZE, **SJ, **options)
    for _ in range(3):
        module(torch.randn(8, SIZE))
        functional.reset_net(module)
    if folded is not None:
        module.eval().re_parameterize_v_threshold(normalize_residual=folded)
    return module


FROZEN = {  # classes that are run, or learn through time, only as they are in evaluation
    **{
        f"{cls.__name__} v_reset={v}": lambda cls=cls, v=v: cls(1.7, v_reset=v, **SJ)
        for cls in (neuron.OTTTLIFNode, neuron.SLTTLIFNode)
        for v in (0.1, None)
    },
    **{
        f"MPBNLIF v_reset={v} learnable_vth={learns} folded={folded}": lambda v=v, learns=learns, folded=folded: (
            normalizing(folded, v_reset=v, learnable_vth=learns)
        )
        for v in (0.1, None)
        for learns in (True, False)
        for folded in (None, False, True)
    },
}


def differentiated(run, module, currents):
    if hasattr(module, "noise_step"):
        module.noise_step = -1
    spikes, potentials = run(module, currents)
    weights = torch.randn(2, *spikes.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [currents, *(p for p in module.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(
        (weights[0] * spikes + weights[1] * potentials).sum(), leaves, allow_unused=True
    )
    return spikes, potentials, *(torch.zeros((), dtype=torch.float64) if g is None else g for g in gradients)


def inputs(*shape):
    drawn = torch.randn(T, B, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (1.2 * drawn + 0.4).requires_grad_()


def check(module, shape=(SIZE,)):
    population = build(module, shape)
    expected = differentiated(own, module, inputs(*shape))
    actual = differentiated(lambda _, x: layered(population, x), module, inputs(*shape))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b.double(), rtol=1e-9, atol=1e-9)
    return population, expected[0]


ALL = CASES | ALL_AT_ONCE | FROZEN
TRAINING = [pytest.param(ALL[name], True, id=name) for name in ALL if name not in FROZEN]
_LAST = {n.split(" {")[0] if n.startswith("a ") else n.split()[0]: n for n in CASES}  # of each class
ONE_OF_EACH = {name: CASES[name] for name in _LAST.values()}
EVALUATED = ONE_OF_EACH | ALL_AT_ONCE | FROZEN
EVALUATION = [pytest.param(make, False, id=f"{name}, in evaluation") for name, make in EVALUATED.items()]


@pytest.mark.parametrize(("make", "training"), TRAINING + EVALUATION)
def test_layered_execution_of_a_neuron_is_the_framework(make, training):
    torch.manual_seed(0)
    module = make().double().train(training)
    population, spikes = check(module)
    assert 0 < spikes.count_nonzero() < spikes.numel() or not population.neuron.spiking
    assert population.neuron.describe() and population.neuron == build(module).neuron


@pytest.mark.parametrize(
    "make",
    [
        lambda: snntorch.Synaptic(0.5, 0.8, threshold=-0.2, spike_grad=ATan.apply),
        lambda: snntorch.Alpha(0.8, 0.6, threshold=-0.1, spike_grad=ATan.apply),
        lambda: snntorch.Leaky(0.8, threshold=-0.2, spike_grad=ATan.apply),
        lambda: neuron.CUBALIFNode(**SJ),
    ],
)
def test_layers_of_one_neuron_and_thresholds_below_0(make):
    check(make().double(), (1,))


IMAGE = (3, 2, 4)
IMAGES = {
    "GatedLIF": lambda: neuron.GatedLIFNode(T, surrogate_function=surrogate.ATan()),
    "GatedLIF per channel": lambda: neuron.GatedLIFNode(T, IMAGE[0], surrogate_function=surrogate.ATan()),
    "CUBALIF": lambda: neuron.CUBALIFNode(**SJ),
    "ActivationAware per channel": lambda: neuron.ActivationAwareIFNode(
        torch.linspace(0.4, 0.9, 3), torch.linspace(-0.1, 0.2, 3), 1, surrogate_function=surrogate.ATan()
    ),
    "Synaptic per channel": lambda: snntorch.Synaptic(
        alpha=torch.linspace(0.4, 0.8, 3).reshape(3, 1, 1),
        beta=torch.linspace(0.5, 0.9, 4),
        learn_alpha=True,
        learn_beta=True,
        **ST,
    ),
    "RSynaptic, convolutional": lambda: without_feedback(
        snntorch.RSynaptic(0.6, 0.8, conv2d_channels=3, kernel_size=3, learn_alpha=True, **ST)
    ),
}


def without_feedback(module):
    with torch.no_grad():
        module.recurrent.weight.zero_()
        module.recurrent.bias.zero_()
    module.recurrent.requires_grad_(False)
    return module


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES.keys())
def test_neurons_of_images(make):
    torch.manual_seed(0)
    check(make().double(), IMAGE)


class Rounded(torch.autograd.Function):
    """To multiples of 1/8, with a straight-through gradient: what `state_quant` may be."""

    @staticmethod
    def forward(ctx, x):
        return (8 * x).round() / 8

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("make", [snntorch.Leaky, lambda **o: snntorch.Synaptic(0.7, **o), snntorch.Lapicque])
def test_quantized_states(make, reset):
    module = make(beta=0.8, state_quant=Rounded.apply, reset_mechanism=reset, **ST).double()
    population, _ = check(module)
    assert not population.neuron.binary


def test_a_state_in_attributes():
    class Hidden(snntorch.SpikingNeuron):
        """Keeps its states itself, as with init_hidden, and takes none."""

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

    module = Hidden().double()
    population = build(module)
    assert module.mem is None
    spikes, potentials = layered(population, inputs(SIZE))
    for current, s, v in zip(inputs(SIZE), spikes, potentials, strict=True):
        assert torch.equal(module(current), s)
        torch.testing.assert_close(module.mem, v, rtol=1e-9, atol=1e-9)
    build(module)  # which has run now


def test_what_is_read_leaves_the_module_alone():
    for module in (Own(**SJ), snntorch.Synaptic(0.5, 0.8), OwnReadout()):
        before = {name: value for name, value in vars(module).items() if not isinstance(value, dict)}
        tables = {name: dict(value) for name, value in vars(module).items() if isinstance(value, dict)}
        random = torch.get_rng_state()
        population = build(module)
        layered(population, inputs(SIZE).float())
        assert all(vars(module)[name] is value for name, value in before.items())
        for name, table in tables.items():
            assert vars(module)[name].keys() == table.keys()
            assert all(vars(module)[name][key] is value for key, value in table.items())
        assert torch.equal(torch.get_rng_state(), random)


def test_in_single_precision():
    for make in (
        lambda: neuron.CUBALIFNode(**SJ),
        lambda: snntorch.Synaptic(0.5, 0.8, **ST),
        lambda: Own(**SJ),
    ):
        module = make()
        spikes, potentials = layered(build(module), inputs(SIZE).float())
        assert spikes.dtype == potentials.dtype == torch.float32
        torch.testing.assert_close(potentials, own(module, inputs(SIZE).float())[1], rtol=1e-4, atol=1e-4)


def test_a_change_is_noticed():
    module = neuron.CUBALIFNode(**SJ)
    before = build(module).neuron
    with torch.no_grad():
        module(torch.ones(2, SIZE))
    assert build(module).neuron == before
    for name, value in (("v_reset", None), ("surrogate_function", surrogate.Sigmoid())):
        old = getattr(module, name)
        setattr(module, name, value)
        assert build(module).neuron != before
        setattr(module, name, old)
    module.c_decay = 0.3  # a value that is read at every run
    assert build(module).neuron == before
    module.v_decay = float("nan")
    with pytest.raises(UnsupportedModelError, match="v_decay of its CUBALIFNode is NaN"):
        before.read(build_population(before), inputs(SIZE)[0])


def build_population(model):
    return Population("n", SIZE, model)


@pytest.mark.parametrize("kind", [neuron.CUBALIFNode, neuron.ComplementaryLIFNode, neuron.IFNode])
def test_thresholds_per_neuron(kind):
    module = holding(kind(surrogate_function=surrogate.ATan()), v_threshold=per_neuron(0.4, 0.9).double())
    assert adapter_of(module).make_neuron("n", module, None)  # where the neurons' shape is not known yet
    check(module)


def test_every_run_takes_other_noise():
    module = noisy(neuron.NoisyCUBALIFNode(SIZE, T=T, **SJ), sigma_s=0.0).double()
    population = build(module)
    first, second = (layered(population, inputs(SIZE))[1] for _ in range(2))
    assert not torch.equal(first, second) and population.neuron == build(module).neuron
    with pytest.raises(UnsupportedModelError, match="that of 2 runs is used up; call reset_noise"):
        layered(population, inputs(SIZE))
    module.is_training = False
    assert population.neuron == build(module).neuron
    torch.testing.assert_close(layered(population, inputs(SIZE)), own(module, inputs(SIZE)))
    fresh = build(neuron.NoisyNonSpikingIFNode(SIZE, T=T).double())
    with pytest.raises(UnsupportedModelError, match="none is drawn; call reset_noise"):
        layered(fresh, inputs(SIZE))


def test_not_finite_parameters():
    for make in (lambda: snntorch.Leaky(0.9), lambda: snntorch.DeltaLeaky(0.9, 0.9)):
        module = make()
        model = build(module).neuron
        module.beta.fill_(float("nan"))
        with pytest.raises(UnsupportedModelError, match="leak of its .*NaN"):
            model.read(build_population(model), inputs(SIZE)[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: snntorch.Leaky(0.8),
        lambda: snntorch.Synaptic(0.5, 0.8),
        lambda: snntorch.StateLeaky(0.8, SIZE),
    ],
)
def test_a_factor_on_spikes_that_is_new_is_noticed(make):
    module = make()
    model = build(module).neuron
    model.read(build_population(model), inputs(SIZE)[0])
    module.graded_spikes_factor.fill_(2.0)
    with pytest.raises(UnsupportedModelError, match="graded_spikes_factor was 1.*asynchronize again"):
        model.read(build_population(model), inputs(SIZE)[0])


def charging(charge):
    return type("Charging", (neuron.SimpleBaseNode,), {"neuronal_charge": charge})(**SJ)


def firing(fire):
    return type("Firing", (neuron.SimpleIFNode,), {"neuronal_fire": fire})(**SJ)


def stepping(step):
    return type("Stepping", (snntorch.SpikingNeuron,), {"forward": step})(**ST)


def coupled(self, x):
    self.v = self.v + x - x.mean(1, keepdim=True)


def squared(self, x):
    self.v = self.v + x**2


def rectified(self, x):
    self.v = torch.relu(self.v + x)


def drawing(self, x):
    self.v = self.v + x + torch.rand_like(x)


def adding(self, x):
    x += 1
    self.v = self.v + x


def held_in_an_attribute(self, x):
    self.slow = 0.5 * getattr(self, "slow", 0.0) + x
    self.v = self.v + self.slow


def ran(module, size):
    module(torch.zeros(B, size))
    return module


def counting(self, x):
    self.count = getattr(self, "count", 0) + 1
    self.v = self.v + x * self.count


def in_place(self, x, mem=None):
    mem = torch.zeros_like(x) if mem is None else mem
    mem.mul_(0.9).add_(x)
    return self.fire(mem), mem


def from_half(self, x, mem=None):
    mem = torch.full_like(x, 0.5) if mem is None else mem
    mem = 0.9 * mem + x
    return self.fire(mem), mem


def with_parameter(value, charge):
    """A class whose parameter has a value that hides what training will bring out."""
    module = charging(charge)
    module.p = nn.Parameter(torch.tensor(value))
    return module


def resting_a_while(self, x, r=None, mem=None):
    r = torch.zeros_like(x) if r is None else r
    mem = torch.zeros_like(x) if mem is None else mem
    mem = 0.9 * mem + x * (r < 1)
    spk = self.fire(mem)
    return spk, (r - 1).clamp(min=0) + 3 * spk.detach(), mem - spk.detach() * self.threshold


def bent_by_state(self, x):
    self.v = 0.8 * self.v + x * (1 + self.p * self.v)


def bent(self, x):
    self.v = self.v + x + self.p * x**2


def mixed(self, x):
    self.v = self.v + x + self.p * x.mean(-1, keepdim=True)


def scaled_spikes(self):
    return self.surrogate_function(self.v - 1) * self.p


def shared_out(self, x):
    self.v = self.v + x / len(x)


def centred(self, x):
    self.v = self.v + (x - x.mean(0) if len(x) > 2 else x)


def numbered(self, x):
    self.v = self.v + x + torch.arange(len(x)).to(x)[:, None]


def partly_detached(self, x):
    self.v = self.v + 0.5 * x + 0.5 * x.detach()


def straight_through(self, x):
    self.v = self.v + x + x.abs() * (self.p - self.p.detach())


def resetting(after, **options):
    kind = type("Resetting", (neuron.SimpleIFNode,), {"neuronal_reset": after})
    return kind(**SJ | options)


def to_parameter(self, spike):
    self.v = (1 - spike) * self.v + spike * self.p


def clamped(self, spike):
    self.v = ((1 - spike) * self.v).clamp(-50, 50)


def clamped_after_subtraction(self, spike):
    self.v = (self.v - spike * self.v_threshold).clamp(-50, 50)


def forgetting(self, spike):
    self.v = (1 - spike) * self.v.detach()


def holding(module, **values):
    for name, value in values.items():
        setattr(module, name, value)
    return module


def learnt(value=0.7):
    return nn.Parameter(torch.tensor(value))


class Together(neuron.SimpleIFNode):
    def multi_step_forward(self, x_seq):
        return self.surrogate_function(x_seq.cumsum(0) - self.v_threshold)


REFUSED = {
    "with other values of its parameters, its potential is not affine": lambda: with_parameter(0.0, bent),
    "with other values of its parameters, its neurons depend": lambda: with_parameter(0.0, mixed),
    "with other values of its parameters, .*output is analog": lambda: holding(
        firing(scaled_spikes), p=learnt(1.0)
    ),
    "a sample's step depends on its batch": lambda: charging(shared_out),
    "its neurons depend on each other within a timestep, a barrier": lambda: charging(centred),
    "step depends on its batch": lambda: charging(numbered),
    "the gradient of its potential is not that of its value": lambda: charging(partly_detached),
    "a part of it is detached": lambda: with_parameter(0.0, straight_through),
    "is detached.; leave it attached": lambda: firing(
        lambda self: self.surrogate_function(self.v.detach() - 1)
    ),
    "the gradient of what it sends": lambda: firing(
        lambda self: self.surrogate_function(self.v - 1).detach()
    ),
    **{
        f"{kind.__name__}.: its {name} is a tensor.*give a float": lambda kind=kind, name=name: holding(
            kind(), **{name: learnt()}
        )
        for kind in (neuron.TernaryIFNode, neuron.TernaryLIFNode, neuron.ILIFNode, neuron.KLIFNode)
        for name in (["v_threshold"] if kind is neuron.ILIFNode else ["v_threshold", "v_reset"])
    },
    **{
        f"{kind.__name__}.: its v_threshold is {value}; give a number": lambda kind=kind, value=value: (
            holding(kind(), v_threshold=value)
        )
        for kind in (neuron.LIFNode, neuron.CUBALIFNode, Own)
        for value in (None, {})
    },
    "Own.: v_threshold is not finite": lambda: Own(v_threshold=float("nan")),
    "CUBALIFNode.: v_reset is not finite": lambda: holding(neuron.CUBALIFNode(), v_reset=float("inf")),
    "Own.: rate of its Own is NaN or infinite; give finite values": lambda: holding(
        Own(), rate=learnt(float("nan"))
    ),
    "it changes its current in place": lambda: charging(adding),
    "size of tensor.*it holds slow: if that is of a run of other neurons, reset it": lambda: ran(
        charging(held_in_an_attribute), 7
    ),
    "learn_threshold=True is not supported with state_quant": lambda: snntorch.Leaky(
        0.8, learn_threshold=True, state_quant=Rounded.apply
    ),
    "its neurons depend on each other": lambda: charging(coupled),
    "its potential is not affine in its current": lambda: charging(squared),
    "is not affine": lambda: charging(rectified),
    "draws random numbers": lambda: charging(drawing),
    r"keeps more than its states \(v\)": lambda: charging(counting),
    "its output is analog": lambda: firing(lambda self: self.v * self.surrogate_function(self.v - 1)),
    "does not call its surrogate function, `surrogate_function`": lambda: firing(
        lambda self: (self.v >= 1).to(self.v)
    ),
    "more than one threshold": lambda: firing(
        lambda self: self.surrogate_function(self.v - 1) + 0 * self.surrogate_function(self.v - 2)
    ),
    "changes its state in place": lambda: stepping(in_place),
    "start from other values than 0": lambda: stepping(from_half),
    "with graded_spikes_factor is not known": lambda: OwnLeaky(graded_spikes_factor=2.0),
    "its multi_step_forward is not its single step": lambda: Together(step_mode="m", **SJ),
    r"its own step fails \(NotImplementedError": lambda: type("Empty", (neuron.BaseNode,), {})(),
    "with is_training=True it adds noise to its output.*sigma_s = 0": lambda: neuron.NoisyCUBALIFNode(SIZE),
    "call cancel_load": lambda: holding(neuron.NoisyNonSpikingIFNode(SIZE), cn=torch.ones(B, T, SIZE)),
    "constructed for 4 neurons": lambda: neuron.ILCIFNode(2, 2),
    "lambda_ = 0.5 lets later timesteps in": lambda: neuron.MaskedPSN(3, T, lambda_init=0.5),
    "forward is not NoisyBaseNode's": lambda: type(
        "Alone", (neuron.NoisyCUBALIFNode,), {"forward": charging}
    )(SIZE),
    "inhibition=True": lambda: snntorch.Synaptic(0.5, 0.8, inhibition=True),
    "learn_beta=True has no effect": lambda: snntorch.Lapicque(0.8, learn_beta=True),
    "own step fails": lambda: snntorch.RSynaptic(0.5, 0.8, all_to_all=False, reset_delay=False),
    "gates multiply": lambda: snntorch.SLSTM(SIZE, SIZE),
    "depends on later inputs": lambda: neuron.PSN(T),
    "base class": lambda: neuron.SimpleBaseNode(),
    "never below a threshold of 0": lambda: neuron.KLIFNode(v_threshold=0.0),
    "samples .C, H, W. only": lambda: neuron.GatedLIFNode(T),
}


@pytest.mark.parametrize(("match", "make"), REFUSED.items())
@pytest.mark.filterwarnings("ignore:Inhibition")
def test_refused_with_what_was_seen(match, make):
    with pytest.raises(UnsupportedModelError, match=f"'n'.*{match}"):
        build(make())


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_what_a_neuron_keeps_does_not_depend_on_the_order_of_its_currents(make):
    """In its default refractory mode, if it spikes: all of a timestep's current at once, or some after the spike."""
    torch.manual_seed(0)
    model = build(make().double()).neuron
    if not (model.spiking and model.binary):
        pytest.skip("a graded spike's value depends on what has arrived")
    population, like = build_population(model), inputs(SIZE)[0]
    live = model.read(population, like)
    state = model.rest(live, B, like)
    for current in inputs(SIZE)[:2]:
        base, gain, threshold = model.begin(live, state)
        spikes = model.surrogate(base + gain * current - threshold).to(current)
        state = model.end(live, state, Outcome(spikes, current, base + gain * current))
    base, gain, threshold = model.begin(live, state)
    acts = gain > 1e-6
    enough = torch.where(acts, (threshold - base) / gain + 0.1, 0.0)
    more = torch.rand_like(enough)
    discards = model.default_refractory == "discard"
    kept = []
    for before, after in ((enough + more, torch.zeros_like(more)), (enough, more)):
        u = base + gain * before
        u = {"none": u, "subtract": u - threshold, "value": torch.full_like(u, model.reset_value)}[
            model.reset
        ]
        late = torch.zeros_like(after) if discards else after
        outcome = Outcome(acts.to(u).expand_as(u), before + late, u + gain * late)
        kept.append(model.end(live, state, outcome))
    for together, apart in zip(*kept, strict=True):
        torch.testing.assert_close(together[acts.expand_as(together)], apart[acts.expand_as(apart)])


RIGHT = {  # what once was read wrongly
    "a gain that a parameter hid": (lambda: with_parameter(0.0, bent_by_state), None),
    "a refractory counter": (lambda: stepping(resting_a_while), None),
    "a reset to a parameter": (lambda: holding(resetting(to_parameter), p=learnt(0.2)), "none"),
    "a hard reset, clamped": (lambda: resetting(clamped), "none"),
    "a soft reset, clamped": (lambda: resetting(clamped_after_subtraction, v_reset=None), "none"),
    "a hard reset that detaches the potential": (lambda: resetting(forgetting), "none"),
    "a reset value that is learnt": (lambda: holding(neuron.LIFNode(1.7, **SJ), v_reset=learnt(0.2)), "none"),
    "KLIF with a k per channel": (
        lambda: holding(neuron.KLIFNode(**SJ), k=nn.Parameter(torch.linspace(0.8, 1.4, 3)[:, None, None])),
        None,
    ),
}


@pytest.mark.parametrize(("make", "reset"), RIGHT.values(), ids=RIGHT.keys())
def test_readings_hold_for_any_values_of_parameters(make, reset):
    module = make().double()
    shape = IMAGE if isinstance(module, neuron.KLIFNode) else (SIZE,)
    model = build(module, shape).neuron
    assert reset is None or (model.reset == reset and not model.repeats)
    if hasattr(module, "p"):
        with torch.no_grad():
            module.p += 0.3  # as training does, without another reading
        assert build(module, shape).neuron == model
    check(module, shape)


class Unrolled(nn.Module):
    """A tutorial-form network of a class whose calls give `states` states, and take its spikes too if `recurrent`."""

    def __init__(self, make, states, recurrent=False):
        super().__init__()
        torch.manual_seed(1)
        self.states, self.recurrent = states, recurrent
        self.fc1, self.fc2 = nn.Linear(6, SIZE), nn.Linear(SIZE, SIZE)
        self.lif1, self.lif2 = make(), make()
        with torch.no_grad():
            self.fc1.weight *= 6
            self.fc2.weight *= 6

    def one(self, lif, current, held):
        out = lif(current, *held)
        kept = [out[1 + k] for k in range(self.states)]
        return out[0], [out[0], *kept] if self.recurrent else kept

    def forward(self, x):
        held1, held2 = (lif.reset_mem() for lif in (self.lif1, self.lif2))
        if self.states == 1 and not self.recurrent:
            held1, held2 = [held1], [held2]
        spikes = []
        for t in range(T):
            spk, held1 = self.one(self.lif1, self.fc1(x[t]), held1)
            spk, held2 = self.one(self.lif2, self.fc2(spk), held2)
            spikes.append(spk)
        return torch.stack(spikes)


class Stepwise(nn.Module):
    """A Linear before each neuron, timestep by timestep."""

    def __init__(self, *neurons, size=SIZE):
        super().__init__()
        torch.manual_seed(1)
        sizes = (size, *[SIZE] * len(neurons))
        pairs = zip(sizes, neurons, strict=False)
        self.layers = nn.Sequential(*(m for size, node in pairs for m in (nn.Linear(size, SIZE), node)))
        with torch.no_grad():
            for linear in self.layers[::2]:
                linear.weight *= 4

    def forward(self, x):
        functional.reset_net(self)
        return torch.stack([self.layers(frame) for frame in x])


def few_spikes():
    values = torch.tensor([0.8, 0.4, 0.2, 0.1])
    table = neuron.FewSpikeTable(values, values, values)
    nodes = neuron.LIFNode(**SJ), neuron.FewSpikeNode(table), neuron.HGNode([table, table], [0.5])
    return Stepwise(*nodes, neuron.IFNode(**SJ), size=6)


class AllAtOnce(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        factor = dict(graded_spikes_factor=1.5, learn_graded_spikes_factor=True)
        self.first = snntorch.LinearLeaky(0.7, 6, SIZE, learn_beta=True, **factor, **ST)
        with torch.no_grad():
            self.first.linear.weight *= 6
        self.fc, self.last = nn.Linear(SIZE, SIZE), snntorch.StateLeaky(0.6, SIZE, learn_beta=True, **ST)

    def forward(self, x):
        spk, _ = self.first(x)
        return self.last(self.fc(spk))[0]


def parallel_and_lateral():
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Linear(6, SIZE), neuron.SlidingPSN(3, step_mode="m")),
        *(nn.Linear(SIZE, SIZE), neuron.MaskedPSN(2, T, 1.0, step_mode="m")),
        *(nn.Linear(SIZE, SIZE), neuron.ILCLIFNode(SIZE, 1, **SJ)),
    )
    with torch.no_grad():
        for linear in model[::2]:
            linear.weight *= 9
    return model


MODELS = {
    "FewSpike and HG between LIF": few_spikes,
    "SlidingPSN, MaskedPSN and ILCLIF": parallel_and_lateral,
    "Synaptic": lambda: Unrolled(lambda: snntorch.Synaptic(0.6, 0.8, learn_alpha=True, **ST), 2),
    "Alpha": lambda: Unrolled(
        lambda: snntorch.Alpha(0.8, 0.6, learn_beta=True, **ST | {"threshold": 0.1}), 3
    ),
    "RLeaky": lambda: Unrolled(lambda: snntorch.RLeaky(0.8, linear_features=SIZE, **ST), 1, True),
    "RSynaptic": lambda: Unrolled(lambda: snntorch.RSynaptic(0.6, 0.8, linear_features=SIZE, **ST), 2, True),
    "DeltaLeaky": lambda: Unrolled(
        lambda: snntorch.DeltaLeaky(0.7, 0.8, learn_beta=True, spike_grad=ATan.apply), 1
    ),
    "graded Leaky": lambda: Unrolled(
        lambda: snntorch.Leaky(0.8, graded_spikes_factor=0.7, learn_graded_spikes_factor=True, **ST), 1
    ),
    "a class of one's own": lambda: Unrolled(lambda: Startable(**ST), 2),
    "LinearLeaky and StateLeaky": AllAtOnce,
}


class Startable(OwnLeaky):
    def reset_mem(self):
        return None, None


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_models_of_classes_with_states_of_their_own(make):
    model = make().double()
    x = (torch.rand(T, B, 6, generator=torch.Generator().manual_seed(5)) < 0.4).double().requires_grad_()
    leaves = [x, *(p for p in model.parameters() if p.requires_grad)]
    spikes = model(x)
    net = snn_async.asynchronize(model, forward_group_size=None, backend="reference")
    assert 0 < spikes.count_nonzero() < spikes.numel()
    torch.testing.assert_close(net(x), spikes, rtol=1e-12, atol=1e-12)
    weights = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, actual = (
        torch.autograd.grad((weights * out).sum(), leaves, allow_unused=True) for out in (spikes, net(x))
    )
    for a, b in zip(actual, expected, strict=True):
        zero = torch.zeros((), dtype=torch.float64)
        a, b = (zero if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b.expand_as(a), rtol=1e-9, atol=1e-9)


def test_potentials_that_are_sent_wait(engine):
    """Behind an activation, without one, and as the result: LIAF networks are the framework's for any F."""
    liaf = dict(tau=1.7, v_threshold=0.5, surrogate_function=surrogate.ATan())
    model = Stepwise(
        neuron.LIAFNode(nn.GELU(), True, **liaf),
        neuron.LIAFNode(lambda h: 0.5 * h, False, v_reset=None, **liaf),
        neuron.LIAFNode(torch.relu, False, detach_reset=True, **liaf),
    ).double()
    x = inputs(SIZE)
    leaves = [x, *model.parameters()]
    expected = model(x)
    gradients = torch.autograd.grad(expected.square().sum(), leaves)
    for group, scheduler in ((None, "random"), (2, "momentum"), (1, "layered")):
        net = snn_async.asynchronize(model, scheduler=scheduler, forward_group_size=group, backend=engine)
        if engine.name == "numba":
            with pytest.raises(UnsupportedByEngineError, match="not 0 or 1"):
                net(x)
            continue
        run = net.run(x)
        torch.testing.assert_close(run.result, expected, rtol=1e-12, atol=1e-12)
        assert "sends its potential" in net.describe() and not run.activity.spikes["layers.1"].any()
        for a, b in zip(torch.autograd.grad(run.result.square().sum(), leaves), gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_spikes_of_either_sign_between_bounds(engine):
    model = Stepwise(neuron.STBIFNode(0.37, 8, sym=True), neuron.STBIFNode(0.8, 3), nn.Identity()).double()
    x = 2 * inputs(SIZE).detach()
    with torch.no_grad():
        expected = model(x)
    for scheduler in ("random", "layered"):
        net = snn_async.asynchronize(model, scheduler=scheduler, forward_group_size=None, backend=engine)
        if engine.name == "numba":
            with pytest.raises(UnsupportedByEngineError, match="not 0 or 1"):
                net(x)
            continue
        spikes = net(x)
        torch.testing.assert_close(spikes, expected, rtol=1e-12, atol=1e-12)
        with pytest.raises(GradientError, match="made for inference"):
            spikes.sum().backward()
