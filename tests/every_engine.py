"""Every engine on every device that is present."""

from dataclasses import replace

import torch

from snn_async.engines.numba.engine import NumbaEngine
from snn_async.engines.reference.engine import ReferenceEngine, moved
from snn_async.engines.torch.engine import TorchEngine


class TimestepByTimestep(NumbaEngine):
    """The numba engine without its way of running a whole sequence in one call."""

    def runs_sequences(self, graph):
        return False


class Elsewhere(TorchEngine):
    """The torch engine on another device than that of the network and its tensors."""

    def __init__(self, device):
        self.device = device

    def simulate(self, graph, execution, values, start, keep_log):
        home = values.x.device
        done = super().simulate(graph, execution, *moved((values, start), self.device), keep_log)
        log = done.log and LogElsewhere(done.log, home)
        return replace(moved(replace(done, log=None), home), log=log)

    def replay(self, graph, execution, values, start, simulation, slopes, adjoints, needs_x):
        given = moved((values, start, simulation, slopes, adjoints), self.device)
        values, start, done, slopes, adjoints = given
        done = replace(done, log=simulation.log.log)
        found = super().replay(graph, execution, values, start, done, slopes, adjoints, needs_x=needs_x)
        return moved(found, simulation.spikes.device)


class LogElsewhere:
    """A log that stays where it was made; what is read of it comes home."""

    def __init__(self, log, home):
        self.log, self.home = log, home

    def __getattr__(self, name):
        return moved(getattr(self.log, name), self.home)


DEVICES = ["cuda"] if torch.cuda.is_available() else []
ENGINES = {
    "reference": ReferenceEngine(),
    "numba": NumbaEngine(),
    "numba, timestep by timestep": TimestepByTimestep(),
    "torch": TorchEngine(),
    **{f"torch, on {device}": Elsewhere(device) for device in DEVICES},
}
