"""What the values of a traced forward stand for.

Expressions are what reaches neurons. They compare by structure, so that the steps of an unrolled loop can be compared
and equal expressions share one junction.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from snn_async.capture.layers import Operation


@dataclass(frozen=True)
class Argument:
    """An argument of forward, or an item of it: the input, or a state passed in."""

    name: str
    path: tuple[object, ...] = ()


@dataclass(frozen=True)
class Fired:
    """The spikes of call number `step` of a neuron module."""

    neuron: str
    step: int


@dataclass(frozen=True)
class Delayed:
    """What a recurrent container gave in the timestep before."""

    container: str


@dataclass(frozen=True)
class Applied:
    """A layer's result."""

    operation: Operation
    operand: "Expression"


@dataclass(frozen=True)
class Sum:
    """A sum of expressions; `name` names the junction it may become, `place` is for messages."""

    parts: tuple["Expression", ...]
    name: str = field(compare=False)
    place: str = field(compare=False)


@dataclass(frozen=True)
class Product:
    """a * b, or a * (1 - b)."""

    kind: Literal["and", "iand"]
    operands: tuple["Expression", "Expression"]
    name: str = field(compare=False)
    place: str = field(compare=False)


Expression = Argument | Fired | Delayed | Applied | Sum | Product


@dataclass(frozen=True)
class Complement:
    """1 - operand, which only a product may hold."""

    operand: Expression


@dataclass(frozen=True)
class Potential:
    """The potential (state) that call number `step` of a neuron module returned."""

    neuron: str
    step: int


@dataclass(frozen=True)
class Recording:
    """What `torch.stack` made of one value per step."""

    values: tuple[object, ...]


@dataclass(frozen=True)
class Shape:
    """The shape of an input tensor that was indexed `indexed` times."""

    indexed: int


@dataclass(frozen=True)
class Size:
    """One dimension of forward's input, counted before any indexing."""

    dimension: int


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on the input; `tensor` is None for zeros of the input's making."""

    name: str
    tensor: Tensor | None = None

    def is_rest(self, neuron: str) -> bool:
        """Return whether it can be the initial state of a neuron: zeros, or its own state."""
        own = self.name in (f"{neuron}.mem", f"{neuron}.spk")
        return self.tensor is None or own or not bool(self.tensor.any())


@dataclass(frozen=True)
class Call:
    """One call of a neuron module, and where it is."""

    current: Expression
    place: str


def operands(expression: Expression) -> tuple[Expression, ...]:
    """Return the expressions that one is made of."""
    if isinstance(expression, Applied):
        return (expression.operand,)
    if isinstance(expression, Sum):
        return expression.parts
    return expression.operands if isinstance(expression, Product) else ()


def rebuild(expression: Expression, change: Callable[[Expression], Expression]) -> Expression:
    """Return the expression with `change` applied to what it is made of."""
    if isinstance(expression, Applied):
        return replace(expression, operand=change(expression.operand))
    if isinstance(expression, Sum):
        return replace(expression, parts=tuple(map(change, expression.parts)))
    if isinstance(expression, Product):
        a, b = expression.operands
        return replace(expression, operands=(change(a), change(b)))
    return expression


def parts_of(*expressions: Expression) -> Iterator[Expression]:
    """Yield every distinct expression in `expressions`, from the outside in."""
    seen: set[Expression] = set()
    waiting = list(expressions)
    while waiting:
        expression = waiting.pop()
        if expression not in seen:
            seen.add(expression)
            yield expression
            waiting += operands(expression)


def relative(expression: Expression, step: int) -> Expression:
    """Return it with the steps of neurons, or the input's index, counted from `step`."""
    if isinstance(expression, Fired):
        return replace(expression, step=expression.step - step)
    if isinstance(expression, Argument) and expression.path and isinstance(expression.path[0], int):
        return replace(expression, path=(expression.path[0] - step, *expression.path[1:]))
    return rebuild(expression, lambda part: relative(part, step))


def describe_expression(expression: Expression) -> str:
    """Return what it is made of, for messages."""
    if isinstance(expression, Argument):
        return expression.name + "".join(f"[{index}]" for index in expression.path)
    if isinstance(expression, Fired):
        return f"{expression.neuron}[call {expression.step}]"
    if isinstance(expression, Delayed):
        return f"the last output of {expression.container!r}"
    if isinstance(expression, Applied):
        layers, inner = [], expression
        while isinstance(inner, Applied):
            layers.append(repr(inner.operation.name))
            inner = inner.operand  # type: ignore[assignment]
        return f"{describe_expression(inner)} through {', '.join(layers[::-1])}"
    symbol = " + " if isinstance(expression, Sum) else " * "
    return "(" + symbol.join(map(describe_expression, operands(expression))) + ")"
