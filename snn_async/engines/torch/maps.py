"""What projections do with a batch of events: linear maps on any device, and who is reached.

The maps take their weights from `Values`, so autograd sees them; `Affine` synapses are called with the parameters of
`Values`. Who is reached depends on the graph alone and is kept for each device.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from snn_async.engines.contract import Values
from snn_async.engines.torch.device import any_of, numbers
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of
from snn_async.graph.parameters import dealt
from snn_async.graph.synapses import Affine, Convolution, Dense, OneToOne, Synapses, Wiring

Wire = Callable[[Tensor], Tensor]
KINDS = (Dense, Convolution, OneToOne, Wiring, Affine)


@dataclass(frozen=True)
class Connections:
    """Who a projection reaches, whatever its weights.

    Attributes:
        reach: from which of its sources deliver (R, fan_in) to which of its targets are reached (R, fan_out), bool.
        degree: (fan_in,) int64, synapses of each source; None where they cost no synaptic operation.
        wiring: what a `Wiring` makes of values, and its transpose; None for other synapses.
    """

    reach: Wire
    degree: Tensor | None
    wiring: tuple[Wire, Wire] | None = None


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


class Map:
    """What one projection makes of amounts, without any bias: linear, differentiable, and its transpose.

    Attributes:
        weights: adjoint of its packed weights, as far as `pull` has added to it; None for nothing.
        live: the same of its live tensors, for `Affine` synapses.
    """

    def __init__(self, synapses: Synapses, packed: Tensor) -> None:
        self.synapses, self.packed = synapses, packed
        self.weights: Tensor | None = None
        self.live: tuple[Tensor | None, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the currents (R, fan_out) of amounts (R, fan_in)."""
        raise NotImplementedError

    def back(self, adjoint: Tensor) -> Tensor:
        """Return the adjoint (R, fan_in) of amounts, given that of their currents (R, fan_out)."""
        raise NotImplementedError

    def credit(self, amounts: Tensor, adjoint: Tensor) -> Tensor:
        """Return the adjoint of the packed weights, given amounts (R, fan_in) and the adjoint of their currents."""
        raise NotImplementedError

    def pull(self, amounts: Tensor | None, adjoint: Tensor, wanted: bool) -> Tensor | None:
        """Add to the adjoint of the weights, and return that of the amounts if it is `wanted`.

        Args:
            amounts: (R, fan_in); None where they are 0.
            adjoint: (R, fan_out), of their currents.
        """
        if amounts is not None and len(self.packed):
            found = self.credit(amounts, adjoint)
            self.weights = found if self.weights is None else self.weights + found
        return self.back(adjoint) if wanted else None


class _Dense(Map):
    def __init__(self, synapses: Dense, packed: Tensor) -> None:
        super().__init__(synapses, packed)
        self.matrix = packed.view(synapses.fan_in, synapses.fan_out)

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.matrix

    def back(self, adjoint: Tensor) -> Tensor:
        return adjoint @ self.matrix.T

    def credit(self, amounts: Tensor, adjoint: Tensor) -> Tensor:
        return (amounts.T @ adjoint).flatten()


class _OneToOne(Map):
    def __call__(self, x: Tensor) -> Tensor:
        count = len(self.packed)
        return (x.unflatten(-1, (-1, count)) * self.packed).flatten(-2) if count else x

    def back(self, adjoint: Tensor) -> Tensor:
        return self(adjoint)

    def credit(self, amounts: Tensor, adjoint: Tensor) -> Tensor:
        return (amounts * adjoint).view(-1, len(self.packed)).sum(0)


class _Fixed(Map):
    def __init__(self, synapses: Wiring, packed: Tensor, there: Wire, back: Wire) -> None:
        super().__init__(synapses, packed)
        self.there, self.transposed = there, back

    def __call__(self, x: Tensor) -> Tensor:
        return self.there(x)

    def back(self, adjoint: Tensor) -> Tensor:
        return self.transposed(adjoint)


