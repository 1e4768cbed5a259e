"""Functions in a graph, on the engines that can ask them.

An affine one as synapses acts as the Linear that it amounts to; any other one waits until its arguments are known.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from every_engine import ENGINES
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KINDS, WAITING, Drawing, Latest, frames, network, numbered
from spikingjelly.activation_based import functional, layer, neuron
from test_engines_agree import Logging, assert_same, options, ordered, two_runs
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

import snn_async
from snn_async.errors import UnsupportedByEngineError
from snn_async.graph import Graph
from snn_async.graph.grids import size_of, to_units
from snn_async.graph.live import Held
from snn_async.graph.synapses import Affine, Dense
from snn_async.neurons import Outcome

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


@dataclass(frozen=True)
class Called:
    """A module as a function of rows and of its parameters."""

    module: Any

    def __call__(self, x, values):
        named = dict(zip(dict(self.module.named_parameters()), values, strict=True))
        return functional_call(self.module, named, (x.reshape(-1, *GRID),)).flatten(1)


def affine(module: nn.Module) -> Affine:
    with torch.no_grad():
        shape = tuple(module(torch.zeros(1, *GRID, dtype=torch.float64)).shape[1:])
    live = tuple(Held(module, name) for name, _ in module.named_parameters())
    return Affine(Called(module), live, GRID, shape, "function")


def matrix_and_bias(synapses: Affine):
    """What they amount to, (fan_out, fan_in) in the torch order of the source, and (fan_out,)."""
    units = to_units(torch.eye(synapses.fan_in, dtype=torch.float64), GRID)
    return synapses.apply(units, ()).T, synapses.constant((), units)


def decoder(module: nn.Module, as_dense: bool) -> Graph:
    """A convolution, `module` as it is or as the Linear it amounts to, and a Linear."""
    d = Drawing(2, ["subtract", "value", "none"])
    function = affine(module)
    shape, size = function.target, size_of(function.target)
    d.neurons("a", GRID, ("input", d.conv((1, 3, 3), 2, padding=1)))
    if as_dense:
        layer = nn.Linear(size_of(GRID), size, dtype=torch.float64)
        with torch.no_grad():
            matrix, bias = matrix_and_bias(function)
            layer.weight.copy_(matrix)
            layer.bias.copy_(bias)
        d.neurons("b", (size, 1, 1), ("a", Dense.of(layer, GRID)))
    else:
        d.neurons("b", shape, ("a", function))
    d.generator.manual_seed(9)
    d.neurons("c", (3, 1, 1), ("b", d.dense(d.populations[-1].grid, 3)))
    with torch.no_grad():
        for name, value in (("leak", 0.7), ("gain", 1.2), ("offset", 0.05), ("threshold", 0.5)):
            getattr(d.populations[1].neuron.module, name).fill_(value)  # drawn per channel, which differ
        if as_dense:  # its neurons are numbered as those of the module
            last = d.projections[-1].synapses.weight.module
            last.weight.copy_(to_units(last.weight, shape))
    return d.graph("c", (1, 3, 3))


def observed(net, x):
    run = net.run(x, seed=7, record=("a", "c"))
    loss = (torch.linspace(-1, 1, run.potentials.numel()).view_as(run.potentials) * run.potentials).sum()
    loss = loss + run.spikes.sum() + run.records["a"].potentials.sum()
    named = dict(net.named_parameters())
    return run, dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("kind", [transposed, Mixing])
@pytest.mark.parametrize(
    "option",
    [
        dict(scheduler="random", forward_group_size=2),
        dict(scheduler="fifo", forward_group_size=1, refractory="off", stop="output(1)"),
        dict(scheduler="layered"),
        dict(scheduler=Latest(), forward_group_size=1, leftover="carry", stop="after(4)", input="queued"),
    ],
    ids=["random", "fifo", "layered", "latest"],
)
def test_an_affine_function_is_the_linear_layer_it_amounts_to(backend, kind, option):
    torch.manual_seed(3)
    module = kind()
    dense, own = decoder(module, True), decoder(module, False)
    x = frames(own, 4, 3, 1, True)
    expected, matrix_grads = observed(network(dense, "reference", **option), x)
    run, grads = observed(network(own, backend, **option), x)
    assert expected.activity.spikes["b"].any()
    assert_same(vars(expected.activity), vars(run.activity))
    assert_same(expected.records, run.records)
    # the module's own gradient is that of its matrix and bias, by the chain rule
    function, linear = own.into("b")[0].synapses, dense.into("b")[0].synapses.weight.module
    of_linear = {id(p): matrix_grads[name] for name, p in network(dense, "reference").named_parameters()}
    chained = torch.autograd.grad(
        matrix_and_bias(function),
        list(module.parameters()),
        [of_linear[id(p)] for p in (linear.weight, linear.bias)],
    )
    of_module = {id(p): grads[name] for name, p in network(own, "torch").named_parameters()}
    assert_same([of_module[id(p)] for p in module.parameters()], list(chained))


def test_samples_do_not_see_each_other_through_a_function():
    torch.manual_seed(6)
    graph = decoder(transposed(), as_dense=False)
    net, ids = network(graph, "torch", scheduler="random", forward_group_size=2), torch.tensor([5, 0, 9])
    x = frames(graph, 4, 3, 2, True)
    together = net.run(x, seed=7, sample_ids=ids)
    for b in range(3):
        alone = net.run(x[:, b : b + 1], seed=7, sample_ids=ids[b : b + 1])
        assert torch.equal(together.spikes[:, b : b + 1], alone.spikes)
        assert_same(together.potentials[:, b : b + 1], alone.potentials)


@settings(max_examples=settings.default.max_examples // 4)
@given(option=options, kinds=st.tuples(*[st.sampled_from(sorted(KINDS))] * 3), seed=st.integers(0, 10_000))
def test_engines_agree_on_functions_that_wait(option, kinds, seed):
    """Softmax attention and a LayerNorm behind it: events, counts and gradients, those of the LayerNorm included."""
    option = option | {"leftover": "drop", "scheduler": option["scheduler"].replace("latest", "fifo")}
    option |= {"refractory_dropout": 0.0} if option["refractory"] == "off" else {}
    graph = WAITING["attention"](Drawing(seed, kinds))
    x = frames(graph, 3, 2, seed).requires_grad_()
    engines = [Logging(ENGINES[name]) for name in ("reference", "torch")]
    expected, found = (two_runs(graph, x, option, seed, one) for one in engines)
    assert_same(expected, found)
    for one, other in zip(*(engine.logs for engine in engines), strict=True):
        assert_same(ordered(one), ordered(other), "log")


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_functions_that_wait_keep_the_layered_limit(backend):
    """Against the same network written as a loop over layers, left to autograd."""
    graph = WAITING["attention"](Drawing(5, ["subtract", "value", "none"]))
    x = frames(graph, 4, 3, 5)
    named = dict(network(graph, backend).named_parameters())
    expected = layer_by_layer(graph, x)
    grads = torch.autograd.grad(expected.sin().sum(), list(named.values()), allow_unused=True)
    assert all(grad is not None and grad.any() for grad in grads)
    for option in (dict(scheduler="layered"), dict(scheduler="random", forward_group_size=None)):
        run = network(graph, backend, **option).run(x, record=("b", "c"))
        torch.testing.assert_close(run.potentials.flatten(2), expected, rtol=1e-12, atol=1e-12)
        found = torch.autograd.grad(run.potentials.sin().sum(), list(named.values()))
        assert_same(list(grads), list(found))
        assert run.activity.spikes["b"].any()


def layer_by_layer(graph: Graph, x):
    """The output's potentials (T, B, size) of a graph whose junctions all wait."""
    states, spikes = {}, {p.name: x.new_zeros(x.shape[1], p.size) for p in graph.populations}
    live = {p.name: p.neuron.read(p, x) for p in graph.populations}
    potentials = []
    for frame in x:
        last, sent = spikes, {"input": numbered(graph, frame.flatten(1))}
        for name in graph.order:
            node = graph.nodes[name]
            ports = {}
            for p in graph.into(name):
                current = p.synapses.apply((last if p.delayed else sent)[p.source], ())
                bias = p.synapses.constant((), x)
                ports[p.port] = ports.get(p.port, 0) + current + (0 if bias is None else bias)
            if name not in graph.index:
                sent[name] = node.value(
                    torch.cat([ports[i] for i in sorted(ports)], 1), [one(()) for one in node.live]
                )
                continue
            neuron, state = node.neuron, states.get(name) or node.neuron.rest(live[name], x.shape[1], x)
            base, gain, threshold = neuron.begin(live[name], state)
            u = base + gain * ports[0]
            s = neuron.surrogate(u - threshold)
            after = {"none": u, "subtract": u - s * threshold, "value": u + s * (neuron.reset_value - u)}[
                neuron.reset
            ]
            states[name] = neuron.end(live[name], state, Outcome(s, ports[0], after))
            sent[name] = s
        spikes = {p.name: sent[p.name] for p in graph.populations}
        potentials.append(states[graph.output][0])
    return torch.stack(potentials)


def test_the_numba_engine_names_the_one_that_can():
    with pytest.raises(UnsupportedByEngineError, match="use backend='torch'"):
        network(decoder(Mixing(), as_dense=False), "numba")
    assert network(decoder(Mixing(), as_dense=False), "auto").backend == "torch"


class RowsSeen(TorchDispatchMode):
    """How many rows every GroupNorm takes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "group_norm" in str(function):
            self.rows.append(len(args[0]))
        return function(*args, **kwargs or {})


def test_a_function_computes_the_rows_that_it_is_given(double_precision):
    """It was recorded on all timesteps of all samples, and is called for one timestep of some of them."""
    model = nn.Sequential(
        layer.Conv2d(1, 4, 3), neuron.IFNode(), layer.Conv2d(4, 4, 3), layer.GroupNorm(2, 4)
    )
    model.append(neuron.IFNode())
    functional.set_step_mode(model, "m")
    net = snn_async.asynchronize(model.eval(), backend="torch")
    x = torch.rand(5, 2, 1, 7, 7)
    assert net(x).any()
    with RowsSeen() as seen, torch.no_grad():
        net(x)
    assert set(seen.rows) == {2}
