"""Parts of a recorded graph as functions of rows, one for each sample in each timestep, independent of the others."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from snn_async.capture.kinds import SHAPE_ONLY, is_random, name_of, tensors_in, value_of
from snn_async.capture.operators import RESHAPES, plain_name
from snn_async.capture.recording import FUNCTION
from snn_async.errors import UnsupportedModelError

Values = dict[Node, Any]


def run_node(node: Node, values: Mapping[Node, Any], given: tuple[Any, ...] | None = None) -> Any:
    """Return what a node's operator gives for the values of its operands.

    Args:
        given: other arguments than it was recorded with.
    """
    inputs = (node.args if given is None else given, node.kwargs)
    if name_of(node) == "batch_norm":  # whose running statistics take no gradient
        args, kwargs = map_arg(inputs, values.__getitem__)
        args = (*args[:3], *(None if value is None else value.detach() for value in args[3:5]), *args[5:])
    elif name_of(node) in SHAPE_ONLY:
        args, kwargs = map_arg(inputs, lambda n: values[n] if n in values else _blank(n))
    else:
        args, kwargs = map_arg(inputs, values.__getitem__)
    if node.target is FUNCTION:
        return node.meta["function"].apply(args[0])
    with torch.set_grad_enabled(torch.is_grad_enabled() and not node.meta["no_grad"]):
        return node.target(*args, **kwargs)


def _blank(node: Node) -> Tensor:
    """Return a tensor of a node's shape, of which nobody reads the values."""
    value = value_of(node)
    return torch.zeros((), dtype=value.dtype, device=value.device).expand(value.shape)


