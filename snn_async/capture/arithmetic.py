"""Sums, products and pooling by functions: what they make of expressions."""

import math
from dataclasses import replace
from typing import Any

from torch import fx

from snn_async.capture.expressions import Applied, Complement, Constant, Expression, Product, Sum
from snn_async.capture.layers import Reference, ScaleLayer
from snn_async.capture.modules import adaptive_output, check_indices, upsampling
from snn_async.capture.operations import Operations
from snn_async.capture.pooling import AdaptivePoolLayer, PoolLayer, pair


class Arithmetic(Operations):
    """`Operations` plus arithmetic and pooling."""

    def _op_add(self, node: fx.Node, a: Any, b: Any, *, alpha: float = 1) -> Expression:
        for number, other in ((a, b), (b, a)):
            if _is_number(number) and number == 0:
                return self._expression(node, other)  # sum() starts from 0
        parts = (self._addend(node, a), self._addend(node, b))
        return self._sum(node, parts[0], self._scaled(node, parts[1], alpha))

    def _op_sub(self, node: fx.Node, a: Any, b: Any, *, alpha: float = 1) -> Any:
        if getattr(node.target, "__name__", node.target) == "rsub":
            a, b = b, a
        if _is_number(a) and a == 1 and alpha == 1:
            return Complement(self._expression(node, b))
        self._refuse(
            node,
            "subtractions are not supported except in x * (1 - y); negate the weights of the layer before it and add",
        )

    def _op_mul(self, node: fx.Node, a: Any, b: Any) -> Expression:
        if _is_number(a) or _is_number(b):
            number, value = (a, b) if _is_number(a) else (b, a)
            return self._scaled(node, self._expression(node, value), number)
        if isinstance(a, Complement):
            a, b = b, a
        name, place = self._label(node, "mul"), self._place(node)
        if isinstance(b, Complement):
            return Product("iand", (self._expression(node, a), b.operand), name, place)
        return Product("and", (self._addend(node, a), self._addend(node, b)), name, place)

    def _op_div(self, node: fx.Node, a: Any, b: Any) -> Expression:
        if not _is_number(b) or b == 0:
            self._refuse(node, "only divisions by a number are supported; currents of events must add up")
        return self._scaled(node, self._expression(node, a), 1 / b)

    def _sum(self, node: fx.Node, *parts: Expression) -> Expression:
        return Sum(parts, self._label(node, "add"), self._place(node))

    def _addend(self, node: fx.Node, value: Any) -> Expression:
        if _is_number(value) or isinstance(value, Constant):
            self._refuse(
                node,
                "a constant in a sum or product is no event; use the bias or the weights of the layer before it",
            )
        return self._expression(node, value)

    def _scaled(self, node: fx.Node, value: Expression, factor: float) -> Expression:
        if not _is_number(factor):
            self._refuse(node, f"alpha={factor!r} is no number; use alpha=1")
        if not math.isfinite(factor):
            self._refuse(node, f"the factor {factor!r} is not finite; multiply by a finite number")
        if factor == 1:
            return value
        return Applied(ScaleLayer(self._label(node, "mul"), self._place(node), float(factor)), value)

    # -- pooling ---------------------------------------------------------------------------------------

    def _op_max_pool1d(self, node: fx.Node, value: Any, *args: Any, **kwargs: Any) -> Expression:
        return self._max_pool(node, 1, value, *args, **kwargs)

    def _op_max_pool2d(self, node: fx.Node, value: Any, *args: Any, **kwargs: Any) -> Expression:
        return self._max_pool(node, 2, value, *args, **kwargs)

    def _max_pool(
        self,
        node: fx.Node,
        sides: int,
        value: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Expression:
        check_indices(self._place(node), return_indices)
        kernel = pair(kernel_size, sides)
        layer = PoolLayer(
            self._label(node, f"max_pool{sides}d"),
            self._place(node),
            sides,
            "max",
            kernel,
            kernel if stride in (None, [], ()) else pair(stride, sides),
            pair(padding, sides, 0),
            pair(dilation, sides),
            ceil_mode,
        )
        return self._frames(node, layer, value)

    def _op_avg_pool1d(self, node: fx.Node, value: Any, *args: Any, **kwargs: Any) -> Expression:
        return self._average_pool(node, 1, value, *args, **kwargs)

    def _op_avg_pool2d(self, node: fx.Node, value: Any, *args: Any, **kwargs: Any) -> Expression:
        return self._average_pool(node, 2, value, *args, **kwargs)

    def _average_pool(
        self,
        node: fx.Node,
        sides: int,
        value: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Expression:
        kernel = pair(kernel_size, sides)
        layer = PoolLayer(
            self._label(node, f"avg_pool{sides}d"),
            self._place(node),
            sides,
            "average",
            kernel,
            kernel if stride in (None, [], ()) else pair(stride, sides),
            pair(padding, sides, 0),
            ceil=ceil_mode,
            include_padding=count_include_pad,
            divisor=divisor_override,
        )
        return self._frames(node, layer, value)

    def _op_adaptive_avg_pool1d(self, node: fx.Node, value: Any, output_size: Any) -> Expression:
        return self._adaptive(node, 1, "average", value, output_size)

    def _op_adaptive_avg_pool2d(self, node: fx.Node, value: Any, output_size: Any) -> Expression:
        return self._adaptive(node, 2, "average", value, output_size)

    def _op_adaptive_max_pool1d(
        self, node: fx.Node, value: Any, output_size: Any, return_indices: bool = False
    ) -> Expression:
        check_indices(self._place(node), return_indices)
        return self._adaptive(node, 1, "max", value, output_size)

    def _op_adaptive_max_pool2d(
        self, node: fx.Node, value: Any, output_size: Any, return_indices: bool = False
    ) -> Expression:
        check_indices(self._place(node), return_indices)
        return self._adaptive(node, 2, "max", value, output_size)

    def _adaptive(self, node: fx.Node, sides: int, kind: Any, value: Any, size: Any) -> Expression:
        name = self._label(node, f"adaptive_{kind[:3]}_pool{sides}d")
        layer = AdaptivePoolLayer(name, self._place(node), sides, kind, adaptive_output(size, sides))
        return self._frames(node, layer, value)

    def _op_interpolate(
        self,
        node: fx.Node,
        value: Any,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: Any = None,
        recompute_scale_factor: Any = None,
        antialias: bool = False,
    ) -> Expression:
        layer = upsampling(self._label(node, "interpolate"), self._place(node), size, scale_factor)
        if mode != "nearest" or layer is None:
            self._refuse(
                node, "only mode='nearest' by a whole factor is supported; use an nn.Upsample module"
            )
        return self._frames(node, layer, value)

    def _frames(self, node: fx.Node, layer: Any, value: Any) -> Expression:
        if self.multi_step and node.meta["container"] is None:
            self._refuse(
                node,
                "it gets (T, N, ...) but takes (N, ...); use the module of spikingjelly.activation_based.layer",
            )
        if not node.args or node.all_input_nodes != [node.args[0]]:  # sizes that are not known yet
            return Applied(layer, self._expression(node, value))
        settings = [*map(repr, node.args[1:]), *(f"{key}={option!r}" for key, option in node.kwargs.items())]
        function: Any = node.target
        reference = Reference(lambda x: function(x, *node.args[1:], **node.kwargs), ", ".join(settings))
        return Applied(replace(layer, reference=reference), self._expression(node, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