class _Convolution(Map):
    """A kernel (out channels, in channels of a group, height, width).

    Args:
        kernel: that of the packed weights if None.
        groups: channels in, if it is one kernel per group.
    """

    def __init__(
        self, synapses: Convolution, packed: Tensor, kernel: Tensor | None = None, groups: int | None = None
    ) -> None:
        super().__init__(synapses, packed)
        if kernel is None:
            kernel = packed.view(synapses.packed_shape).permute(0, 4, 1, 2, 3).flatten(0, 1)
        self.shape, (_, self.height, self.width) = synapses.packed_shape, synapses.source
        top, bottom, left, right = synapses.padding
        symmetric = top == bottom and left == right
        self.kernel, self.sides = kernel, None if symmetric else (left, right, top, bottom)
        self.options: Any = dict(
            stride=synapses.stride,
            padding=(top, left) if symmetric else (0, 0),
            dilation=synapses.dilation,
            groups=groups or synapses.groups,
        )

    def _frame(self, x: Tensor) -> Tensor:
        # units are numbered with the channel fastest, which is torch's channels_last without moving anything
        frame = x.unflatten(-1, (self.height, self.width, -1)).permute(0, 3, 1, 2)
        return functional.pad(frame, self.sides) if self.sides else frame

    def _targets(self, adjoint: Tensor) -> Tensor:
        return adjoint.unflatten(-1, (*self.synapses.target[1:], -1)).permute(0, 3, 1, 2)

    def __call__(self, x: Tensor) -> Tensor:
        result = functional.conv2d(self._frame(x), self.kernel, None, **self.options)
        return result.permute(0, 2, 3, 1).flatten(1)

    def back(self, adjoint: Tensor) -> Tensor:
        left, right, top, bottom = self.sides or (0, 0, 0, 0)
        height, width = self.height + top + bottom, self.width + left + right
        shape = (len(adjoint), self.kernel.shape[1] * self.options["groups"], height, width)
        frame = conv2d_input(shape, self.kernel, self._targets(adjoint), **self.options)
        frame = frame[:, :, top : height - bottom, left : width - right]
        return frame.permute(0, 2, 3, 1).flatten(1)

    def credit(self, amounts: Tensor, adjoint: Tensor) -> Tensor:
        groups, ins, height, width, outs = self.shape
        kernel = conv2d_weight(
            self._frame(amounts), self.kernel.shape, self._targets(adjoint), **self.options
        )
        return kernel.reshape(groups, outs, ins, height, width).permute(0, 2, 3, 4, 1).flatten()


class _Affine(Map):
    """The linear part of an affine function; what it makes of zeros is computed once."""

    def __init__(self, synapses: Affine, packed: Tensor, given: Sequence[Tensor]) -> None:
        super().__init__(synapses, packed)
        self.function, self.given = synapses.call, tuple(given)
        self.constant: Tensor | None = None
        self.live = tuple(torch.zeros_like(one) if one.is_floating_point() else None for one in given)

    def __call__(self, x: Tensor) -> Tensor:
        if self.constant is None:
            self.constant = self.function(torch.zeros_like(x[:1]), self.given)
        return self.function(x, self.given) - self.constant

    def pull(self, amounts: Tensor | None, adjoint: Tensor, wanted: bool) -> Tensor | None:
        with torch.enable_grad():
            live = [one.detach().requires_grad_(one.is_floating_point()) for one in self.given]
            x = adjoint.new_zeros((len(adjoint), self.synapses.fan_in)) if amounts is None else amounts
            x = x.detach().requires_grad_(wanted)
            leaves = [one for one in live if one.requires_grad and amounts is not None]
            results, adjoints = [self.function(x, live)], [adjoint]
            if leaves:
                results.append(self.function(torch.zeros_like(x[:1]), live))
                adjoints.append(-adjoint.sum(0, keepdim=True))
            leaves += [x] if wanted else []
            if not leaves:
                return None
            found = iter(
                torch.autograd.grad(results, leaves, adjoints, allow_unused=True, materialize_grads=True)
            )
        if amounts is not None:
            self.live = tuple(None if one is None else one + next(found) for one in self.live)
        return next(found) if wanted else None


