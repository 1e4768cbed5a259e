"""What a test shows with the fixture `engine` holds on every engine and device."""

import pytest
import snntorch
import torch
from every_engine import ENGINES
from hypothesis import settings

settings.register_profile("fixed", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("more", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("fixed")


@pytest.fixture(params=ENGINES.values(), ids=ENGINES.keys())
def engine(request):
    return request.param


@pytest.fixture
def double_precision():
    """What a model makes itself (`torch.zeros(...)`) is of the precision of everything else."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def no_other_neurons(monkeypatch):
    """snnTorch's resets go through every neuron of the process, and fail on some that other tests hold."""
    monkeypatch.setattr(snntorch.SpikingNeuron, "instances", [])
