"""What the values of a traced forward stand for."""

from dataclasses import dataclass

from torch import Tensor

from snn_async.graph import Dropout


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
class Signal:
    """Spikes or inputs on their way to a neuron.

    Attributes:
        source: where they come from.
        flat: 1: an input frame was flattened; 2: so was every frame of (T, B, ...), not yet indexed.
        features: their number, if the model's code says it.
        layers: paths of the Linear modules applied so far.
        source_dropout, target_dropout: dropouts before and after the layers.
    """

    source: Argument | Fired
    flat: int = 0
    features: int | None = None
    layers: tuple[str, ...] = ()
    source_dropout: tuple[Dropout, ...] = ()
    target_dropout: tuple[Dropout, ...] = ()


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
        return self.tensor is None or self.name == f"{neuron}.mem" or not bool(self.tensor.any())


@dataclass(frozen=True)
class Call:
    """One call of a neuron module, and where it is."""

    signal: Signal
    place: str
