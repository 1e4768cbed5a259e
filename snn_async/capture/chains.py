"""Which layers, one after another, become one projection."""

from collections import Counter
from typing import Any, NamedTuple

from snn_async.capture.expressions import Applied, Expression, Product, operands, parts_of
from snn_async.capture.folding import Step
from snn_async.capture.layers import ConvolutionLayer, FlattenLayer, Form, LinearLayer, NormLayer, Operation
from snn_async.capture.opaque import OpaqueLayer
from snn_async.capture.pooling import AdaptivePoolLayer, PoolLayer
from snn_async.errors import UnsupportedModelError
from snn_async.graph.synapses import Convolution, Normalization, Synapses

Uses = Counter[Expression]


class Chain(NamedTuple):
    """Layers that become one projection: Linears in order or another layer, then perhaps a BatchNorm."""

    layers: tuple[Operation, ...]
    norm: NormLayer | None
    source: Expression

    @property
    def name(self) -> str:
        return "+".join(layer.name for layer in (*self.layers, *([self.norm] if self.norm else [])))

    def synapses(self, form: Form) -> Synapses:
        """Return the synapses from features of a form."""
        norm = None if self.norm is None else Normalization(self.norm.module)
        first = self.layers[0]
        if isinstance(first, LinearLayer):
            modules = tuple(layer.module for layer in self.layers if isinstance(layer, LinearLayer))
            return first.dense(modules, form, norm)
        if isinstance(first, ConvolutionLayer):
            return Convolution(first.module, form.grid, norm)
        return first.synapses(form)


def chain_of(expression: Applied, uses: Uses) -> Chain:
    """Return the layers that fold into one projection, from the innermost, and what they are applied to."""
    layer, inner = expression.operation, expression.operand
    norm = None
    if isinstance(layer, NormLayer) and _folds(inner, LinearLayer | ConvolutionLayer, uses):
        assert isinstance(inner, Applied)
        norm, layer, inner = layer, inner.operation, inner.operand
    layers = [layer]
    while isinstance(layer, LinearLayer) and _folds(inner, LinearLayer, uses):
        assert isinstance(inner, Applied) and isinstance(inner.operation, LinearLayer)
        if layer.columns is not None or inner.operation.biased != layer.biased:
            break
        layer, inner = inner.operation, inner.operand
        layers = [layer, *layers]
    return Chain(tuple(layers), norm, inner)


def _folds(inner: Expression, kinds: Any, uses: Uses) -> bool:
    return isinstance(inner, Applied) and isinstance(inner.operation, kinds) and uses[inner] == 1


def count_uses(step: Step) -> Uses:
    """Return how often each expression is used by another, a neuron or the readout."""
    uses: Uses = Counter(step.expressions)
    for part in parts_of(*step.expressions):
        uses.update(operands(part))
    for part in reversed(list(parts_of(*step.expressions))):  # flattening is no use of its own
        if isinstance(part, Applied) and isinstance(part.operation, FlattenLayer):
            uses[part.operand] += uses[part] - 1
    return uses


def is_max(expression: Applied) -> bool:
    """Return whether an expression is a max pooling."""
    layer = expression.operation
    return isinstance(layer, PoolLayer | AdaptivePoolLayer) and layer.kind == "max"


def check_operands(product: Product) -> None:
    """Raise UnsupportedModelError if something with a bias is multiplied: products join spikes."""
    for part in parts_of(product):
        layer = part.operation if isinstance(part, Applied) else None
        biased = isinstance(layer, LinearLayer | ConvolutionLayer) and layer.module.bias is not None
        if layer is not None and (biased or isinstance(layer, NormLayer | OpaqueLayer)):
            raise UnsupportedModelError(
                f"{product.place}: a product joins spikes, but {layer.name!r} brings a bias into it; put a neuron in "
                "between"
            )
