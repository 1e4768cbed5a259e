"""What is the numba engine's own: slopes in closed form, and where its compiled functions are kept."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import snntorch.surrogate as of_snntorch
import torch
from networks import Recipe, frames, network, neuron
from spikingjelly.activation_based import surrogate as of_spikingjelly

from snn_async.engines.numba import engine, jit
from snn_async.engines.numba.backward.slopes import closed_forms
from snn_async.graph import Graph, Population


class Values(NamedTuple):
    array: np.ndarray
    factor: float


KNOWN = {
    "snnTorch's ATan": of_snntorch.atan(alpha=1.7),
    "snnTorch's FastSigmoid": of_snntorch.fast_sigmoid(slope=3),
    "snnTorch's Sigmoid": of_snntorch.sigmoid(slope=4),
    "snnTorch's StraightThroughEstimator": of_snntorch.straight_through_estimator(),
    "SpikingJelly's ATan": of_spikingjelly.ATan(alpha=1.7),
    "SpikingJelly's Sigmoid": of_spikingjelly.Sigmoid(),
}


def with_surrogate(surrogate):
    """A small graph whose neurons all have this surrogate function."""
    plain, generator = Recipe((7, 6, 4), ("subtract",) * 2, seed=3).graph(), torch.Generator().manual_seed(3)
    populations = [
        Population(p.name, p.size, replace(neuron("subtract", p.size, generator), surrogate=surrogate))
        for p in plain.populations
    ]
    return Graph(populations, list(plain.projections), plain.output)


@pytest.mark.parametrize("name", KNOWN)
def test_slopes_in_closed_form_are_those_of_autograd(name, monkeypatch):
    graph = with_surrogate(KNOWN[name])
    net, x = network(graph, "numba", forward_group_size=2), frames(graph, 4, 3, 3)
    assert closed_forms(graph) is not None
    found = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    monkeypatch.setattr(engine, "closed_forms", lambda graph: None)
    expected = torch.autograd.grad(net(x).sum(), list(net.parameters()))
    assert any(one.abs().sum() > 0 for one in found)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "surrogate",
    [lambda x: of_snntorch.atan()(2 * x), lambda x: 1.0 * of_snntorch.atan()(x), of_spikingjelly.SoftSign()],
)
def test_what_is_made_of_a_known_surrogate_is_left_to_autograd(surrogate):
    assert closed_forms(with_surrogate(surrogate)) is None


def test_a_kernel_runs_where_nothing_can_be_kept(monkeypatch):
    def nowhere(kernel):
        raise RuntimeError("no locator available")

    def double(values):
        for i in range(len(values.array)):
            values.array[i] *= values.factor

    monkeypatch.setattr(jit, "_Cache", nowhere)
    values = jit.Packed(Values(np.ones(3), 2.0))
    jit.Kernel(double)(values)
    assert values.record.array.tolist() == [2, 2, 2]