class Expression:
    """What leads from some nodes to another, as a function of rows.

    Attributes:
        sources: the nodes that it begins with; their rows are concatenated, each in torch's order.
        lives: nodes whose values are given besides.
        slots: rows that the recorded operators take at once: B, or T * B of a sequence.
    """

    def __init__(
        self, node: Node, sources: Sequence[Node], leaves: Iterable[Node], slots: int, place: str
    ) -> None:
        self.node, self.sources, self.slots, self._place = node, tuple(sources), slots, place
        self._shapes = [tuple(value_of(source).shape) for source in self.sources]
        self.sizes = [self._per_row(math.prod(shape)) for shape in self._shapes]
        self._rows_out = self._per_row(math.prod(value_of(node).shape))
        ends, order, seen = {*leaves, *self.sources}, [], set()
        lives: list[Node] = []

        def visit(n: Node) -> None:
            if n in seen:
                return
            seen.add(n)
            if n in ends:
                if n not in self.sources:
                    lives.append(n)
                return
            for operand in tensors_in((n.args, n.kwargs)):
                visit(operand)
            order.append(n)

        visit(node)
        drawn = next((n for n in order if is_random(n)), None)
        if drawn is not None:
            raise UnsupportedModelError(
                f"{place}: {name_of(drawn)} draws random numbers within an operator between neurons that is called "
                "whenever events need it; call model.eval(), set its rate to 0, or put it on spikes"
            )
        self._order, self.lives, self._any_rows = order, tuple(lives), False

    def _per_row(self, count: int) -> int:
        if count % self.slots:
            raise UnsupportedModelError(
                f"{self._place}: a tensor of {count} values between neurons is not of {self.slots} samples and "
                "timesteps each by itself; keep the batch (and time) in front"
            )
        return count // self.slots

    def __call__(self, rows: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Return (R, m) for rows (R, n), and the values of `lives`."""
        given = dict(zip(self.lives, values, strict=True))
        if self._any_rows:
            return self._at_once(rows, given)
        results = [self._block(block, given) for block in rows.split(self.slots)]
        return torch.cat(results) if len(results) != 1 else results[0]

    def _block(self, rows: Tensor, given: Values) -> Tensor:
        count = len(rows)
        if count < self.slots:
            rows = torch.cat((rows, rows.new_zeros((self.slots - count, rows.shape[1]))))
        env = dict(given)
        for source, shape, part in zip(self.sources, self._shapes, rows.split(self.sizes, 1), strict=True):
            env[source] = part.reshape(shape).to(value_of(source).dtype)
        for node in self._order:
            env[node] = run_node(node, env)
        return env[self.node].reshape(self.slots, self._rows_out)[:count].to(rows.dtype)

    def _at_once(self, rows: Tensor, given: Values) -> Tensor:
        """The same, with the sizes that operators were given fitted to R rows, as one timestep of R samples."""
        count, env = len(rows), dict(given)
        for source, shape, part in zip(self.sources, self._shapes, rows.split(self.sizes, 1), strict=True):
            env[source] = part.reshape(self._fitted(shape, count)).to(value_of(source).dtype)
        for node in self._order:
            args = (
                tuple(self._fitted(arg, count) for arg in node.args) if plain_name(node) in RESHAPES else None
            )
            env[node] = run_node(node, env, args)
        return env[self.node].reshape(count, self._rows_out).to(rows.dtype)

    def _fitted(self, sizes: Any, count: int) -> Any:
        """Return a list of sizes that begins with those of timesteps and samples, or of both as one, for `count`."""
        if not isinstance(sizes, list | tuple) or not all(isinstance(size, int) for size in sizes):
            return sizes
        if sizes[:1] in ([self.slots], (self.slots,)):
            return [count, *sizes[1:]]
        return [1, count, *sizes[2:]] if math.prod(sizes[:2]) == self.slots and len(sizes) > 1 else sizes

    def _fits(self, values: Sequence[Tensor], like: Tensor) -> bool:
        """Return whether any number of rows can be computed at once: whether that gives the same."""
        generator = torch.Generator().manual_seed(1)
        rows = torch.randn((self.slots + 1, sum(self.sizes)), generator=generator, dtype=torch.float64).to(
            like
        )
        given = dict(zip(self.lives, values, strict=True))
        tolerance = 1e-10 if like.dtype == torch.float64 else 1e-4
        with torch.no_grad():
            expected = self(rows, values)
            for count in (1, self.slots + 1):
                try:
                    found = self._at_once(rows[:count], given)
                except (RuntimeError, IndexError, ValueError, TypeError):
                    return False
                scale = 1 + float(expected.abs().max()) if expected.numel() else 1.0
                part = expected[:count]
                if not torch.allclose(found, part, rtol=0, atol=tolerance * scale, equal_nan=True):
                    return False
        return True

    def check(self, values: Sequence[Tensor], like: Tensor) -> None:
        """Raise UnsupportedModelError unless each row gives its own result, whatever the others are."""
        if self.slots > 1:
            self._check_rows(values, like)
        self._any_rows = self._fits(values, like)

    def _check_rows(self, values: Sequence[Tensor], like: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (self.slots, sum(self.sizes))
        one, other = (torch.randn(shape, generator=generator, dtype=torch.float64).to(like) for _ in range(2))
        other = 50 * other + 30  # what depends on other rows depends on these
        other[0] = one[-1]
        order = torch.randperm(self.slots, generator=generator)
        with torch.no_grad():
            every, moved = self(one, values).double(), self(one[order], values).double()
            alone = self(other, values)[:1].double()
        expected, found = torch.cat((every[order], every[-1:])), torch.cat((moved, alone))
        scale = 1 + float(expected.abs().max()) if expected.numel() else 1.0
        tolerance = 1e-9 if like.dtype == torch.float64 else 1e-3
        if not torch.allclose(expected, found, rtol=0, atol=tolerance * scale, equal_nan=True):
            raise UnsupportedModelError(
                f"{self._place}: what is computed there between neurons for one sample in one timestep depends on "
                "other samples or timesteps; neurons that wait for nobody cannot know those. In BatchNorm use eval(), "
                "statistics over time belong behind the last neuron"
            )
