"""The batched engine against the readable one, and what it alone can run: any affine module as a projection."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS, MOTIFS, Drawing, Recipe, frames
from torch import nn

from snn_async import random_keys
from snn_async.engines.choice import choose_engine
from snn_async.engines.contract import Execution, PendingEvents, Start
from snn_async.engines.reference.engine import ReferenceEngine
from snn_async.engines.torch import keys as torch_keys
from snn_async.engines.torch.engine import TorchEngine
from snn_async.engines.torch.replay import masked_sum
from snn_async.errors import GradientError, InputError, OptionError, RunawayError, UnsupportedByEngineError
from snn_async.graph import Graph
from snn_async.graph.grids import size_of, to_units
from snn_async.graph.synapses import Dense, Opaque
from snn_async.learning.unlayered import DIFFERENTIABLE, Job, UnlayeredBackprop
from snn_async.network import make_execution
from snn_async.schedulers import make_scheduler
from snn_async.stopping import make_stop_rule
from snn_async.values import collect

pytestmark = pytest.mark.usefixtures("one_thread")
ENGINES = (ReferenceEngine(), TorchEngine())
DEFAULTS = dict(
    scheduler="momentum",
    forward_group_size=3,
    refractory=None,
    refractory_dropout=0.0,
    momentum_noise=0.0,
    stop="quiescent",
    leftover="drop",
    input="prioritized",
    max_forward_steps=10_000,
)
options = st.fixed_dictionaries(
    dict(
        scheduler=st.sampled_from(["random", "momentum", "fifo", "layered", "latest"]),
        forward_group_size=st.sampled_from([1, 2, 3, 8, None]),
        refractory=st.sampled_from([None, "discard", "integrate", "off"]),
        refractory_dropout=st.sampled_from([0.0, 0.7]),
        stop=st.sampled_from(["quiescent", "output", "output(1)", "after(1)", "after(3)", "after(6)"]),
        leftover=st.sampled_from(["drop", "carry"]),
        input=st.sampled_from(["prioritized", "queued"]),
        momentum_noise=st.sampled_from([0.0, 0.5]),
    )
)
dropouts = st.sampled_from([(), (), ("source",), ("target",), ("source", "target")])


@pytest.fixture(scope="module")
def one_thread():
    """Tensors this small gain nothing from threads, and lose much to those of other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Latest:
    """A scheduler written in Python: youngest first, then by everything else it is shown."""

    def priorities(self, pending):
        return -(100.0 * pending.timestep + pending.step) + pending.uniform - 0.1 * pending.potential


def execution_of(graph: Graph, **given) -> Execution:
    given = DEFAULTS | given
    noise = given.pop("momentum_noise") * (given["scheduler"] == "momentum")
    order = Latest() if given["scheduler"] == "latest" else make_scheduler(given["scheduler"], noise)
    stop = make_stop_rule(given["stop"])
    return make_execution(graph, **given | {"scheduler": order, "stop": stop})


def consistent(graph: Graph, option: dict) -> dict:
    """Options that do not contradict each other."""
    if option["scheduler"] == "layered" or any(junction.waits for junction in graph.junctions):
        option = option | {"leftover": "drop"}
    if option["refractory"] == "off":
        option = option | {"refractory_dropout": 0.0}
    if not graph.populations[-1].neuron.spiking and option["stop"].startswith("output"):
        option = option | {"stop": "quiescent"}
    return option


