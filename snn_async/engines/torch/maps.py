"""What projections do with a batch of events: linear maps on any device, and who is reached.

The maps take their weights from `Values`, so autograd sees them; `Affine` synapses are called with the parameters of
`Values`. Who is reached depends on the graph alone and is kept for each device.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from snn_async.engines.contract import Values
from snn_async.engines.torch.device import any_of, numbers
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of
from snn_async.graph.parameters import dealt
from snn_async.graph.synapses import Affine, Convolution, Dense, OneToOne, Synapses, Wiring

Map = Callable[[Tensor], Tensor]
KINDS = (Dense, Convolution, OneToOne, Wiring, Affine)


@dataclass(frozen=True)
class Connections:
    """Who a projection reaches, whatever its weights.

    Attributes:
        reach: from which of its sources deliver (R, fan_in) to which of its targets are reached (R, fan_out), bool.
        degree: (fan_in,) int64, synapses of each source; None where they cost no synaptic operation.
        wiring: what a `Wiring` makes of values, None for other synapses.
    """

    reach: Map
    degree: Tensor | None
    wiring: Map | None = None


@contextmanager
def exact_products() -> Iterator[None]:
    """Multiply in full precision, the same way every time.

    No autocast, none of the short formats (TF32 on a GPU drops 13 bits of every weight), no choice among algorithms.
    """
    cublas: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    backends: list[tuple[Any, str, Any]] = [(cudnn, "benchmark", False), (cudnn, "deterministic", True)]
    if hasattr(cublas, "fp32_precision"):
        libraries = (cublas, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)
        backends += [(library, "fp32_precision", "ieee") for library in libraries]
    else:  # torch before 2.9
        backends += [(cublas, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    before = [getattr(backend, name) for backend, name, _ in backends]
    try:
        for backend, name, value in backends:
            setattr(backend, name, value)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for (backend, name, _), value in zip(backends, before, strict=True):
            setattr(backend, name, value)


def current_maps(graph: Graph, values: Values) -> list[Map]:
    """Return for every projection the map from amounts (R, fan_in) to currents (R, fan_out), without any bias."""
    maps: list[Map] = []
    starts, (live, _) = layout_of(graph).weight_start.tolist(), dealt(graph, values.parameters)
    connections = connections_of(graph, values.weights.device)
    for projection, connection, first, own in zip(graph.projections, connections, starts, live, strict=True):
        synapses = projection.synapses
        packed = values.weights[first : first + synapses.weight_count]
        if isinstance(synapses, Affine):
            maps.append(_Linear(synapses, own))
        else:
            maps.append(connection.wiring or _known(synapses, packed))
    return maps


class _Linear:
    """The linear part of an affine function; what it makes of zeros is computed once."""

    def __init__(self, synapses: Affine, values: Sequence[Tensor]) -> None:
        self.function = partial(synapses.call, values=values)
        self.constant: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.constant is None:
            self.constant = self.function(torch.zeros_like(x[:1]))
        return self.function(x) - self.constant


def _known(synapses: Synapses, packed: Tensor) -> Map:
    if isinstance(synapses, Dense):
        matrix = packed.view(synapses.fan_in, synapses.fan_out)
        return lambda x: x @ matrix
    if isinstance(synapses, Convolution):
        kernel = packed.view(synapses.packed_shape).permute(0, 4, 1, 2, 3).flatten(0, 1)
        return _convolution(synapses, kernel)
    assert isinstance(synapses, OneToOne)
    if not len(packed):
        return lambda x: x
    return lambda x: (x.unflatten(-1, (-1, len(packed))) * packed).flatten(-2)


def _convolution(synapses: Convolution, kernel: Tensor, groups: int | None = None) -> Map:
    """Return the convolution with a kernel (out channels, in channels of a group, height, width).

    Args:
        groups: channels in, if it is one kernel per group.
    """
    _, height, width = synapses.source
    top, bottom, left, right = synapses.padding
    symmetric = top == bottom and left == right

    def convolve(x: Tensor) -> Tensor:
        # units are numbered with the channel fastest, which is torch's channels_last without moving anything
        frame = x.unflatten(-1, (height, width, -1)).permute(0, 3, 1, 2)
        if not symmetric:
            frame = functional.pad(frame, (left, right, top, bottom))
        padding = (top, left) if symmetric else (0, 0)
        result = functional.conv2d(
            frame, kernel, None, synapses.stride, padding, synapses.dilation, groups or synapses.groups
        )
        return result.permute(0, 2, 3, 1).flatten(1)

    return convolve


_CONNECTIONS: WeakKeyDictionary[Graph, dict[torch.device, list[Connections]]] = WeakKeyDictionary()


def connections_of(graph: Graph, device: torch.device) -> list[Connections]:
    """Return who every projection reaches; an event through `Affine` synapses reaches all their targets."""
    per_device = _CONNECTIONS.setdefault(graph, {})
    if device not in per_device:
        with torch.inference_mode(False):  # what is kept for later runs must not be an inference tensor
            per_device[device] = [_connections(p.synapses, device) for p in graph.projections]
    return per_device[device]


def _connections(synapses: Synapses, device: torch.device) -> Connections:
    if isinstance(synapses, Convolution):
        return _reach_of_convolution(synapses, torch.zeros(0, device=device))
    degree = torch.full((synapses.fan_in,), 1, device=device) if synapses.weighted else None
    if isinstance(synapses, OneToOne):
        return Connections(lambda present: present, degree)
    if isinstance(synapses, Wiring):
        reach = _wiring(synapses, synapses.values != 0, device)
        wiring = _wiring(synapses, synapses.values, device)
        return Connections(lambda present: reach(present.float()) > 0, degree, wiring)
    out = synapses.fan_out
    return Connections(
        lambda present: any_of(present, 1)[:, None].expand(-1, out), None if degree is None else degree * out
    )


def _wiring(synapses: Wiring, values: np.ndarray, device: torch.device) -> Map:
    """Return the sum of what each target position draws from, in the same order every time."""
    entries = np.repeat(np.arange(len(synapses.offsets) - 1), np.diff(synapses.offsets))
    order = np.argsort(synapses.positions, kind="stable")
    counts = np.bincount(synapses.positions, minlength=synapses.fan_out // synapses.channels).tolist()
    sources, factors = (
        # padded with one position more, which is always 0
        torch.nn.utils.rnn.pad_sequence(
            torch.as_tensor(column[order]).split(counts), batch_first=True, padding_value=beyond
        ).to(device)
        for column, beyond in ((entries, len(synapses.offsets) - 1), (values, 0))
    )

    def wire(x: Tensor) -> Tensor:
        frame = functional.pad(x.unflatten(-1, (-1, synapses.channels)), (0, 0, 0, 1))
        return (frame[:, sources] * factors.to(x)[..., None]).sum(2).flatten(1)

    return wire


def _reach_of_convolution(synapses: Convolution, like: Tensor) -> Connections:
    groups, outs = synapses.groups, synapses.target[0] // synapses.groups
    channels, height, width = synapses.source
    # all channels of a group have the same synapses: one map of ones per group tells who is reached
    ones = _convolution(synapses, like.new_ones((groups, 1, *synapses.kernel)), groups)

    def reach(present: Tensor) -> Tensor:
        per_group = any_of(present.unflatten(-1, (height * width, groups, channels // groups)), -1)
        return (ones(numbers(per_group, like).flatten(1)) > 0.5).repeat_interleave(outs, 1)

    with torch.enable_grad():
        site = like.new_zeros((1, height * width * groups)).requires_grad_()
        (positions,) = torch.autograd.grad(ones(site).sum(), site)
    degree = (positions[0].round().long() * outs).repeat_interleave(channels // groups)
    return Connections(reach, degree)