def current_maps(graph: Graph, values: Values) -> list[Map]:
    """Return for every projection the map from amounts (R, fan_in) to currents (R, fan_out), without any bias."""
    maps: list[Map] = []
    starts, (live, _) = layout_of(graph).weight_start.tolist(), dealt(graph, values.parameters)
    connections = connections_of(graph, values.weights.device)
    for projection, connection, first, own in zip(graph.projections, connections, starts, live, strict=True):
        synapses = projection.synapses
        packed = values.weights[first : first + synapses.weight_count]
        if isinstance(synapses, Affine):
            maps.append(_Affine(synapses, packed, own))
        elif isinstance(synapses, Wiring):
            assert connection.wiring is not None
            maps.append(_Fixed(synapses, packed, *connection.wiring))
        else:
            maps.append(_KNOWN[type(synapses)](synapses, packed))
    return maps


_KNOWN: dict[type, Any] = {Dense: _Dense, Convolution: _Convolution, OneToOne: _OneToOne}
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
        entries = np.repeat(np.arange(len(synapses.offsets) - 1), np.diff(synapses.offsets))
        positions, values = synapses.positions, synapses.values
        ins, outs = synapses.fan_in // synapses.channels, synapses.fan_out // synapses.channels

        def wire(of: np.ndarray, to: np.ndarray, sides: tuple[int, int], values: np.ndarray) -> Wire:
            return _wire(of, to, sides, values, synapses.channels, device)

        reach = wire(entries, positions, (ins, outs), values != 0)
        there = wire(entries, positions, (ins, outs), values)
        back = wire(positions, entries, (outs, ins), values)
        return Connections(lambda present: reach(present.float()) > 0, degree, (there, back))
    out = synapses.fan_out
    return Connections(
        lambda present: any_of(present, 1)[:, None].expand(-1, out), None if degree is None else degree * out
    )


def _wire(
    of: np.ndarray,
    to: np.ndarray,
    sides: tuple[int, int],
    values: np.ndarray,
    channels: int,
    device: torch.device,
) -> Wire:
    """Return the sum of what each target position draws from, in the same order every time."""
    sources, targets = sides
    every = np.arange(targets)
    if sources == targets and all(
        np.array_equal(x, y) for x, y in ((of, every), (to, every), (values, every >= 0))
    ):
        return lambda x: x
    order, counts = np.argsort(to, kind="stable"), np.bincount(to, minlength=targets)
    drawn, factors = (
        # padded with any position, which counts for nothing
        torch.nn.utils.rnn.pad_sequence(
            torch.as_tensor(column[order]).split(counts.tolist()), batch_first=True
        ).to(device)
        for column in (of, values.astype(np.float64))
    )
    plain = bool((factors == 1).all())

    def wire(x: Tensor) -> Tensor:
        frame = x.unflatten(-1, (-1, channels))
        found = frame.index_select(1, drawn.flatten()).unflatten(1, drawn.shape)
        found = found if plain else found * factors.to(x)[..., None]
        return (found.sum(2) if drawn.shape[1] != 1 else found[:, :, 0]).flatten(1)

    return wire


def _reach_of_convolution(synapses: Convolution, like: Tensor) -> Connections:
    groups, outs = synapses.groups, synapses.target[0] // synapses.groups
    channels, height, width = synapses.source
    # all channels of a group have the same synapses: one map of ones per group tells who is reached
    ones = _Convolution(synapses, like, like.new_ones((groups, 1, *synapses.kernel)), groups)

    def reach(present: Tensor) -> Tensor:
        per_group = any_of(present.unflatten(-1, (height * width, groups, channels // groups)), -1)
        return (ones(numbers(per_group, like).flatten(1)) > 0.5).repeat_interleave(outs, 1)

    target = math.prod(synapses.target[1:]) * groups
    positions = ones.back(like.new_ones((1, target)))
    degree = (positions[0].round().long() * outs).repeat_interleave(channels // groups)
    return Connections(reach, degree)
