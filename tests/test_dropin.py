"""Drop-in layers are the frameworks' own neurons, plus options that `asynchronize` reads."""

import copy
import io
import pickle

import pytest
import snntorch
import torch
from snntorch import utils
from spikingjelly.activation_based import functional, neuron
from torch import nn

from snn_async import snntorch as ours
from snn_async import spikingjelly as ours_sj
from snn_async.capture import build_graph
from snn_async.errors import OptionError

PAIRS = [
    (
        ours.Leaky,
        snntorch.Leaky,
        (0.9,),
        {"threshold": 0.5, "reset_mechanism": "zero", "surrogate_disable": True},
    ),
    (ours.Lapicque, snntorch.Lapicque, (0.9,), {"threshold": 0.5, "surrogate_disable": True}),
    (ours_sj.IFNode, neuron.IFNode, (0.7, None), {}),
    (ours_sj.LIFNode, neuron.LIFNode, (3.0,), {"decay_input": False}),
    (ours_sj.ParametricLIFNode, neuron.ParametricLIFNode, (), {"init_tau": 1.5}),
]
OPTIONS = {"refractory": "off", "refractory_dropout": 0.25}


def outputs(module):
    with torch.no_grad():
        out = [module(x) for x in 6 * torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0))]
    return torch.cat([o[0] if isinstance(o, tuple) else o for o in out])


@pytest.mark.parametrize(("kind", "original", "args", "kwargs"), PAIRS)
def test_behaves_as_the_original(kind, original, args, kwargs):
    module, plain = kind(*args, **kwargs, **OPTIONS), original(*args, **kwargs)
    module.load_state_dict(plain.state_dict())
    plain.load_state_dict(module.state_dict())
    assert repr(kind(*args, **kwargs)) == repr(plain) and "refractory='off'" in repr(module)
    expected = outputs(plain)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module):
        assert torch.equal(outputs(twin), expected) and expected.any()
        assert (twin.refractory, twin.refractory_dropout) == ("off", 0.25)


@pytest.mark.parametrize(("kind", "original", "args", "kwargs"), PAIRS)
def test_options_are_read_and_checked(kind, original, args, kwargs):
    mapped = (
        build_graph(nn.Sequential(nn.Linear(3, 3), kind(*args, **kwargs, **OPTIONS))).populations[0].neuron
    )
    assert (mapped.refractory, mapped.refractory_dropout) == ("off", 0.25)
    with pytest.raises(OptionError, match=f"{kind.__name__}: refractory='never'.*discard"):
        kind(*args, **kwargs, refractory="never")
    with pytest.raises(OptionError, match="refractory_dropout=1.5"):
        kind(*args, **kwargs, refractory_dropout=1.5)


def test_the_frameworks_resets_find_them():
    net = nn.Sequential(ours.Leaky(0.9, init_hidden=True))
    net(torch.ones(1, 2))
    utils.reset(net)
    assert not net[0].mem.any()
    node = ours_sj.IFNode()
    node(torch.full((1, 2), 0.5))
    functional.reset_net(node)
    assert node.v == 0.0


def test_saved_whole():
    net, file = nn.Sequential(ours.Leaky(0.9, surrogate_disable=True, refractory="off")), io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert torch.load(file, weights_only=False)[0].refractory == "off"
