"""Running a model with its neurons' dynamics left to a function: what a capture of the model gets from each framework.

`snntorch_calls` and `spikingjelly_calls` do in torch what a class's forward does around its dynamics.
"""

import copy
import functools
import importlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from snn_async.frameworks.libraries import adapter_of
from snn_async.neurons.own_step import States

__all__ = ["Emit", "States", "held_between_calls", "replaced", "settings_of"]


class Emit(Protocol):
    """The dynamics of one neuron module."""

    def __call__(self, current: Tensor, states: States, sequence: bool, count: int) -> tuple[Tensor, States]:
        """Run one call of the neuron.

        Args:
            current: (B, ...), or (T, B, ...) if `sequence`.
            states: () from rest, else the first `count` states before it.
            count: how many of the neuron's states the framework shows, the first ones of `Neuron.State`.

        Returns:
            spikes, like `current` (unused of a readout), and the first `count` states after it, each like `current`:
            after every timestep if `sequence`.
        """


@contextmanager
def replaced(model: nn.Module, make_emit: Callable[[str, nn.Module], Emit]) -> Iterator[None]:
    """Let the neurons of `model` emit what another function says, from rest, without their forward hooks.

    On exit the model is as it was: forwards, hooks, states, and every attribute and list of every module. Enter it
    while the model's tensors have values; make neuron models outside, where a forward is its class's.

    Args:
        make_emit: called with a neuron module and its path when the module is first called.
    """
    found = [(path, module, _calls_of(module)) for path, module in model.named_modules()]
    alone = {calls.__name__: calls.alone for _, _, calls in found if calls is not None}
    kept = [(module, _contents(module)) for _, module, _ in found]
    stack = ExitStack()
    try:
        for enter in alone.values():
            stack.enter_context(enter([module for _, module, _ in found]))
        for path, module, calls in found:
            _rest(module)
            if calls is not None:
                emit = functools.cache(functools.partial(make_emit, path, module))
                module.__dict__["forward"] = _forward(calls.caller(module), emit)
                module._forward_hooks.clear()
        yield
    finally:
        stack.close()
        for module, contents in kept:
            _put_back(module, *contents)


def _forward(call: Callable[..., Any], emit: Callable[[], Emit]) -> Callable[..., Any]:
    return lambda *args, **kwargs: call(emit(), *args, **kwargs)


def _calls_of(module: nn.Module) -> Any:
    """Return the file of this folder that knows a neuron's call, None for other modules."""
    adapter = adapter_of(module)
    if adapter is None or not adapter.is_neuron(module):
        return None
    return importlib.import_module(f"{adapter.__name__}_calls")


def held_between_calls(module: nn.Module) -> frozenset[str]:
    """Return the attributes in which a neuron module keeps states and records between calls; none of another module."""
    calls = _calls_of(module)
    return frozenset() if calls is None else frozenset(calls.state_attributes(module))


def settings_of(module: nn.Module) -> dict[str, Any]:
    """Return what a neuron module holds besides its states: parameters, buffers and plain values, by name."""
    states = held_between_calls(module)
    held = {**vars(module), **module._parameters, **module._buffers}
    return {
        name: value
        for name, value in held.items()
        if name not in states and name[0] != "_" and isinstance(value, Tensor | int | float | str)
    }


def _rest(module: nn.Module) -> None:
    """Take the states of a run before from a module, in place of which its own tables hold new ones."""
    calls = _calls_of(module)
    if calls is not None:
        calls.rest(module)
    elif "_memories_rv" in vars(module):  # a layer of SpikingJelly with a state of its own
        vars(module)["_memories"].update(copy.deepcopy(vars(module)["_memories_rv"]))


def _contents(module: nn.Module) -> tuple[dict[str, Any], list[tuple[Any, list[Any]]]]:
    attributes = dict(vars(module))
    tables = [v for v in attributes.values() if isinstance(v, dict | list | set | deque)]
    return attributes, [
        (table, list(table.items() if isinstance(table, dict) else table)) for table in tables
    ]


def _put_back(module: nn.Module, attributes: dict[str, Any], tables: list[tuple[Any, list[Any]]]) -> None:
    vars(module).clear()
    vars(module).update(attributes)
    for table, contents in tables:
        table.clear()
        (table.extend if isinstance(table, list | deque) else table.update)(contents)
