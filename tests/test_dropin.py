"""Drop-in layers are the frameworks' own neurons, plus options that `asynchronize` reads."""

import copy
import io
import pickle

import pytest
import snntorch
import torch
from snntorch import surrogate, utils
from spikingjelly.activation_based import functional, neuron
from torch import nn

from snn_async import snntorch as ours
from snn_async import spikingjelly as ours_sj
from snn_async.errors import OptionError, UnsupportedModelError
from snn_async.frameworks.closures import picklable
from snn_async.frameworks.libraries import adapter_of
from snn_async.frameworks.refractory_options import RefractoryOptions

TABLE = neuron.FewSpikeTable(*[torch.tensor([0.8, 0.4, 0.2])] * 3)
ARGUMENTS = {
    snntorch.Leaky: ((0.9,), {"threshold": 0.5, "reset_mechanism": "zero"}),
    snntorch.Lapicque: ((0.9,), {"threshold": 0.5}),
    snntorch.RLeaky: ((0.9,), {"linear_features": 3}),
    snntorch.Synaptic: ((0.8, 0.9), {"threshold": 0.5, "reset_delay": False}),
    snntorch.RSynaptic: ((0.8, 0.9), {"all_to_all": False}),
    snntorch.Alpha: ((0.8, 0.6), {"threshold": 0.1}),
    snntorch.DeltaLeaky: ((0.5, 0.9), {"init_hidden": True}),
    snntorch.StateLeaky: ((0.9, 3), {}),
    snntorch.LinearLeaky: ((0.9, 3, 3), {}),
    neuron.IFNode: ((0.7, None), {}),
    neuron.LIFNode: ((3.0,), {"decay_input": False}),
    neuron.ParametricLIFNode: ((), {"init_tau": 1.5}),
    neuron.SimpleLIFNode: ((2.0, True), {}),
    neuron.CUBALIFNode: ((), {"v_reset": None}),
    neuron.NoisyCUBALIFNode: ((3,), {"is_training": False, "T": 6}),
    neuron.GatedLIFNode: ((6,), {}),
    **{kind: ((3, 1), {}) for kind in (neuron.ILCIFNode, neuron.ILCLIFNode, neuron.ILCCUBALIFNode)},
    neuron.NoisyILCCUBALIFNode: ((1, 3), {"is_training": False, "T": 6}),
    neuron.MPBNLIFNode: ((3.0,), {"out_features": 3, "v_threshold": 0.1}),
    neuron.SlidingPSN: ((2,), {}),
    neuron.MaskedPSN: ((2, 6), {"lambda_init": 1.0}),
    **{kind: ((), {"decode": "last_mem"}) for kind in (neuron.NonSpikingIFNode, neuron.NonSpikingLIFNode)},
    neuron.NoisyNonSpikingIFNode: ((3,), {"is_training": False, "T": 6, "decode": "max-mem"}),
    neuron.ActivationAwareIFNode: ((0.7, 0.1), {}),
    neuron.LIAFNode: ((torch.relu, True), {"v_threshold": 0.3}),
    neuron.STBIFNode: ((0.5, 8), {}),
    neuron.FewSpikeNode: ((TABLE,), {}),
    neuron.OutlierAwareThresholdNode: ((TABLE, TABLE, 0.5), {}),
    neuron.HGNode: (([TABLE, TABLE], [0.5]), {}),
}


def pairs():
    for dropins, originals in ((ours, snntorch), (ours_sj, neuron)):
        for name in dropins.__all__:
            original = getattr(originals, name)
            args, kwargs = ARGUMENTS.get(original, ((), {}))
            if originals is snntorch:  # whose other surrogate functions cannot be pickled
                kwargs = kwargs | {"surrogate_disable": True}
            yield pytest.param(getattr(dropins, name), original, args, kwargs, id=name)


PAIRS = list(pairs())
WHOLE_SEQUENCES = (
    snntorch.StateLeaky,
    snntorch.LinearLeaky,
    neuron.NoisyCUBALIFNode,
    neuron.NoisyILCCUBALIFNode,
    neuron.NoisyNonSpikingIFNode,
)
OPTIONS = {"refractory": "off", "refractory_dropout": 0.25}


def spikes(kind):
    return issubclass(kind, RefractoryOptions)


