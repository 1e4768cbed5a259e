"""Every engine on every device: what a test shows with the fixture `engine` holds on all of them."""

import pytest
import torch
from hypothesis import settings

from snn_async.engines.numba.engine import NumbaEngine
from snn_async.engines.reference.engine import ReferenceEngine, moved
from snn_async.engines.torch.engine import TorchEngine

settings.register_profile("fixed", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("more", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile("fixed")


class TimestepByTimestep(NumbaEngine):
    """The numba engine without its way of running a whole sequence in one call."""

    def runs_sequences(self, graph):
        return False


class Elsewhere(TorchEngine):
    """The torch engine on another device than that of the network and its tensors."""

    def __init__(self, device):
        self.device = device

    def simulate(self, graph, execution, values, start, keep_log):
        given = moved((values, start), self.device)
        return moved(super().simulate(graph, execution, *given, keep_log), values.x.device)

    def replay(self, graph, execution, *tensors, needs_x):
        given = moved(tensors, self.device)
        return moved(super().replay(graph, execution, *given, needs_x=needs_x), tensors[0].x.device)


DEVICES = ["cuda"] if torch.cuda.is_available() else []
ENGINES = {
    "reference": ReferenceEngine(),
    "numba": NumbaEngine(),
    "numba, timestep by timestep": TimestepByTimestep(),
    "torch": TorchEngine(),
    **{f"torch, on {device}": Elsewhere(device) for device in DEVICES},
}


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
