"""The torch engine waits for its device in `to_host` and nowhere else, shown without a GPU.

What would make the host wait for a GPU, or move a tensor there and back without being told, is forbidden while the
engine runs, except inside `to_host`, whose calls are counted.
"""

import sys
from contextlib import contextmanager

import pytest
import torch
from networks import MOTIFS, Drawing, frames, network
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from snn_async.engines.torch import device
from snn_async.engines.torch.engine import TorchEngine

READING = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__"}
SIZED_BY_VALUES = {
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "equal",
}
SIZED_BY_VALUES |= {"_local_scalar_dense", "is_nonzero"}


class Methods(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        assert Guard.waiting or name not in READING, f"Tensor.{name} outside to_host"
        return function(*args, **kwargs or {})


class Operators(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        if not Guard.waiting:
            assert name not in SIZED_BY_VALUES, f"{name} outside to_host"
            assert name != "repeat_interleave" or kwargs.get("output_size") is not None, (
                "repeats of unknown size"
            )
            masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
            assert not any(i is not None and i.dtype == torch.bool for i in masks), f"{name} by a mask"
        return function(*args, **kwargs)


class Guard:
    waiting = False
    count = 0

    @classmethod
    def to_host(cls, *parts):
        cls.count, cls.waiting = cls.count + 1, True
        try:
            return device.to_host(*parts)
        finally:
            cls.waiting = False


@contextmanager
def guarded(monkeypatch):
    for name, module in list(sys.modules.items()):
        if (
            name.startswith("snn_async.engines.torch.")
            and module is not device
            and hasattr(module, "to_host")
        ):
            monkeypatch.setattr(module, "to_host", Guard.to_host)
    with Methods(), Operators():
        yield


class Guarded(TorchEngine):
    """The torch engine, under guard while it runs."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.waits, self.steps = [], []

    def simulate(self, *arguments):
        super().simulate(*arguments)  # what depends on the graph alone is put on the device once
        before = Guard.count
        with guarded(self.monkeypatch):
            done = super().simulate(*arguments)
        self.waits.append(Guard.count - before)
        self.steps.append(int(done.counts.forward_steps.max()))
        return done

    def replay(self, *arguments, **options):
        super().replay(*arguments, **options)
        before = Guard.count
        with guarded(self.monkeypatch):
            gradients = super().replay(*arguments, **options)
        assert Guard.count == before + 1
        return gradients


@pytest.mark.parametrize("motif", MOTIFS)
@pytest.mark.parametrize(
    "option",
    [
        dict(scheduler="random", forward_group_size=2),
        dict(scheduler="momentum", forward_group_size=1, refractory="off", input="queued", stop="after(4)"),
        dict(scheduler="layered"),
    ],
    ids=lambda option: option["scheduler"],
)
def test_nothing_waits_for_the_device_but_once_per_forward_step(monkeypatch, motif, option):
    graph = MOTIFS[motif](Drawing(3, ("subtract", "value", "none")))
    carry = not any(junction.waits for junction in graph.junctions) and option["scheduler"] != "layered"
    engine = Guarded(monkeypatch)
    net = network(graph, engine, **option | {"leftover": "carry" if carry else "drop"})
    run = net.run(frames(graph, 3, 3))
    (run.potentials.sum() + run.spikes.sum()).backward()
    assert run.spikes.any() or run.potentials.any()
    for waits, steps in zip(engine.waits, engine.steps, strict=True):
        # behind a barrier it is known who comes next; else what is carried in and left over waits as well
        assert waits == 0 if option["scheduler"] == "layered" else 0 < waits <= steps + 3
