"""Any affine module as a projection: the torch engine calls it, and it acts as the Linear that it amounts to."""

import pytest
import torch
from networks import Drawing, Latest, frames, network
from test_engines_agree import assert_same
from torch import nn

from snn_async.errors import UnsupportedByEngineError
from snn_async.graph import Graph
from snn_async.graph.grids import size_of, to_units
from snn_async.graph.synapses import Dense, Opaque

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
        shape = tuple(module(torch.zeros(1, *GRID, dtype=torch.float64)).shape[1:])
    opaque, size = Opaque(module, GRID, shape, GRID, shape), size_of(shape)
    d.neurons("a", GRID, ("input", d.conv((1, 3, 3), 2, padding=1)))
    if as_dense:
        layer = nn.Linear(size_of(GRID), size, dtype=torch.float64)
        with torch.no_grad():
            torch_order = torch.eye(size_of(GRID), dtype=torch.float64)
            layer.weight.copy_(opaque.apply(to_units(torch_order, GRID)).T)
            layer.bias.copy_(opaque.bias())
        d.neurons("b", (size, 1, 1), ("a", Dense((layer,), GRID)))
    else:
        d.neurons("b", shape, ("a", opaque))
    d.generator.manual_seed(9)
    d.neurons("c", (3, 1, 1), ("b", d.dense(d.populations[-1].grid, 3)))
    with torch.no_grad():
        for name, value in (("leak", 0.7), ("gain", 1.2), ("offset", 0.05), ("threshold", 0.5)):
            getattr(d.populations[1].neuron.module, name).fill_(value)  # drawn per channel, which differ
        if as_dense:  # its neurons are numbered as those of the module
            last = d.projections[-1].synapses.layers[0]
            last.weight.copy_(to_units(last.weight, shape))
    return d.graph("c", (1, 3, 3))


def observed(net, x):
    run = net.run(x, seed=7, record=("a", "c"))
    loss = (torch.linspace(-1, 1, run.potentials.numel()).view_as(run.potentials) * run.potentials).sum()
    loss = loss + run.spikes.sum() + run.records["a"].potentials.sum()
    named = dict(net.named_parameters())
    return run, dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


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
def test_an_affine_module_is_the_linear_layer_it_amounts_to(kind, option):
    torch.manual_seed(3)
    module = kind()
    dense, own = decoder(module, True), decoder(module, False)
    x = frames(own, 4, 3, 1, True)
    expected, matrix_grads = observed(network(dense, "reference", **option), x)
    run, grads = observed(network(own, "torch", **option), x)
    assert expected.activity.spikes["b"].any()
    assert_same(vars(expected.activity), vars(run.activity))
    assert_same(expected.records, run.records)
    # the module's own gradient is that of its matrix and bias, by the chain rule
    opaque, linear = own.into("b")[0].synapses, dense.into("b")[0].synapses.layers[0]
    matrix, bias = opaque.apply(to_units(torch.eye(18, dtype=torch.float64), GRID)).T, opaque.bias()
    of_linear = {id(p): matrix_grads[name] for name, p in network(dense, "reference").named_parameters()}
    chained = torch.autograd.grad(
        (matrix, bias), list(module.parameters()), [of_linear[id(p)] for p in (linear.weight, linear.bias)]
    )
    of_module = {id(p): grads[name] for name, p in network(own, "torch").named_parameters()}
    assert_same([of_module[id(p)] for p in module.parameters()], list(chained))


def test_samples_do_not_see_each_other_through_a_module():
    torch.manual_seed(6)
    graph = decoder(transposed(), as_dense=False)
    net, ids = network(graph, "torch", scheduler="random", forward_group_size=2), torch.tensor([5, 0, 9])
    x = frames(graph, 4, 3, 2, True)
    together = net.run(x, seed=7, sample_ids=ids)
    for b in range(3):
        alone = net.run(x[:, b : b + 1], seed=7, sample_ids=ids[b : b + 1])
        assert torch.equal(together.spikes[:, b : b + 1], alone.spikes)
        assert_same(together.potentials[:, b : b + 1], alone.potentials)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_other_engines_name_the_one_that_can(backend):
    with pytest.raises(UnsupportedByEngineError, match="use backend='torch'"):
        network(decoder(Mixing(), as_dense=False), backend)
    assert network(decoder(Mixing(), as_dense=False), "auto").backend == "torch"
