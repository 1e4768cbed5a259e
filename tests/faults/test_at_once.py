"""Several at once: threads on one network, processes in one folder, workers of data loaders."""

import threading

import pytest
import torch
from networks import Recipe, frames, network
from spikingjelly.activation_based import neuron
from tiny_data import make_net
from torch import nn
from torch.utils.data import DataLoader, Dataset

from snn_async import asynchronize


@pytest.mark.parametrize("backend", ["numba", pytest.param("torch", marks=pytest.mark.faults)])
def test_eight_threads_on_one_network_get_what_one_gets(backend):
    recipe = Recipe((6, 5, 4, 3), ("subtract",) * 3)
    net = network(recipe.graph(), backend, forward_group_size=2)
    inputs = [frames(recipe.graph(), 2 + i % 3, 3, i) for i in range(8)]
    alone = [net.run(x, seed=i) for i, x in enumerate(inputs)]
    found, barrier = [None] * 8, threading.Barrier(8)

    def work(i):
        barrier.wait()
        for _ in range(2):
            found[i] = net.run(inputs[i], seed=i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        assert torch.equal(one.spikes, other.spikes) and torch.equal(one.potentials, other.potentials)


def test_eight_threads_make_the_first_call_of_a_network_together():
    torch.manual_seed(0)
    net = asynchronize(make_net(), forward_group_size=2).eval()
    inputs = [torch.rand(2 + i % 2, 3, 12).round() for i in range(8)]
    found = [None] * 8

    def work(i):
        found[i] = net(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(net(x), y) for x, y in zip(inputs, found, strict=True))


class Runs(Dataset):
    """What a network makes of eight inputs, run where an item is asked for."""

    def __init__(self, net, inputs):
        self.net, self.inputs = net, inputs

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        torch.set_num_threads(1)
        with torch.no_grad():
            return self.net(self.inputs[i])


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.faults)])
def test_workers_run_a_network_that_has_run_here(context):
    torch.manual_seed(0)
    layers = nn.Linear(12, 8), neuron.IFNode(), nn.Linear(8, 3), neuron.IFNode()
    net = asynchronize(nn.Sequential(*layers), forward_group_size=2).eval()
    inputs = [3 * torch.rand(3, 2, 12).round() for _ in range(4)]
    here = [net(x).detach() for x in inputs]
    loader = DataLoader(
        Runs(net, inputs), batch_size=None, num_workers=2, multiprocessing_context=context, timeout=300
    )
    assert all(torch.equal(one, other) for one, other in zip(here, loader, strict=True))
