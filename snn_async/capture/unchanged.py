"""What a graph was read from, so that a model that was changed since is noticed before it runs."""

import operator
from typing import Any

from torch import nn

from snn_async.capture.opaque import Framewise
from snn_async.errors import UnsupportedModelError
from snn_async.frameworks.libraries import HOOKS, adapter_of
from snn_async.graph import Graph

_LIBRARIES = ("torch", "snntorch", "spikingjelly")
_LIVE = {"training", "p"}  # read anew at every run
Settings = dict[str, tuple[type, tuple[tuple[str, object], ...]]]


class Watch:
    """Notices that a model is no longer what it was; a model that did not change costs a comparison of identities."""

    def __init__(self, model: nn.Module) -> None:
        self._settings = _settings_of(model)
        self._seen: list[object] = []

    def check(self, graph: Graph, model: nn.Module) -> None:
        """Raise UnsupportedModelError if a module was added, removed, exchanged or reconfigured.

        Parameters may change, in place or by assignment: they are read at every run.
        """
        now = _objects(model)
        if len(now) == len(self._seen) and all(map(operator.is_, now, self._seen)):
            return
        _check_settings(self._settings, model)
        _check_graph(graph, model)
        self._seen = now


def _objects(model: nn.Module) -> list[object]:
    """Return every object that the modules hold by name, and what they hold in their own tables."""
    found: list[object] = []
    for module in model.modules():
        held = vars(module)
        found.append(module)
        found.extend(held.values())
        found.extend(held["_modules"].values())
        found.extend(handle for hooks in HOOKS for handle in held.get(hooks, {}).values())
    return found


def _settings_of(model: nn.Module) -> Settings:
    """Return class and settings of every module of `model`, by path; parameters and states are not among them."""
    return {path: (type(module), tuple(_settings(module))) for path, module in model.named_modules()}


def _check_settings(before: Settings, model: nn.Module) -> None:
    """Raise UnsupportedModelError if a module was added, removed, exchanged or reconfigured since `before`."""
    now = _settings_of(model)
    if now == before:
        return
    for path in {**before, **now}:
        if before.get(path) != now.get(path):
            break
    (old, was), (new, is_now) = before.get(path, (None, ())), now.get(path, (None, ()))
    changed = [name for name, value in dict(is_now).items() if dict(was).get(name) != value]
    what = f"another {', '.join(changed)}" if changed else "a setting"
    if old is not new:
        names = [kind.__name__ if kind else "nothing" for kind in (old, new)]
        what = f"it was {names[0]} and is {names[1]}"
    raise UnsupportedModelError(
        f"{path or 'the model'!r}: {what}, changed after asynchronize; call asynchronize again"
    )


def _check_graph(graph: Graph, model: nn.Module) -> None:
    """Raise UnsupportedModelError if a module of the graph was replaced or reconfigured since it was built."""
    present = {id(module) for module in model.modules()}
    for name, module in graph.modules:
        own = module.module if isinstance(module, Framewise) else module
        if id(own) not in present:
            raise UnsupportedModelError(
                f"{name!r}: a module of the model was replaced after asynchronize; call asynchronize again"
            )
    for population in graph.populations:
        module = population.neuron.module
        adapter = adapter_of(module)
        if adapter is None or not adapter.is_neuron(module):
            continue
        if adapter.make_neuron(population.name, module, population.shape) != population.neuron:
            raise UnsupportedModelError(
                f"{population.name!r}: its reset, surrogate or options were changed after asynchronize; "
                "call asynchronize again"
            )


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = [
        (name.strip("_"), True) for name in HOOKS if getattr(module, name, None)
    ]
    if "forward" in vars(module):
        found.append(("forward", vars(module)["forward"]))
    if type(module).__module__.split(".")[0] not in _LIBRARIES:
        return found  # what a model of one's own keeps beside its modules is not known to matter
    adapter: Any = adapter_of(module)
    found.append(("step_mode", getattr(module, "step_mode", None)))
    if adapter is None or not adapter.is_neuron(module):  # a neuron's own parameters are read at every run
        plain = (bool, int, float, str, tuple, type(None))
        values = sorted((k, v) for k, v in vars(module).items() if isinstance(v, plain))
        found += [(name, value) for name, value in values if not name.startswith("_") and name not in _LIVE]
    return found
