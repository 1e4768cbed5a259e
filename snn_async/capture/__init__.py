"""Source models as graphs; a library's adapter is imported only when a model uses the library."""

import threading

from torch import nn

from snn_async.capture.building import build
from snn_async.capture.folding import Step, fold
from snn_async.capture.forms import is_flat, known_features
from snn_async.capture.interpreting import Interpretation, interpret
from snn_async.capture.tracing import preserved, trace
from snn_async.capture.unchanged import Watch
from snn_async.errors import InputError, UnsupportedModelError
from snn_async.frameworks.libraries import UnreadError, adapter_of, check_module
from snn_async.graph import Graph

__all__ = ["Blueprint", "build_graph", "read_model"]

_ONE_AT_A_TIME = threading.RLock()  # torch.fx patches torch for the whole process while it follows a forward


class Blueprint:
    """One timestep of a model, from which its graph follows once the input's shape is known.

    Attributes:
        flat: whether the model takes an input of any shape and flattens it first.
        shape: of the input, where the model's Linears say it; else None.
    """

    def __init__(self, model: nn.Module, step: Step) -> None:
        self._step = step
        self._watch = Watch(model)
        self._modes = {_modes(model)}  # in which the model is known to compute what was read
        self.flat = is_flat(step)
        features = known_features(step)
        self.shape: tuple[int, ...] | None = None if features is None else (features,)

    def check(self, model: nn.Module, graph: Graph) -> None:
        """Raise UnsupportedModelError if the model is no longer what was read, or is something else in its mode."""
        self._watch.check(graph, model)
        modes = _modes(model)
        if modes in self._modes:
            return
        again = read_model(model)
        if again._step != self._step:
            raise UnsupportedModelError(
                "the model computes something else in train() than in eval(): a branch on self.training, or a module "
                "that differs; make it the same in both modes (nn.Dropout and BatchNorm may differ), or call "
                "asynchronize again in the mode that is run"
            )
        again.graph(graph.input_shape)
        self._modes.add(modes)

    def graph(self, shape: tuple[int, ...]) -> Graph:
        """Return the graph for an input of `shape` per sample.

        Raises:
            InputError: for a shape that a layer cannot take, naming the layer and the sizes.
            UnsupportedModelError: for anything that cannot be mapped exactly, with its place and the way out.
        """
        with _ONE_AT_A_TIME:
            try:
                return build(self._step, shape)
            except InputError as error:
                if shape == self.shape:  # which the model itself asks for
                    raise UnsupportedModelError(str(error)) from error
                raise


def read_model(model: nn.Module) -> Blueprint:
    """Return what `model` computes in one timestep; it is left as it was.

    Args:
        model: an snnTorch or SpikingJelly model: an `nn.Sequential`, a module whose forward is one timestep, or one
            that loops over a fixed number of equal steps. SpikingJelly models may be in either step mode.

    Raises:
        UnsupportedModelError: for anything that cannot be mapped exactly, with its place and the way out.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"the model is a {type(model).__name__}; pass a torch.nn.Module")
    with _ONE_AT_A_TIME:
        for path, module in model.named_modules():
            check_module(path, module)
        return Blueprint(model, fold(model, _interpret(model)))


def _modes(model: nn.Module) -> tuple[bool, ...]:
    """Return which modules are in training mode."""
    return tuple(module.training for module in model.modules())


def build_graph(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> Graph:
    """Return the graph of `model`; `input_shape` is that of one sample, where Linears do not say it.

    Raises:
        InputError: if the shape is not known or does not fit.
        UnsupportedModelError: as for `read_model`.
    """
    blueprint = read_model(model)
    shape = blueprint.shape if input_shape is None else input_shape
    if shape is None:
        raise InputError("the sizes of the model follow from its input only; pass input_shape=(C, H, W)")
    return blueprint.graph(shape)


def _interpret(model: nn.Module) -> Interpretation:
    """Follow the model's forward; modules without neurons that cannot be followed are taken as they are."""
    opaque: dict[str, str] = {}
    while True:
        try:
            with preserved(model):
                return interpret(model, trace(model, opaque), opaque)
        except UnreadError as error:
            path = _without_neurons(model, error.inside, opaque)
            if path is None:
                raise UnsupportedModelError(str(error)) from error
            opaque[path] = str(error)


def _without_neurons(model: nn.Module, inside: str | None, opaque: dict[str, str]) -> str | None:
    """Return the path of a module, not yet in `opaque`, that can be taken as it is in place of what is in it."""
    if not inside or inside in opaque:
        return None
    module = model.get_submodule(inside)
    for part in module.modules():
        adapter = adapter_of(part)
        if adapter is not None and (adapter.is_neuron(part) or adapter.is_container(part)):
            return None
    return inside
