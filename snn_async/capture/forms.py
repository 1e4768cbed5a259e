"""How the features of a step's expressions lie, once the input's shape is known; what the model says of that shape."""

import math

from snn_async.capture.expressions import Applied, Argument, Delayed, Expression, Fired, operands, parts_of
from snn_async.capture.folding import Step
from snn_async.capture.layers import (
    DropoutLayer,
    FlattenLayer,
    Form,
    LinearLayer,
    NormLayer,
    Operation,
    Shape,
    form_of,
)
from snn_async.errors import InputError, UnsupportedModelError


def is_flat(step: Step) -> bool:
    """Return whether the model flattens its input before anything else, whatever its shape."""
    return all(isinstance(layer, FlattenLayer) for layer in _first_layers(step)) and bool(_first_layers(step))


def known_features(step: Step) -> int | None:
    """Return how many features the input has if the model's Linears say it, else None."""
    flat = is_flat(step)
    for part in parts_of(*step.expressions):
        if isinstance(part, Applied) and isinstance(part.operation, LinearLayer):
            inner: Expression = part.operand
            while isinstance(inner, Applied) and isinstance(
                inner.operation, DropoutLayer | NormLayer | (FlattenLayer if flat else DropoutLayer)
            ):
                inner = inner.operand
            if isinstance(inner, Argument):
                begin, end = part.operation.columns or (0, part.operation.module.in_features)
                return int(end - begin)
    return None


def _first_layers(step: Step) -> list[Operation | None]:
    """Return what the input goes into, dropouts aside; None for a neuron, sum or product."""
    parts = list(parts_of(*step.expressions))
    inputs: set[Expression] = {part for part in parts if isinstance(part, Argument)}
    for part in reversed(parts):  # from the inside out
        if isinstance(part, Applied) and isinstance(part.operation, DropoutLayer) and part.operand in inputs:
            inputs.add(part)
    found: list[Operation | None] = [None for current in step.expressions if current in inputs]
    for part in parts:
        if part not in inputs:
            layer = part.operation if isinstance(part, Applied) else None
            found += [layer for operand in operands(part) if operand in inputs]
    return found


class Forms:
    """The forms of one step's expressions.

    Attributes:
        neurons: of the neurons' outputs, as far as they are known.
    """

    def __init__(self, step: Step, input_shape: Shape) -> None:
        self.step, self.input_shape = step, input_shape
        self.flat = is_flat(step)
        self.neurons: dict[str, Form] = {}
        self._found: dict[Expression, Form | None] = {}

    def of(self, expression: Expression) -> Form:
        """Return the form of an expression.

        Raises:
            InputError: if a layer cannot take what it gets, naming the layer and the sizes.
            UnsupportedModelError: for feedback whose size does not follow from the input.
        """
        form = self.known(expression)
        if form is None:
            raise UnsupportedModelError(
                "the size of a recurrent container's output does not follow from its input"
            )
        return form

    def known(self, expression: Expression) -> Form | None:
        """Return its form; None for feedback of a neuron that has none yet."""
        if expression not in self._found or self._found[expression] is None:
            self._found[expression] = self._compute(expression)
        return self._found[expression]

    def _compute(self, expression: Expression) -> Form | None:
        if isinstance(expression, Argument):
            return self.input_form()
        if isinstance(expression, Fired):
            return self.neurons[expression.neuron]
        if isinstance(expression, Delayed):
            return self.neurons.get(self.step.feedback[expression.container])
        if isinstance(expression, Applied):
            return self._layer_form(expression)
        forms = [form for form in map(self.known, operands(expression)) if form is not None]
        if len({form.shape for form in forms}) > 1:
            shapes = " and ".join("x".join(map(str, form.shape)) for form in forms)
            place = expression.place
            raise InputError(
                f"{place}: it joins shapes {shapes}; they must be equal, nothing is spread over channels or positions"
            )
        if len({form.grid for form in forms}) > 1:
            return Form((forms[0].shape[0], 1, 1), forms[0].shape)
        return forms[0] if forms else None

    def input_form(self) -> Form:
        if self.flat:
            size = math.prod(self.input_shape)
            return Form((size, 1, 1), (size,))
        form = form_of(self.input_shape)
        if form is None:
            raise InputError(
                f"an input of shape {self.input_shape} per sample cannot be run: give it features, (C, L) or (C, H, W)"
            )
        return form

    def _layer_form(self, expression: Applied) -> Form | None:
        layer, inner = expression.operation, self.known(expression.operand)
        if inner is None:
            if not isinstance(layer, LinearLayer):
                return None
            size = (layer.columns or (0, layer.module.in_features))[1] - (layer.columns or (0, 0))[0]
            inner = Form((size, 1, 1), (size,))
        return layer.checked_form(inner)