def two_runs(engine, graph, x, execution, train=True, ids=None):
    """Run x (T, B, S) in two parts, the second from where the first ended.

    Returns:
        Both simulations, and gradients by the name of population or projection and parameter.
    """
    torch.manual_seed(5)
    simulations, loss = [], torch.zeros((), dtype=torch.float64)
    potentials, n = None, x.shape[1]
    ids = np.arange(n) * 3 if ids is None else ids
    start = Start(7, ids, 0, np.zeros((n, graph.size), dtype=np.int32), PendingEvents.none(n))
    for part in (x[:2], x[2:]):
        values = collect(graph, part, potentials)
        scales = values.source_scale, values.target_scale
        job = Job(engine, graph, execution, start, *scales, tuple(graph.slices.values()))
        tensors = [getattr(values, name) for name in DIFFERENTIABLE]
        potentials, *parts = UnlayeredBackprop.apply(job, *tensors, *values.parameters)
        for i, result in enumerate(parts):
            weight = torch.linspace(-1, 1, result[:, 0].numel(), dtype=torch.float64).view_as(result[:, 0])
            loss = loss + ((i + 1) * weight[:, None] * result).sum()
        simulations.append(job.simulation)
        spikes = job.simulation.spikes[-1].numpy().astype(np.int32)
        start = Start(7, ids, start.timestep + len(part), spikes, job.simulation.pending)
    leaves = {"x": x} | {
        f"{owner} {name}": parameter
        for owner, module in graph.modules
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return simulations, dict(zip(leaves, gradients, strict=True))


def _when(log, rows):
    """Sort keys of the deliveries: forward step, timestep, sample."""
    sample = np.searchsorted(log.emitted[:, 0], rows, side="right")
    return log.delivered_step[rows], log.delivered_timestep[rows], sample


def assert_same(a, b, where=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name], f"{where}[{name}]")
    elif isinstance(a, tuple | list):
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text: f"{where}: {text}")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_allclose(a, b, rtol=1e-10 * (a.dtype.kind == "f"), atol=1e-10, err_msg=where)
    else:
        for field in dataclasses.fields(a):
            left, right = getattr(a, field.name), getattr(b, field.name)
            if field.name == "deliveries":  # within a forward step their order is free
                left, right = (
                    rows[np.lexsort((rows, *_when(log, rows)))] for log, rows in ((a, left), (b, right))
                )
            if not (left is None and right is None):
                assert_same(left, right, f"{where}.{field.name}")


def assert_agree(graph, x, option):
    # drawn without chance: sums of the same weights in another order may tie in one engine and not in the other
    execution = execution_of(graph, **option)
    assert_same(*(two_runs(engine, graph, x, execution) for engine in ENGINES))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data(), option=options, sizes=st.sampled_from([(6, 5, 3), (7, 6, 5, 4), (5, 8, 2)]))
def test_linear_networks_agree_with_the_reference(data, option, sizes):
    populations = len(sizes) - 1
    skips = [(i, j) for j in range(populations) for i in range(-1, j - 1)]
    graph = Recipe(
        sizes,
        kinds=data.draw(st.tuples(*[st.sampled_from(sorted(KINDS))] * populations)),
        bias=data.draw(st.booleans()),
        skips=tuple(sorted(data.draw(st.sets(st.sampled_from(skips))))) if skips else (),
        dropout=data.draw(dropouts),
        readout=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 10_000)),
    ).graph()
    x = frames(graph, 4, 3, analog=data.draw(st.booleans())).requires_grad_()
    assert_agree(graph, x, consistent(graph, option))


def flat_frames(graph, steps, samples, seed, analog):
    x = frames(graph, steps, samples, seed, analog)
    return to_units(x.flatten(2), graph.input_grid).clone().requires_grad_()


@pytest.mark.parametrize("motif", sorted(MOTIFS))
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data(), option=options)
def test_motifs_agree_with_the_reference(motif, data, option):
    kinds = data.draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=3, max_size=3))
    seed = data.draw(st.integers(0, 10_000))
    # a dropout between a convolution's bias and a junction is refused
    places = data.draw(dropouts if motif != "pooled currents" else st.sampled_from([(), ("source",)]))
    graph = MOTIFS[motif](Drawing(seed, kinds, places))
    x = flat_frames(graph, 3, 2, seed, data.draw(st.booleans()))
    assert_agree(graph, x, consistent(graph, option))


def test_random_numbers_are_those_of_every_engine():
    sample, step, neuron = torch.tensor([[0, 3, 2**40], [0, 5, 7], [1, 0, 900]])
    for seed in (0, 2**62 + 1, 2**64 - 1):
        numbers = torch_keys.uniform(seed, sample, 12, random_keys.ORDER, step, neuron)
        for i in range(3):
            expected = random_keys.uniform(
                seed, int(sample[i]), 12, random_keys.ORDER, int(step[i]), neuron[i : i + 1].numpy()
            )
            assert numbers[i] == expected[0]


