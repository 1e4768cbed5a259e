"""Models as people write them (`models_as_written.py`), called as they are: results and gradients are their own."""

import pytest
import snntorch as snn
import torch
from models_as_written import MODELS, reset, spiking
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import snn_async

TAKEN = [name for name, model in MODELS.items() if model.refused is None]
REFUSED = [name for name, model in MODELS.items() if model.refused is not None]
# Those that do something else in training; BatchNorm keeps its running statistics, and nothing is dropped.
TRAINED = ["LitSNN", "OwnBatchNormEachStep", "sequential_outside", "GestureNet", "ContainersInContainers"]
# One of each kind of synapses and of time, on every engine: the numba engine takes what these are made of.
EVERYWHERE = ["TutorialNet", "StatesPassed", "sequential_outside", "MultiStepMean", "DQSN"]


pytestmark = pytest.mark.usefixtures("double_precision")


def floating(tree):
    return [
        value for value in tree_flatten(tree)[0] if isinstance(value, Tensor) and value.is_floating_point()
    ]


def gradients(result, leaves):
    """Of a random projection of all that is floating in `result`; zeros where nothing flows."""
    generator = torch.Generator().manual_seed(3)
    total = sum((torch.randn(value.shape, generator=generator) * value).sum() for value in floating(result))
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]


def assert_same(found, expected, tolerance):
    """In nesting, in shapes, and in values to `tolerance` (None: any)."""
    (ours, spec), (theirs, their_spec) = tree_flatten(found), tree_flatten(expected)
    assert spec == their_spec
    for a, b in zip(ours, theirs, strict=True):
        if tolerance is None:
            assert a.shape == b.shape and a.dtype == b.dtype and a.isfinite().all()
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def in_training(model):
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        elif hasattr(module, "p"):
            module.p = 0.0


def check(name, backend, prepare=lambda model: None):
    written = MODELS[name]
    model, args, kwargs = written.build()
    prepare(model)
    for x in floating(args):
        x.requires_grad_()
    named = {f"input {i}": x for i, x in enumerate(floating(args))}
    named |= {name: p for name, p in model.named_parameters() if p.requires_grad}
    leaves = list(named.values())

    def of_the_model():
        torch.manual_seed(5)
        return written.reference(model, args, kwargs)

    expected = of_the_model()
    expected_gradients = gradients(expected, leaves)
    reset(model)

    net = snn_async.asynchronize(model, forward_group_size=written.group, backend=backend)
    assert_same(net(*args, **kwargs), expected, None)
    torch.manual_seed(5)
    layered = net.layered(*args, **kwargs).result
    assert_same(layered, expected, 1e-10)
    for leaf, a, b in zip(named, gradients(layered, leaves), expected_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, leaf=leaf: f"{leaf}: {m}")
    assert_same(of_the_model(), expected, 1e-12)  # the model is as it was


@pytest.mark.parametrize("name", TAKEN)
def test_layered_is_the_model_itself(name):
    try:
        check(name, "torch")
    except snn_async.SnnAsyncError:
        if not MODELS[name].optional:
            raise


@pytest.mark.parametrize("name", TRAINED)
def test_layered_is_the_model_itself_in_training(name):
    check(name, "torch", in_training)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_on_every_engine(name, engine):
    check(name, engine)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_here_is_refused_with_the_reason(name):
    model, args, kwargs = MODELS[name].build()
    with pytest.raises(snn_async.SnnAsyncError, match=MODELS[name].refused):
        snn_async.asynchronize(model, backend="torch")(*args, **kwargs)


@pytest.mark.parametrize("name", ["SequentialInside", "GestureNet"])
def test_resets_inside_a_model_leave_other_models_usable(name):
    """snnTorch's `utils.reset` reaches the neurons of every model of the process."""
    model, args, kwargs = MODELS[name].build()
    other, frame = snn.Leaky(beta=0.9, init_hidden=True), torch.rand(3, 5)
    expected = other(frame)
    snn_async.asynchronize(model, backend="torch")(*args, **kwargs)
    assert type(other.mem) is Tensor
    other.reset_mem()
    assert torch.equal(other(frame), expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_models_are_awake(name):
    """So that the comparison says something: every layer spikes, none always, gradients reach the parameters."""
    written = MODELS[name]
    model, args, kwargs = written.build()
    neurons, records = spiking(model), {}

    def record(module, inputs, output):
        spikes = output[0] if isinstance(module, snn.SpikingNeuron) and isinstance(output, tuple) else output
        records.setdefault(module, []).append(spikes.detach())

    for module in neurons.values():
        module.register_forward_hook(record)
    torch.manual_seed(5)
    result = written.reference(model, args, kwargs)
    for key, module in neurons.items():
        rate = torch.cat([spikes.flatten() for spikes in records[module]]).ne(0).double().mean()
        assert 0.03 < rate < 0.9, f"{key} spikes at {rate:.2f}"
    parameters = [p for p in model.parameters() if p.requires_grad]
    reached = [bool(g.abs().sum() > 0) for g in gradients(result, parameters)]
    assert sum(reached) >= 0.7 * len(reached)
