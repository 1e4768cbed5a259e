"""The operators between two nodes of a graph as synapses: which weights, which geometry, else a function of rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from snn_async.capture.expression import Expression
from snn_async.capture.folding import Fold
from snn_async.capture.kinds import Kind, is_dropout, shape_of, tensors_in
from snn_async.capture.operators import ADDITIONS, RESHAPES, plain_name
from snn_async.capture.wires import Link, Wires, pair, synapses_of, wires_of
from snn_async.graph.grids import Grid, grid_of, size_of
from snn_async.graph.live import Computed, Derived, Live
from snn_async.graph.synapses import Affine, Convolution, Dense, Normalization, OneToOne, Synapses
from snn_async.graph.synapses.convolution import padding_of


class Lives:
    """The nodes that follow from parameters alone and are read in every run.

    Attributes:
        nodes: in the order of `Computed.index`.
    """

    def __init__(self) -> None:
        self.nodes: dict[Node, int] = {}

    def __call__(self, node: Node) -> Live:
        return Computed(self.nodes.setdefault(node, len(self.nodes)))


class Piece(NamedTuple):
    """What one link does, as far as it is known.

    Attributes:
        kind: "wires", "dense", "conv", "norm", "gain" (one value, one a channel, or one a unit), "constant" (added),
            "mask" (a factor of each sample in each timestep), or "other".
    """

    kind: str
    link: Link
    wires: Wires | None = None


class Segment(NamedTuple):
    """Links that one projection does.

    Attributes:
        constant: what is added to what they give, in torch's order; None for nothing.
        before, after: nodes of masks.
    """

    synapses: Synapses
    constant: Live | None
    before: tuple[Node, ...]
    after: tuple[Node, ...]


class Linker:
    """Makes synapses of links.

    Args:
        values: of the nodes that follow from parameters alone, as they are now.
    """

    def __init__(self, fold: Fold, lives: Lives, values: Mapping[Node, Any]) -> None:
        self.fold, self.lives, self.values = fold, lives, values
        self.kinds = fold.dependencies.kinds
        self._pieces: dict[Link, Piece | None] = {}

    # -- shapes ----------------------------------------------------------------------------------------

    def grid(self, node: Node) -> Grid:
        """Return the grid on which a node's values of one sample lie."""
        shape = self.fold.sample_shape(node)
        return grid_of(shape) or (math.prod(shape), 1, 1)

    def _size(self, node: Node) -> int:
        return math.prod(self.fold.sample_shape(node))

    def _rows_first(self, node: Node) -> bool:
        """Return whether a node's first side counts its rows."""
        return shape_of(node)[:1] == (self.fold.slots(node),)

    # -- pieces ----------------------------------------------------------------------------------------

    def piece(self, link: Link) -> Piece | None:
        """Return what a link does, None if it leaves the values as they are."""
        if link not in self._pieces:
            self._pieces[link] = self._piece(link)
        return self._pieces[link]

    def _piece(self, link: Link) -> Piece | None:
        node = link.node
        name = plain_name(node)
        if self.crosses(link):
            return None
        if is_dropout(node):
            return Piece("mask", link)
        if name in ("dropout", "feature_dropout"):
            return None
        others = [
            n for n in tensors_in((node.args, node.kwargs)) if n is not link.operand and n is not link.through
        ]
        if name in ("mul", "multiply") and any(self.kinds[n] != Kind.LIVE for n in others):
            return Piece("mask", link)
        if name in ADDITIONS and len(tensors_in(node.args)) < 3 and self._is_live(others):
            return self._addition(link)
        if self._is_dense(link):
            return Piece("dense", link)
        if self._is_convolution(node):
            return Piece("conv", link)
        if name == "batch_norm":
            return Piece("norm" if self._rows_first(node) and len(shape_of(node)) > 1 else "other", link)
        if name in ("mul", "multiply", "div", "divide", "true_divide") and others:
            return Piece("gain" if self._is_per_row(others[0], node) else "other", link)
        wires = wires_of(link, self.fold.slots(node), self.values)
        if wires is None:
            return Piece("other", link)
        size = self._size(link.operand)
        if (
            name in RESHAPES
            and wires.sources == wires.targets == size
            and wires.selects
            and (wires.of == wires.to).all()
        ):
            return None
        return Piece("wires", link, wires)

    def _addition(self, link: Link) -> Piece | None:
        """`c - x` is a map with factor -1 and a constant; `Expression` knows it as any other."""
        node, (first, second) = link.node, link.node.args[:2]
        negative = (plain_name(node) == "rsub") or (
            plain_name(node) in ("sub", "subtract") and second is link.operand
        )
        other = second if first is link.operand else first
        if negative or (isinstance(other, Node) and not self._is_per_row(other, node)):
            return Piece("other", link)
        return Piece("constant", link)

    def _is_live(self, nodes: Sequence[Node]) -> bool:
        return all(self.kinds[n] == Kind.LIVE for n in nodes)

    def _is_per_row(self, other: Node, node: Node) -> bool:
        """Return whether a value that broadcasts to a node's is the same for all samples and timesteps."""
        if self.kinds[other] != Kind.LIVE:
            return False
        shape, given = shape_of(node), shape_of(other)
        sides = len(shape) - len(self.fold.sample_shape(node))
        if math.prod(shape[:sides]) != self.fold.slots(node):
            return False
        padded = (1,) * (len(shape) - len(given)) + given
        return len(padded) == len(shape) and all(side == 1 for side in padded[:sides])

    def _is_dense(self, link: Link) -> bool:
        node, name = link.node, plain_name(link.node)
        if name not in ("linear", "matmul", "mm", "addmm"):
            return False
        data, weight = (node.args[1], node.args[2]) if name == "addmm" else (node.args[0], node.args[1])
        if data is not link.operand or not isinstance(weight, Node) or len(shape_of(weight)) != 2:
            return False
        if name == "addmm" and (node.kwargs or not self._is_per_row(node.args[0], node)):
            return False
        return shape_of(data)[-1] == self._size(data)

    def _is_convolution(self, node: Node) -> bool:
        if plain_name(node) not in ("conv1d", "conv2d") or not isinstance(node.args[1], Node):
            return False
        return self._rows_first(node.args[0]) and self._is_live(tensors_in(node.args[1:]))

    def crosses(self, link: Link) -> bool:
        """Return whether a link takes one timestep of all, or stacks them."""
        return self.fold.times[link.node] != self.fold.times[link.operand]

    # -- segments --------------------------------------------------------------------------------------

    def segment(self, start: Node, grid: Grid, links: Sequence[Link]) -> Segment | None:
        """Return the projection that does `links` on what `start` sends, None if no one projection does."""
        pieces = [piece for link in links if (piece := self.piece(link)) is not None]
        constant: list[Piece] = []
        after: list[Node] = []
        before: list[Node] = []
        while pieces and pieces[0].kind == "mask":
            before.append(pieces.pop(0).link.node)
        while pieces and pieces[-1].kind in ("mask", "constant"):
            piece = pieces.pop()
            if piece.kind == "mask" and constant:
                return None  # a mask on a constant
            if piece.kind == "mask":
                after.append(piece.link.node)
            else:
                constant.append(piece)
        if any(piece.kind in ("mask", "constant") for piece in pieces) and not _opaque(pieces):
            return None
        if any(piece.kind == "mask" for piece in pieces):
            return None
        end = links[-1].node if links else start
        synapses = self._synapses(start, grid, pieces, end, links)
        if synapses is None:
            return None
        added = self._constant(constant)
        if added is not None and after:
            return None
        return Segment(synapses, added, tuple(before), tuple(after))

    def _constant(self, pieces: Sequence[Piece]) -> Live | None:
        if not pieces:
            return None
        parts = []
        for piece in pieces:
            node = piece.link.node
            other = node.args[1] if node.args[0] is piece.link.operand else node.args[0]
            factor = float(node.kwargs.get("alpha", 1))
            factor *= -1 if plain_name(node) in ("sub", "subtract") else 1
            parts.append(self._spread(other, node, factor))
        return Derived(lambda *values: torch.stack(torch.broadcast_tensors(*values)).sum(0), tuple(parts))

    def _spread(self, other: Any, node: Node, factor: float) -> Live:
        """Return a value that broadcasts to a node's as one value per unit, in torch's order."""
        shape, slots = shape_of(node), self.fold.slots(node)
        if not isinstance(other, Node):
            size = self._size(node)
            return Derived(lambda: torch.full((size,), factor * float(other), dtype=torch.float64), ())
        return Derived(
            lambda value: (factor * value).expand(shape).reshape(slots, -1)[0], (self.lives(other),)
        )

    def _synapses(
        self, start: Node, grid: Grid, pieces: list[Piece], end: Node, links: Sequence[Link]
    ) -> Synapses | None:
        kinds = [piece.kind for piece in pieces]
        if _opaque(pieces):
            if any(self.crosses(link) for link in links):
                return None
            return self._affine(start, grid, end, links[-1])
        wires = [p.wires for p in pieces if p.wires is not None]
        if all(kind == "wires" for kind in kinds):
            size = self._size(start)
            total = Wires.identity(size)
            for one in wires:
                total = total.then(one)
            name = plain_name(pieces[-1].link.node) if pieces else ""
            return synapses_of(total, grid, self.grid(end), name)
        if kinds in (["norm"], ["gain"]):
            return self._pointwise(grid, pieces[0])
        if "dense" in kinds:
            return self._dense(grid, pieces)
        if kinds and kinds[0] == "conv" and kinds[1:] in ([], ["norm"]):
            return self._convolution(grid, pieces)
        return None

    def _pointwise(self, grid: Grid, piece: Piece) -> Synapses | None:
        node = piece.link.node
        if piece.kind == "norm":
            if self.grid(node) != grid:
                return None
            return OneToOne(grid, norm=self._norm(node))
        other = node.args[1] if node.args[0] is piece.link.operand else node.args[0]
        inverse = plain_name(node) in ("div", "divide", "true_divide")
        if inverse and other is node.args[0]:
            return None
        assert isinstance(other, Node)
        one = math.prod(shape_of(other)) == 1
        value = self.lives(other) if one else self._spread(other, node, 1.0)
        gain = Derived(lambda v: 1 / v, (value,)) if inverse else value
        return OneToOne(grid, gain=gain, count=1 if one else size_of(grid))

    def _norm(self, node: Node) -> Normalization:
        weight, bias, mean, var = (self.lives(n) if isinstance(n, Node) else None for n in node.args[1:5])
        assert mean is not None and var is not None
        return Normalization(weight, bias, mean, var, float(node.args[7]))

    def _dense(self, grid: Grid, pieces: list[Piece]) -> Synapses | None:
        weight: Live | None = None
        bias: Live | None = None
        norm: Normalization | None = None
        selected: Wires | None = None
        out = 0
        for piece in pieces:
            if norm is not None:
                return None
            if piece.kind == "wires" and weight is None:
                assert piece.wires is not None
                selected = piece.wires if selected is None else selected.then(piece.wires)
                if not selected.selects:
                    return None
            elif piece.kind == "dense":
                own, own_bias = self._layer(piece.link.node)
                out = shape_of(piece.link.node)[-1]
                if weight is None:
                    weight = own if selected is None else _columns(own, selected)
                    bias = own_bias
                else:
                    weight = Derived(torch.matmul, (own, weight))
                    carried = None if bias is None else Derived(torch.mv, (own, bias))
                    bias = (
                        own_bias
                        if carried is None
                        else carried
                        if own_bias is None
                        else Derived(torch.add, (carried, own_bias))
                    )
            elif piece.kind == "norm":
                norm = self._norm(piece.link.node)
            else:
                return None
        assert weight is not None
        return Dense(weight, bias, grid, out, norm)

    def _layer(self, node: Node) -> tuple[Live, Live | None]:
        """Return weight (out, in) and bias (out,) of a product."""
        name = plain_name(node)
        if name == "linear":
            bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
            return self.lives(node.args[1]), self.lives(bias) if isinstance(bias, Node) else None
        if name == "addmm":
            added = self._spread(node.args[0], node, 1.0)
            return Derived(torch.t, (self.lives(node.args[2]),)), added
        return Derived(torch.t, (self.lives(node.args[1]),)), None

    def _convolution(self, grid: Grid, pieces: list[Piece]) -> Synapses | None:
        node = pieces[0].link.node
        shape = shape_of(node.args[0])
        if grid_of(shape[1:]) != grid:
            return None
        named = dict(
            zip(
                ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
                node.args,
                strict=False,
            )
        )
        named |= node.kwargs
        weight_shape = shape_of(named["weight"])
        dims = len(weight_shape) - 2
        dilation = pair(named.get("dilation", 1), dims, 1)
        kernel = pair(list(weight_shape[2:]), dims, 1)
        bias, padding = named.get("bias"), named.get("padding", 0)
        return Convolution(
            weight=self.lives(named["weight"]),
            bias=self.lives(bias) if isinstance(bias, Node) else None,
            source=grid,
            stride=pair(named.get("stride", 1), dims, 1),
            padding=padding_of(
                padding if isinstance(padding, str) else pair(padding, dims, 0), kernel, dilation
            ),
            dilation=dilation,
            groups=int(named.get("groups", 1)),
            weight_shape=weight_shape,
            norm=self._norm(pieces[1].link.node) if len(pieces) > 1 else None,
        )

    def _affine(self, start: Node, grid: Grid, end: Node, last: Link) -> Synapses:
        expression = self.expression(end, [start])
        name = plain_name(last.node)
        live = tuple(self.lives(n) for n in expression.lives)
        return Affine(expression, live, grid, self.grid(end), name)

    def expression(self, end: Node, sources: Sequence[Node]) -> Expression:
        """Return what leads from `sources` to a node as a function of rows.

        Raises:
            UnsupportedModelError: if a row's result depends on other rows.
        """
        leaves = [n for n, kind in self.kinds.items() if kind == Kind.LIVE]
        found = Expression(end, sources, leaves, self.fold.slots(end), self.fold.recording.place(end))
        values = [self.values[n] for n in found.lives]
        like = next(
            (v for v in values if isinstance(v, Tensor) and v.is_floating_point()),
            torch.zeros((), dtype=torch.float64),
        )
        found.check(values, like)
        return found


def _opaque(pieces: Sequence[Piece]) -> bool:
    return any(piece.kind == "other" for piece in pieces)


def _columns(weight: Live, wires: Wires) -> Live:
    """Return the weight (out, n) of values that are moved before a layer takes them."""
    of, to, n = torch.from_numpy(wires.of), torch.from_numpy(wires.to), wires.sources

    def moved(value: Tensor) -> Tensor:
        return value.new_zeros((len(value), n)).index_copy(
            1, of.to(value.device), value[:, to.to(value.device)]
        )

    return Derived(moved, (weight,))