GRID = (2, 3, 3)


class Mixing(nn.Module):
    """An affine layer of one's own: a Linear over the channels of every position, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
        self.constant = nn.Parameter(torch.randn(3, 1, 1, dtype=torch.float64) / 4)

    def forward(self, x):
        return torch.einsum("oc,nchw->nohw", self.mix, x) + self.constant


def transposed() -> nn.Module:
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.mul_(4).add_(0.1)
    return layer


def decoder(module: nn.Module, as_dense: bool) -> Graph:
    """A convolution, `module` as it is or as the Linear it amounts to, and a Linear."""
    d = Drawing(2, ["subtract", "value", "none"])
    with torch.no_grad():
        shape = module(torch.zeros(1, *GRID, dtype=torch.float64)).shape[1:]
    opaque, size = Opaque(module, GRID, tuple(shape), GRID, tuple(shape)), size_of(tuple(shape))
    d.neurons("a", GRID, ("input", d.conv((1, 3, 3), 2, padding=1)))
    if as_dense:
        layer = nn.Linear(size_of(GRID), size, dtype=torch.float64)
        with torch.no_grad():
            torch_order = torch.eye(size_of(GRID), dtype=torch.float64)
            layer.weight.copy_(opaque.apply(to_units(torch_order, GRID)).T)
            layer.bias.copy_(opaque.bias())
        d.neurons("b", (size, 1, 1), ("a", Dense((layer,), GRID)))
    else:
        d.neurons("b", tuple(shape), ("a", opaque))
    d.neurons("c", (3, 1, 1), ("b", d.dense(d.populations[-1].grid, 3)))
    with torch.no_grad():
        if as_dense:  # its neurons are numbered as those of the module
            last = d.projections[-1].synapses.layers[0]
            last.weight.copy_(to_units(last.weight, tuple(shape)))
    return d.graph("c", (1, 3, 3))


@pytest.mark.parametrize("kind", [transposed, Mixing])
@pytest.mark.parametrize(
    "option",
    [
        dict(scheduler="random", forward_group_size=2),
        dict(scheduler="fifo", forward_group_size=1, refractory="off", stop="output(1)"),
        dict(scheduler="layered"),
        dict(scheduler="latest", forward_group_size=1, leftover="carry", stop="after(4)", input="queued"),
    ],
)
def test_an_affine_module_is_the_linear_layer_it_amounts_to(kind, option):
    torch.manual_seed(3)
    module, runs = kind(), []
    for engine, as_dense in zip(ENGINES, (True, False), strict=True):
        graph = decoder(module, as_dense)
        x = flat_frames(graph, 4, 3, 1, True)
        runs.append((graph, *two_runs(engine, graph, x, execution_of(graph, **option))))
    (dense, simulated, expected), (own, simulations, gradients) = runs
    assert simulated[0].spikes[..., dense.slices["b"]].any()
    assert_same(simulated, simulations)
    # the module's own gradient is that of its matrix and bias, by the chain rule
    opaque = own.into("b")[0].synapses
    matrix, bias = opaque.apply(to_units(torch.eye(18, dtype=torch.float64), GRID)).T, opaque.bias()
    to_both = expected.pop("a->b weight"), expected.pop("a->b bias")
    chained = torch.autograd.grad((matrix, bias), list(module.parameters()), to_both)
    for (name, _), gradient in zip(module.named_parameters(), chained, strict=True):
        expected[f"a->b {name}"] = gradient
    gradients["b->c weight"] = to_units(gradients["b->c weight"], opaque.target)
    assert_same(expected, gradients)


def test_the_gradient_through_a_module_is_that_of_finite_differences():
    torch.manual_seed(4)
    module = transposed()
    graph = decoder(module, as_dense=False)
    execution = execution_of(graph, scheduler="random")
    x = flat_frames(graph, 3, 2, 1, True).detach()
    start = Start(0, np.arange(2), 0, np.zeros((2, graph.size), dtype=np.int32), PendingEvents.none(2))
    simulation = TorchEngine().simulate(graph, execution, collect(graph, x, None), start, keep_log=True)

    def loss():
        values = collect(graph, x, None)
        sums = masked_sum(graph, execution, values, start, simulation, [torch.sigmoid] * 3)
        return sum((torch.linspace(-1, 1, part.numel()).view_as(part) * part).sum() for part in sums)

    gradients = torch.autograd.grad(loss(), list(module.parameters()))
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        direction, step = torch.randn_like(parameter), 1e-6
        sides = []
        with torch.no_grad():
            for sign in (1, -2):
                parameter.add_(direction, alpha=sign * step)
                sides.append(float(loss()))
            parameter.add_(direction, alpha=step)
        torch.testing.assert_close(
            torch.tensor((sides[0] - sides[1]) / (2 * step)).double(),
            (gradient * direction).sum(),
            rtol=1e-6,
            atol=1e-7,
        )


def test_samples_do_not_see_each_other_through_a_module():
    torch.manual_seed(6)
    graph = decoder(transposed(), as_dense=False)
    execution = execution_of(graph, scheduler="random", forward_group_size=2)
    x, ids = flat_frames(graph, 4, 3, 2, True), np.array([5, 0, 9])
    together, gradients = two_runs(TorchEngine(), graph, x, execution, ids=ids)
    for b in (0, 1, 2):
        alone = x.detach()[:, [b]].requires_grad_()
        simulations, own = two_runs(TorchEngine(), graph, alone, execution, ids=ids[b : b + 1])
        assert_same(gradients["x"][:, [b]], own["x"])
        for batch, single in zip(together, simulations, strict=True):
            assert torch.equal(batch.spikes[:, [b]], single.spikes)
            assert_same(batch.potentials[:, [b]], single.potentials)
            assert_same(batch.counts.forward_steps[:, [b]], single.counts.forward_steps)


def test_what_cannot_be_run_is_refused():
    graph, x = decoder(Mixing(), as_dense=False), torch.ones(1, 2, 9, dtype=torch.float64)
    start = Start(0, np.arange(2), 0, np.zeros((2, graph.size), dtype=np.int32), PendingEvents.none(2))

    def simulate(frame=x, **option):
        execution = execution_of(graph, **option)
        return TorchEngine().simulate(graph, execution, collect(graph, frame, None), start, keep_log=False)

    with pytest.raises(RunawayError, match="max_forward_steps=2"):
        simulate(forward_group_size=1, max_forward_steps=2)
    with pytest.raises(InputError, match="finite"):
        simulate(x / 0)

    class Wrong:
        def priorities(self, pending):
            return pending.uniform[:1]

    with pytest.raises(OptionError, match="Wrong.priorities"):
        execution = dataclasses.replace(execution_of(graph, forward_group_size=1), scheduler=Wrong())
        TorchEngine().simulate(graph, execution, collect(graph, x, None), start, keep_log=False)


def test_a_surrogate_without_a_finite_slope_is_refused():
    graph = Recipe((4, 3), ("none",)).graph()
    steep = dataclasses.replace(graph.populations[0].neuron, surrogate=lambda x: torch.sqrt(x * 0))
    graph = Graph([dataclasses.replace(graph.populations[0], neuron=steep)], graph.projections, "p0")
    with pytest.raises(GradientError, match="p0"):
        two_runs(TorchEngine(), graph, flat_frames(graph, 3, 2, 0, False), execution_of(graph))


def test_auto_takes_the_torch_engine_for_what_only_it_runs():
    plain = Recipe((4, 3), ("none",)).graph()
    assert choose_engine("auto", plain, execution_of(plain)).name == "numba"
    assert choose_engine("auto", plain, execution_of(plain, scheduler="latest")).name == "torch"
    own = decoder(Mixing(), as_dense=False)
    assert choose_engine("auto", own, execution_of(own)).name == "torch"
    for backend in ("numba", "reference"):
        with pytest.raises(UnsupportedByEngineError, match="use backend='torch'"):
            choose_engine(backend, own, execution_of(own))
