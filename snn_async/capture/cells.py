"""A recording's neuron calls as cells, each called once per timestep.

A cell is a chain of calls of one neuron module, each with the states that the one before gave: one population.
"""

from collections import Counter
from dataclasses import dataclass, field
from operator import getitem

from torch import nn
from torch.fx import Node

from snn_async.capture.kinds import Dependencies, Kind, name_of, value_of
from snn_async.capture.recording import NEURON, Recording
from snn_async.errors import UnsupportedModelError

SAME = {
    *("detach", "detach_", "clone", "alias", "contiguous", "view", "reshape", "lift_fresh_copy", "expand"),
    *("_to_copy", "to"),
}


@dataclass(eq=False)
class Cell:
    """One population's calls.

    Attributes:
        calls: one per timestep, or one of the whole sequence.
        initial: the states that it starts with, None where the framework starts it from rest.
        detached: whether states are detached between timesteps.
    """

    name: str
    module: nn.Module
    sequence: bool
    calls: list[Node] = field(default_factory=list)
    initial: list[Node] | None = None
    detached: bool = False


def cells_of(recording: Recording, dependencies: Dependencies) -> list[Cell]:
    """Return the cells in the order of their first calls.

    Raises:
        UnsupportedModelError: for states that are computed between two calls, or settings that change between them.
    """
    cells: list[Cell] = []
    of_call: dict[Node, Cell] = {}
    taken: Counter[str] = Counter()
    for node in recording.graph.nodes:
        if node.target is not NEURON:
            continue
        if node in dependencies.changed:
            raise changed_in_place(recording, dependencies.changed[node])
        call = recording.calls[node.args[2]]
        cell = _continued(recording, dependencies, node, of_call)
        if cell is None:
            taken[call.path] += 1
            base = call.path or type(call.module).__name__.lower()
            name = base if taken[call.path] == 1 else f"{base} ({taken[call.path]})"
            states = list(node.args[1])
            cell = Cell(name, call.module, call.sequence, initial=states or None)
            cells.append(cell)
        cell.calls.append(node)
        of_call[node] = cell
    return cells


def changed_in_place(recording: Recording, writer: Node) -> UnsupportedModelError:
    """Return the error for a write into a part of what neurons get or hold."""
    return UnsupportedModelError(
        f"{recording.place(writer)}: a part of a tensor between neurons is changed in place; make a new one instead "
        "(torch.where, torch.cat, a product with a mask)"
    )


def _continued(
    recording: Recording, dependencies: Dependencies, node: Node, of_call: dict[Node, Cell]
) -> Cell | None:
    """Return the cell whose states a call goes on with, None if it starts anew."""
    call = recording.calls[node.args[2]]
    found: set[Node] = set()
    cuts: set[bool] = set()
    for k, state in enumerate(node.args[1], 1):
        source, detached = state, False
        while source.target is not getitem and name_of(source) in SAME:
            detached |= name_of(source) in ("detach", "detach_")
            source = source.args[0]
        own = (
            (k, 0) if k == len(node.args[1]) > 1 and hasattr(call.module, "recurrent") else (k,)
        )  # its spikes
        if source.target is getitem and source.args[0] in of_call and source.args[1] in own:
            found.add(source.args[0])
            cuts.add(detached)
        elif name_of(source) == "select" and source.args[0].args[0] in of_call:
            raise several_sequences(recording.place(node), call.path)
        elif dependencies.kinds[state] == Kind.CORE:
            raise UnsupportedModelError(
                f"{recording.place(node)}: {call.path!r} goes on with {_what(recording, source, of_call)}; pass its "
                "states on as it returned them, in their order"
            )
    if len(found) > 1:
        raise UnsupportedModelError(
            f"{recording.place(node)}: {call.path!r} goes on with states of different calls; pass on those of one"
        )
    before = next(iter(found), None)
    if before is None:
        return None
    cell = of_call[before]
    if len(cell.calls) == 1:
        cell.detached = cuts == {True}
    if cuts != {cell.detached}:
        raise UnsupportedModelError(
            f"{recording.place(node)}: states of {call.path!r} are detached in some timesteps only, or some of them; "
            "detach all in every timestep, or none (to truncate backpropagation, run windows of the sequence: "
            "net.run(x, state=run.state.detach()))"
        )
    if cell.calls[-1] is not before or cell.module is not call.module:
        raise UnsupportedModelError(
            f"{recording.place(node)}: {call.path!r} goes on with a state that another call went on with already; "
            "give each call a state of its own"
        )
    return cell


def _what(recording: Recording, source: Node, of_call: dict[Node, Cell]) -> str:
    """Return what a state is that no call returned as that state, in words."""
    if source.target is getitem and source.args[0] in of_call:
        what = f"state {source.args[1]}" if source.args[1] else "spikes"
        return f"{what} of {recording.calls[source.args[0].args[2]].path!r} in the place of another state"
    return (
        f"a state that is computed between two calls of it, at {recording.place(source)} ({name_of(source)})"
    )


def timesteps_of(recording: Recording, cells: list[Cell]) -> int:
    """Return T, the number of timesteps that every cell runs.

    Raises:
        UnsupportedModelError: if they are not the same for all.
    """
    for cell in cells:
        if cell.sequence and len(cell.calls) > 1:
            raise several_sequences(recording.place(cell.calls[1]), cell.name)
    counts = {
        cell.name: int(value_of(cell.calls[0].args[0]).shape[0]) if cell.sequence else len(cell.calls)
        for cell in cells
    }
    steps = max(counts.values())
    odd = next((cell for cell in cells if counts[cell.name] != steps), None)
    if odd is None:
        return steps
    place = recording.place(odd.calls[0])
    if len({cell.sequence for cell in cells}) > 1:
        raise UnsupportedModelError(
            f"{place}: {[c.name for c in cells if c.sequence]} take whole sequences, {odd.name!r} is called for single "
            "timesteps; use one step_mode for all (functional.set_step_mode)"
        )
    if counts[odd.name] == 1 and sum(cell.module is odd.module for cell in cells) == steps:
        raise starts_from_rest(place, odd.name)
    raise UnsupportedModelError(
        f"{place}: {odd.name!r} is called in {counts[odd.name]} timesteps, other neurons in {steps}; call every neuron "
        "in every timestep, and one that serves several layers with a state of its own for each (snnTorch: pass them, "
        "SpikingJelly: a module for each)"
    )


def several_sequences(place: str, name: str) -> UnsupportedModelError:
    """Return the error for a neuron that goes on from one sequence to another."""
    return UnsupportedModelError(
        f"{place}: {name!r} is called with several sequences, one after another, and keeps its state; call it once, "
        "with torch.cat of them, or reset it between them"
    )


def starts_from_rest(place: str, name: str) -> UnsupportedModelError:
    """Return the error for a neuron that forgets in every timestep what it held."""
    return UnsupportedModelError(
        f"{place}: {name!r} starts from rest in every timestep; let it keep its state (snnTorch: init_hidden, or pass "
        "its states in and out of the forward; reset it before the time loop, not within)"
    )