def outputs(module):
    x = 6 * torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if isinstance(module, WHOLE_SEQUENCES) or getattr(module, "step_mode", "s") == "m":
            x = x[:, :, :, None, None] if isinstance(module, neuron.GatedLIFNode) else x
            out = module(x)
            return out[0] if isinstance(out, tuple) else out
        out = [module(frame) for frame in x]
    return torch.cat([o[0] if isinstance(o, tuple | list) else o for o in out])


@pytest.mark.parametrize(("kind", "original", "args", "kwargs"), PAIRS)
def test_behaves_as_the_original(kind, original, args, kwargs):
    torch.manual_seed(0)
    options = OPTIONS if spikes(kind) else {}
    module, plain = kind(*args, **kwargs, **options), original(*args, **kwargs)
    module.load_state_dict(plain.state_dict())
    plain.load_state_dict(module.state_dict())
    without = kind(*args, **kwargs)
    without.load_state_dict(plain.state_dict())
    assert repr(without) == repr(plain) and ("refractory='off'" in repr(module)) == spikes(kind)
    expected = outputs(plain)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module):
        assert torch.equal(outputs(twin), expected) and expected.any()
        assert {name: getattr(twin, name) for name in options} == options


@pytest.mark.parametrize(("kind", "original", "args", "kwargs"), PAIRS)
def test_options_are_read_and_checked(kind, original, args, kwargs):
    if not spikes(kind):
        for name, value in OPTIONS.items():
            with pytest.raises(OptionError, match=f"{kind.__name__}: {name}={value!r} .*it never spikes"):
                kind(*args, **kwargs, **{name: value})
        return
    module = kind(*args, **kwargs, **OPTIONS)
    shape = (3, 1, 1) if isinstance(module, neuron.GatedLIFNode) else (3,)
    mapped = adapter_of(module).make_neuron("n", module, shape)
    assert (mapped.refractory, mapped.refractory_dropout) == ("off", 0.25)
    with pytest.raises(OptionError, match=f"{kind.__name__}: refractory='never'.*discard"):
        kind(*args, **kwargs, refractory="never")
    with pytest.raises(OptionError, match="refractory_dropout=1.5"):
        kind(*args, **kwargs, refractory_dropout=1.5)


def test_the_frameworks_resets_find_them():
    snntorch.SpikingNeuron.init()  # snnTorch resets every neuron there ever was, which fails for a new DeltaLeaky
    net = nn.Sequential(ours.Leaky(0.9, init_hidden=True))
    net(torch.ones(1, 2))
    utils.reset(net)
    assert not net[0].mem.any()
    node = ours_sj.IFNode()
    node(torch.full((1, 2), 0.5))
    functional.reset_net(node)
    assert node.v == 0.0


def squared(x, gradient, spikes):
    return gradient / (1 + x**2)


@pytest.mark.parametrize(
    "spike_grad",
    [None, surrogate.fast_sigmoid(7), surrogate.custom_surrogate(squared)],
    ids=["atan", "fast", "own"],
)
def test_surrogates_that_are_closures_are_pickled_by_what_made_them(spike_grad):
    model = nn.Sequential(nn.Linear(3, 4), snntorch.Leaky(0.9, spike_grad=spike_grad, threshold=0.1)).double()
    shared, function = picklable(model), model[1].spike_grad
    assert shared[0].weight is model[0].weight and model[1].spike_grad is function
    loaded = pickle.loads(pickle.dumps(shared))
    assert loaded[1].spike_grad.__qualname__ == function.__qualname__
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = [one(x) for one in (model, loaded)]
    gradients = [
        torch.autograd.grad(spikes.sum(), one[0].weight)[0]
        for one, (spikes, _) in zip((model, loaded), outputs, strict=True)
    ]
    for a, b in (*zip(*outputs, strict=True), gradients):
        assert torch.equal(a, b) and a.any()


def test_a_closure_that_cannot_be_found_again_is_named():
    made = eval("lambda least: lambda x: x > least")
    model = snntorch.Leaky(0.9, spike_grad=made(0.0))
    with pytest.raises(UnsupportedModelError, match="<lambda> cannot be pickled.*state_dict"):
        pickle.dumps(picklable(model))


def test_saved_whole():
    net, file = nn.Sequential(ours.Leaky(0.9, surrogate_disable=True, refractory="off")), io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert torch.load(file, weights_only=False)[0].refractory == "off"
