"""All projections' packed weights as one vector, differentiable.

On the CPU it is filled in blocks that torch handles on one thread: its threads would go on spinning for milliseconds
beside an engine's own, and their number would show in the last bits of a scale's gradient.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from snn_async.graph.synapses import Packing

BLOCK = 32_768  # elements, up to which torch uses one thread


def packed(packings: Sequence[Packing], like: Tensor) -> Tensor:
    """Return (W,) weights, one packing after another, with the dtype and device of `like`."""
    layouts = [(packing.shape, packing.axes) for packing in packings]
    tensors: list[Tensor | None] = []
    for packing in packings:
        tensors += [packing.weight.to(like), None if packing.scale is None else packing.scale.to(like)]
    return _Pack.apply(like, layouts, *tensors)


def finite(values: Tensor) -> bool:
    """Return whether all values of (W,) are finite."""
    # a sum is finite unless a value is not, or the sum overflows
    size = BLOCK if values.device.type == "cpu" else max(1, len(values))
    sums = [part.sum() for part in values.detach().split(size)]
    return not sums or bool(torch.stack(sums).isfinite().all()) or bool(values.isfinite().all())


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        like: Tensor,
        layouts: list[tuple[tuple[int, ...], tuple[int, ...]]],
        *tensors: Tensor | None,
    ) -> Tensor:
        ctx.layouts = layouts
        ctx.save_for_backward(*tensors)
        found = like.new_empty(sum(weight.numel() for weight in tensors[::2] if weight is not None))
        rest = found
        for (shape, axes), weight, scale in zip(layouts, tensors[::2], tensors[1::2], strict=True):
            assert weight is not None
            rows = weight.reshape(shape).permute(axes)
            out, rest = rest[: weight.numel()].view(rows.shape), rest[weight.numel() :]
            _fill(out, rows, scale)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads: list[Tensor | None] = []
        tensors, rest = ctx.saved_tensors, grad
        for k, (shape, axes) in enumerate(ctx.layouts):
            weight, scale = tensors[2 * k : 2 * k + 2]
            rows = weight.reshape(shape).permute(axes)
            part, rest = rest[: weight.numel()].view(rows.shape), rest[weight.numel() :]
            needs_weight, needs_scale = ctx.needs_input_grad[2 + 2 * k : 4 + 2 * k]
            back = torch.empty_like(weight, memory_format=torch.contiguous_format) if needs_weight else None
            if back is not None:
                _fill(back.view(shape).permute(axes), part, scale)
            grads += [back, _to_scale(part, rows, scale) if needs_scale else None]
        return (None, None, *grads)


def _fill(out: Tensor, values: Tensor, scale: Tensor | None) -> None:
    """Write values times scale, which broadcasts."""
    for at in _blocks(out):
        if scale is None:
            out[at].copy_(values[at])
        else:
            torch.mul(values[at], scale.expand(values.shape)[at], out=out[at])


def _to_scale(part: Tensor, rows: Tensor, scale: Tensor) -> Tensor:
    total = torch.zeros_like(scale).view((1,) * (rows.dim() - scale.dim()) + tuple(scale.shape))
    for at in _blocks(rows):
        here = tuple(index if size > 1 else slice(None) for index, size in zip(at, total.shape, strict=True))
        total[here] += (part[at] * rows[at]).sum_to_size(total[here].shape)
    return total.view(scale.shape)


def _blocks(like: Tensor) -> Iterator[tuple[slice, ...]]:
    """Return places of up to BLOCK elements, cut along the longest side; one place on other devices than the CPU."""
    whole = (slice(None),) * like.dim()
    if like.device.type != "cpu" or like.numel() <= BLOCK:
        yield whole
        return
    side = max(range(like.dim()), key=lambda i: like.shape[i])
    count = max(1, BLOCK * like.shape[side] // like.numel())
    for first in range(0, like.shape[side], count):
        yield (*whole[:side], slice(first, first + count), *whole[side + 1 :])
