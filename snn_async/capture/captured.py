"""A model for inputs of certain shapes: the graph that engines run, and what runs before and after it."""

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snn_async.capture.arguments import tensors_among
from snn_async.capture.assembling import Assembly
from snn_async.capture.cells import Cell, cells_of, starts_from_rest
from snn_async.capture.expression import Values, run_node
from snn_async.capture.folding import Fold
from snn_async.capture.kinds import Dependencies, Kind, shape_of, storage_of
from snn_async.capture.over_time import over_time
from snn_async.capture.program import Encoded, Program, Shown
from snn_async.capture.recording import CallError, Recording, record, tensors_of
from snn_async.capture.simplifying import simplify
from snn_async.errors import SnnAsyncError, UnsupportedModelError
from snn_async.frameworks.libraries import adapter_of, check_module, describe
from snn_async.graph import Graph

_SOON = 3.0  # seconds, after which a capture says that it is at work


class Captured:
    """What a model computes for inputs of the shapes that it was captured with.

    Attributes:
        graph: the network of one timestep.
        steps, samples: T and B.
        shown: what `decode` needs of a run.
        outside: whether the model's forward is one timestep, called once for each (`over_time`).
        seconds: how long the capture took.
    """

    seconds: float

    def __init__(self, model: nn.Module, fold: Fold, outside: bool) -> None:
        values = _live_values(fold, tensors_of(model))
        assembly = Assembly(fold, values)
        self.graph: Graph = assembly.graph
        self._program, self.outside = Program(fold, assembly), outside
        self.steps, self.samples, self.shown = fold.steps, fold.samples, self._program.shown

    def encode(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
        """Run what no neuron reaches, with the model's parameters as they are now."""
        return self._program.encode(tensors_of(model), tensors_among(args, kwargs))

    def decode(self, encoded: Encoded, shown: Mapping[Shown, Tensor]) -> Any:
        """Return what the model returns, given what neurons sent and held, (T, B, size) in unit order each."""
        return self._program.decode(encoded, shown)

    def describe(self) -> str:
        """Return how the model was understood, as text."""
        how = "one timestep per call" if self.outside else "all timesteps in one call"
        return f"{how}; captured for T = {self.steps}, B = {self.samples} in {self.seconds:.1f} s"


def capture(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    """Return what `model(*args, **kwargs)` computes; the model is left as it was.

    Raises:
        InputError, UnsupportedModelError: for what cannot be run event by event, with its place and the way out.
    """
    begun = time.perf_counter()
    notice = threading.Timer(_SOON, _say, (type(model).__name__,))
    notice.start()
    try:
        found = _capture(model, args, kwargs)
    finally:
        notice.cancel()
    found.seconds = time.perf_counter() - begun
    return found


def _say(name: str) -> None:
    print(f"snn-async: still following the forward of {name}, once for this shape of input", file=sys.stderr)


def _capture(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    check_model(model)
    try:
        recording = _record(model, args, kwargs, outside=False)
    except CallError as error:
        return _outside(model, args, kwargs, error)
    cells = cells_of(recording, Dependencies(recording))
    if not cells:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no spiking neurons of snnTorch or SpikingJelly in its forward"
        )
    if any(cell.sequence or len(cell.calls) > 1 for cell in cells):
        return _captured(model, recording, cells, outside=False)
    try:
        return _outside(model, args, kwargs, None)
    except SnnAsyncError as error:
        try:  # a single timestep, of a model that runs all of them
            return _captured(model, recording, cells, outside=False)
        except SnnAsyncError:
            raise error from None


def check_model(model: nn.Module) -> nn.Module:
    """Return `model`, or raise UnsupportedModelError for a module that cannot be run whatever the input."""
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"the model is a {type(model).__name__}; pass a torch.nn.Module")
    for path, module in model.named_modules():
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            raise UnsupportedModelError(
                f"{describe(path, module)} is compiled, and what was compiled cannot be followed; pass the module as "
                "it was before torch.compile"
            )
        check_module(path, module)
        adapter: Any = adapter_of(module)
        if adapter is not None and adapter.is_neuron(module):
            adapter.check_class(path, module)
    return model


def _outside(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: CallError | None
) -> Captured:
    """Capture a model whose forward is one timestep; `error` is what its own call with the whole sequence raised."""
    try:
        recording = _record(model, args, kwargs, outside=True)
    except CallError as other:
        raise (other if error is None else error.or_else(other)) from other
    cells = cells_of(recording, Dependencies(recording))
    first = tensors_among(args, kwargs)[0]
    steps = len(first)
    if first.dim() == 2 and any(len(shape_of(call.args[0])) < 2 for cell in cells for call in cell.calls):
        raise error or UnsupportedModelError("x has no axis of samples; give it as (T, B, ...)")
    for cell in cells:
        called = [node.args[2] * steps // len(recording.calls) for node in cell.calls]
        if len(cell.calls) > 1 and called != [*range(steps)]:  # it loops over something else than time
            raise error or UnsupportedModelError(f"{cell.name!r} is called several times in a timestep")
    return _captured(model, recording, cells, outside=True)


def _captured(model: nn.Module, recording: Recording, cells: list[Cell], outside: bool) -> Captured:
    if all(cell.sequence or len(cell.calls) == 1 for cell in cells):
        modules = [cell.module for cell in cells]
        for cell in cells:
            if modules.count(cell.module) > 1:
                raise starts_from_rest(recording.place(cell.calls[0]), cell.name)
    dependencies = Dependencies(recording)
    _check_written(recording, dependencies)
    fold = Fold(recording, dependencies, cells)
    return Captured(model, fold, outside)


def _check_written(recording: Recording, dependencies: Dependencies) -> None:
    """Raise UnsupportedModelError for parameters and buffers that the forward changes by what it computes from data."""
    neurons = tuple(f"{call.path}." for call in recording.calls)
    for node, name in zip(recording.graph.nodes, recording.parameters, strict=False):
        for writer in dependencies.writers.get(storage_of(node), ()):
            own = name in recording.trained or name.startswith(neurons)
            if own or dependencies.kinds[writer] != Kind.LIVE:
                raise UnsupportedModelError(
                    f"{recording.place(writer)}: the forward changes {name!r} by what it computes, which would be "
                    "lost here; call model.eval() if it is a statistic, or return the value instead"
                )


def _record(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outside: bool) -> Recording:
    def call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return over_time(model, *args, **kwargs) if outside else model(*args, **kwargs)

    recording = record(model, call, (args, kwargs))
    simplify(recording.graph)
    return recording


def _live_values(fold: Fold, tensors: dict[str, Tensor]) -> Values:
    """Return the values, as they are now, of all nodes that follow from parameters alone."""
    values: Values = {}
    nodes = fold.recording.graph.nodes
    named = zip(nodes, fold.recording.parameters, strict=False)
    values |= {  # copies of buffers, which a forward may change
        n: tensors[name] if isinstance(tensors[name], nn.Parameter) else tensors[name].clone()
        for n, name in named
    }
    with torch.no_grad():
        for node in nodes:
            if fold.dependencies.kinds[node] != Kind.LIVE:
                continue
            if node.op == "get_attr":
                values[node] = fold.recording.constants[node.target]
            elif node.op == "call_function":
                values[node] = run_node(node, values)
    return values
