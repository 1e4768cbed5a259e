"""The adjoints of the masked sum of docs/design.md, section 5, of one timestep for a whole batch at once.

    u_i = base_i + gain_i * (b_i + sum_j w_ji s_j [ j was delivered to i no later than i's decisive evaluation ])

Node by node, backwards: everything downstream is known then. A node's *sight* says what a current that arrives at it
in a forward step is worth; the transposed synapses take that to its sources, one product per projection and forward
step in which these deliver, and one for the silent ones (the same one where everybody was delivered in time). Values
of spikes, currents and potentials are those that the log kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from snn_async.engines.contract import NEVER, NOT_YET, Adjoints, Execution, Gradients, Slopes, Values
from snn_async.engines.torch.device import numbers, to_host
from snn_async.engines.torch.log import NOWHERE, TorchLog
from snn_async.engines.torch.maps import current_maps
from snn_async.engines.torch.structure import structure_of
from snn_async.graph import Graph
from snn_async.graph.parameters import dealt

Interval = (
    tuple[Tensor, Tensor] | None
)  # forward steps from, and before, which one looks, (B, 1); None for any


class Sight(ABC):
    """What currents into a node are worth, (B, receivers)."""

    @abstractmethod
    def seen(self, i: int | None) -> Tensor:
        """Return that of those that arrive in an iteration; None behind a barrier, where all arrive in time."""

    @abstractmethod
    def look(self, interval: Interval) -> Tensor:
        """Return that of silent sources' at the first decisive evaluations within an interval of forward steps."""

    @abstractmethod
    def in_time(self, i: int) -> bool:
        """Return whether everybody sees what arrives in an iteration, for certain."""


class Replay:
    """A timestep.

    Attributes:
        sight: of every node, as they become known.
        settled: (B, n) adjoints of what analog populations send, by population.
    """

    def __init__(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        log: TorchLog,
        slopes: Slopes,
        adjoints: Adjoints,
        needs_x: bool,
    ) -> None:
        self.execution, self.values, self.log, self.slopes, self.needs_x = (
            execution,
            values,
            log,
            slopes,
            needs_x,
        )
        self.structure = structure = structure_of(graph, execution, values.x.device)
        self.layout, self.adjoints, self.table = structure.layout, adjoints, log.table
        self.maps = current_maps(graph, values)
        self.junctions = dict(enumerate(graph.junctions, self.layout.populations))
        self.live = dealt(graph, values.parameters)
        self.of_live: dict[int, tuple[Tensor | None, ...]] = dict.fromkeys(self.junctions, ())
        self.sight: dict[int, Sight] = {}
        self.settled: dict[int, Tensor] = {}
        self.iterations: dict[int, list[int]] = {node: [] for node in structure.out_of}
        if not execution.layered:
            for i, iteration in enumerate(log.iterations):
                for node in iteration.nodes:
                    self.iterations[node].append(i)
        self.biases, self.last_spikes = torch.zeros_like(values.biases), torch.zeros_like(values.last_spikes)
        self.base = torch.empty_like(values.base)
        self.gain, self.threshold = (
            torch.empty_like(values.base) if value.requires_grad else None
            for value in (values.gain, values.threshold)
        )
        every = list(self.table.every())
        self.everyone = torch.zeros(len(values.x), 1, dtype=torch.int32, device=values.x.device)
        self.left: list[Tensor | None] = [None] * len(every)
        if log.places is not None and adjoints.pending is not None:
            stacked = values.x.new_zeros((len(every), *every[0].amplitude.shape))
            self.left = list(stacked.index_put(log.places, adjoints.pending))
        self.carried = [torch.zeros_like(plane.amplitude) for plane in self.table.carried]

    def run(self) -> Gradients:
        """Return the gradients."""
        self._certain()
        for node in reversed(self.layout.order.tolist()):
            if node < self.layout.populations:
                self._population(node)
            elif node in self.structure.instant:
                self.sight[node] = (_Max if self.junctions[node].kind == "max" else _Sum)(self, node)
            else:
                self._waiting(node)
        x = self._inputs()
        weights = [m.weights if m.weights is not None else torch.zeros_like(m.packed) for m in self.maps]
        live = [one for found in (*(m.live for m in self.maps), *self.of_live.values()) for one in found]
        pending = torch.zeros_like(self.values.pending)
        if self.carried:
            sample, column, m = self.table.row
            pending = torch.stack(self.carried)[m, sample, column]
        return Gradients(
            x=x if self.needs_x else None,
            weights=torch.cat(weights),
            biases=self.biases,
            base=self.base,
            gain=self.gain,
            threshold=self.threshold,
            last_spikes=self.last_spikes,
            pending=pending,
            parameters=tuple(live),
        )

    def _certain(self) -> None:
        """Find out, in one synchronization, who sees in time what arrives, and who has nothing left to send."""
        iterations, asked, answers = self.log.iterations, [], []
        once = {found[0] for found in self.iterations.values() if len(found) == 1}
        for p in range(self.layout.populations):
            first = self.table.planes[0].step[:, self._columns(p)].amin(1, keepdim=True)
            asked += [(p, NOWHERE), *((p, i) for i in once)]
            turn = self.log.turn_step[:, p, None]
            answers += [(first >= turn) & (turn >= 0), *(first >= iterations[i].step for i in once)]
        nodes = [
            node for node in self.structure.out_of if self._columns(node).stop > self._columns(node).start
        ]
        left = [self.table.planes[0].alive[:, self._columns(node)].any() for node in nodes]
        found, some = to_host(torch.stack(answers).flatten(1).all(1), torch.stack(left))
        self.certain = {key for key, yes in zip(asked, found, strict=True) if yes}
        self.emptied = {node for node, yes in zip(nodes, some, strict=True) if not yes}

    def _columns(self, node: int) -> slice:
        return self.table.here(self.structure.sources(node))

    # -- neurons ---------------------------------------------------------------------------------------

    def _population(self, p: int) -> None:
        """Go back through a population's decisions."""
        here, neuron, log = self.structure.neurons_of(p), self.structure.neurons[p], self.log
        values, given, columns = self.values, self.adjoints, self._columns(p)
        gain, threshold = values.gain[:, here], values.threshold[:, here]
        zero = torch.zeros((), dtype=gain.dtype, device=gain.device)

        def own(adjoint: Tensor | None) -> Tensor:
            return zero if adjoint is None else adjoint[:, here]

        spikes, potential = own(given.spikes), own(given.potential)
        if neuron.analog:
            potential = potential + spikes + self.settled.get(p, zero)
        variables = self._sources(p) if self.structure.out_of[p] else None
        current = log.currents[:, here]
        base = potential.expand(gain.shape)  # the adjoint of the base after all decisions
        at_end = own(given.current) + gain * potential
        if self.gain is not None:
            self.gain[:, here] = potential * current
        if self.threshold is not None:
            self.threshold[:, here] = 0
        planes, decided = self.table.planes, (p, NOWHERE) in self.certain
        worth: list[tuple[Tensor, Tensor]] = []
        for m in reversed(range(len(planes))):
            plane = planes[m]
            step = plane.step[:, columns]
            if not neuron.spiking:
                worth.append((step, torch.zeros_like(base)))
                continue
            value, u = plane.amplitude[:, columns], plane.potential[:, columns]
            s = spikes if variables is None else spikes + variables(m)
            by_u = zero
            if neuron.reset == "subtract":
                if self.threshold is not None:
                    self.threshold[:, here] -= base * value
                s = s if neuron.detach_reset else s - base * threshold
            elif neuron.reset == "value":
                if neuron.binary:
                    s = s if neuron.detach_reset else s + base * (neuron.reset_value - u)
                    by_u = -base * value
                else:  # whatever a graded spike's value is, it sets the potential
                    by_u = -base * numbers(value != 0, base)
            d = s * self.slopes.silent[m][:, here]
            if m > 0 or not decided:
                d = d * numbers(step != NOT_YET, base)
            if self.threshold is not None:
                self.threshold[:, here] -= d
            by_u = by_u + d
            base = base + by_u
            if self.gain is not None:
                self.gain[:, here] += by_u * (current if plane.current is None else plane.current[:, here])
            worth.append((step, gain * by_u))
        self.base[:, here] = base
        later = self.execution.refractory[p] == "integrate"
        self.sight[p] = sight = _Population(self, p, worth[::-1], at_end.expand(gain.shape), later)
        self._unsent(p, sight.at_turn())

    # -- what sources send -----------------------------------------------------------------------------

    def _sources(self, node: int) -> Callable[[int], Tensor]:
        """Go back from what a node sends, and return the adjoints (B, n) of its m-th variables.

        A variable that sent nothing counts as delivered in time, one that was not delivered counts for nothing.
        """
        columns, planes = self._columns(node), list(self.table.every())
        carried = len(self.table.carried)
        found = [left if left is None else left[:, columns] for left in self.left]
        if self.execution.layered:
            amounts = sum(
                (plane.amplitude[:, columns] for plane in planes[1:]), planes[0].amplitude[:, columns]
            )
            every = self._pulled(node, amounts, None)
            for m in range(carried):
                self.carried[m][:, columns] = every
            return lambda m: every
        iterations, looked = self.iterations[node], None
        targets = [self.sight[int(self.layout.target[k])] for k in self.structure.out_of[node]]
        for i in iterations:
            certain = len(iterations) == 1 and all(target.in_time(i) for target in targets)
            if certain and len(planes) == 1 and node in self.emptied:  # all was delivered then, and in time
                pulled = self._pulled(node, planes[0].amplitude[:, columns], i)
                return lambda m: pulled
            at = [
                numbers(p.delivered[:, columns] == self.log.iterations[i].step, p.amplitude) for p in planes
            ]
            parts = [plane.amplitude[:, columns] * mask for plane, mask in zip(planes, at, strict=True)]
            pulled = self._pulled(node, torch.stack(parts).sum(0) if len(parts) > 1 else parts[0], i)
            looked = pulled if certain else None
            for m, mask in enumerate(at):
                part, before = pulled * mask, found[m]
                found[m] = part if before is None else before + part
        for m, adjoint in enumerate(found[:carried]):
            if adjoint is not None:
                self.carried[m][:, columns] = adjoint
        looked = self._looked(node, None) if looked is None else looked

        def variable(m: int) -> Tensor:
            amplitude, delivered = planes[carried + m].amplitude[:, columns], found[carried + m]
            silent = looked * numbers(amplitude == 0, looked)
            return silent if delivered is None else silent + delivered

        return variable

    def _inputs(self) -> Tensor | None:
        """Return the adjoint (B, S) of the inputs, if anybody wants it."""
        x = self.values.x
        if self.execution.queues_input:
            return self._sources(-1)(0)
        i = None if self.execution.layered else 0
        frame = self._back(-1, x, lambda sight: sight.seen(i), self.needs_x)
        if self.carried:
            self.iterations[-1] = [i for i in self.iterations[-1] if i > 0]
            self._sources(-1)
        return frame

    def _pulled(self, node: int, amounts: Tensor, i: int | None) -> Tensor:
        """Go back from a node's targets to amounts (B, units) that it sent in an iteration."""
        found = self._back(node, amounts, lambda sight: sight.seen(i), True)
        assert found is not None
        return found

    def _looked(self, node: int, interval: Interval) -> Tensor:
        """Return the adjoint (B, units) of what a node's silent units might have sent."""
        found = self._back(node, None, lambda sight: sight.look(interval), True)
        assert found is not None
        return found

    def _back(
        self, node: int, amounts: Tensor | None, worth: Callable[[Sight], Tensor], wanted: bool
    ) -> Tensor | None:
        total: Tensor | None = None
        for k in self.structure.out_of[node]:
            part, adjoint = self.structure.taken(k), worth(self.sight[int(self.layout.target[k])])
            found = self._through(k, None if amounts is None else amounts[:, part], adjoint, wanted)
            if found is None:
                continue
            size = self.structure.sources(node)
            if found.shape[1] < size.stop - size.start:
                found = functional.pad(found, (part.start, size.stop - size.start - part.stop))
            total = found if total is None else total + found
        return total

    def _through(self, k: int, amounts: Tensor | None, adjoint: Tensor, wanted: bool) -> Tensor | None:
        """Go back through projection k, given the adjoint of all that its target receives, (B, receivers)."""
        targets, before, after = (
            self.structure.targets(k),
            self.values.source_scale[k],
            self.values.target_scale[k],
        )
        first = int(self.layout.first_receiver[int(self.layout.target[k])])
        adjoint = adjoint[:, targets.start - first : targets.stop - first]
        adjoint = adjoint if after is None else adjoint * after
        amounts = amounts if before is None or amounts is None else amounts * before
        found = self.maps[k].pull(amounts, adjoint, wanted)
        return found if before is None or found is None else found * before

    def _unsent(self, node: int, adjoint: Tensor) -> None:
        """Go back from what a node gets without events, given the adjoint (B, receivers) of that."""
        for k in self.structure.into[node]:
            targets, after = self.structure.targets(k), self.values.target_scale[k]
            begin, first = int(self.layout.bias_start[k]), int(self.layout.first_receiver[node])
            if begin >= 0:
                part = adjoint[:, targets.start - first : targets.stop - first]
                part = part if after is None else part * after
                self.biases[begin : begin + part.shape[1]] = part.sum(0)
            if k not in self.structure.delayed:
                continue
            p, taken = int(self.layout.source[k]), self.structure.taken(k)
            here = self.structure.neurons_of(p)
            sent = self.log.potentials if self.layout.settled[k] else self.values.last_spikes
            found = self._through(k, sent[:, here][:, taken], adjoint, True)
            assert found is not None
            if self.layout.settled[k]:
                self.settled[p] = found + self.settled[p] if p in self.settled else found
            else:
                self.last_spikes[:, here][:, taken] += found

    # -- junctions that wait ---------------------------------------------------------------------------

    def _waiting(self, j: int) -> None:
        """Go back through the function of a junction that waits."""
        junction, given = self.junctions[j], self.live[1][j - self.layout.populations]
        first, released = (
            int(self.layout.first_receiver[j]) - self.layout.neurons,
            self.log.turn_step[:, j, None] >= 0,
        )
        adjoint = self._sources(j)(0)
        adjoint = adjoint * numbers(released, adjoint)
        with torch.enable_grad():
            cells = self.log.cells[:, first : first + junction.cell_count].detach().requires_grad_()
            live = [one.detach().requires_grad_(one.is_floating_point()) for one in given]
            leaves = [cells, *(one for one in live if one.requires_grad)]
            value = junction.value(cells, live)
            found = torch.autograd.grad(value, leaves, adjoint, allow_unused=True, materialize_grads=True)
        rest = iter(found[1:])
        self.of_live[j] = tuple(next(rest) if one.requires_grad else None for one in live)
        self.sight[j] = _Known(found[0])
        self._unsent(j, found[0])


class _Known(Sight):
    """Cells of a junction that waits, which see everything."""

    def __init__(self, worth: Tensor) -> None:
        self.worth = worth

    def seen(self, i: int | None) -> Tensor:
        return self.worth

    def look(self, interval: Interval) -> Tensor:
        if interval is None:
            return self.worth
        low, high = interval
        return self.worth * numbers((low <= NEVER) & (high > NEVER), self.worth)

    def in_time(self, i: int) -> bool:
        return True


class _Population(Sight):
    """Neurons, which see what arrives no later than a decisive evaluation.

    Args:
        worth: forward step and worth of a current there, of every decisive evaluation of a neuron, in order.
        at_end: worth of a current at the end of the timestep.
        later: whether currents go on to arrive after the last one.
    """

    def __init__(
        self, replay: Replay, p: int, worth: list[tuple[Tensor, Tensor]], at_end: Tensor, later: bool
    ) -> None:
        self.replay, self.p, self.later = replay, p, later
        self.first, last = worth[0][0], worth[0][0]
        for step, _ in worth[1:]:
            last = torch.maximum(last, step)
        decided = (p, NOWHERE) in replay.certain
        self.at_end = at_end if decided else at_end * numbers(self.first != NOT_YET, at_end)
        self.worth = list(worth)
        if not later:
            step, value = self.worth[-1]
            if len(worth) == 1:
                self.worth = [(step, value + self.at_end)]
            else:
                self.worth.append((last, self.at_end))

    @cached_property
    def _every(self) -> Tensor:
        total = sum((value for _, value in self.worth[1:]), self.worth[0][1])
        return total + self.at_end if self.later else total

    def _since(self, arrival: Tensor) -> Tensor:
        parts = [value * numbers(step >= arrival, value) for step, value in self.worth]
        total = sum(parts[1:], parts[0])
        return total + self.at_end if self.later else total

    def seen(self, i: int | None) -> Tensor:
        return (
            self._every if i is None or self.in_time(i) else self._since(self.replay.log.iterations[i].step)
        )

    def look(self, interval: Interval) -> Tensor:
        if interval is None:
            return self._every
        low, high = interval
        return self._every * numbers((self.first >= low) & (self.first < high), self._every)

    def in_time(self, i: int) -> bool:
        return (self.p, i) in self.replay.certain

    def at_turn(self) -> Tensor:
        """Return the worth of what arrives at the population's turn."""
        if (self.p, NOWHERE) in self.replay.certain:
            return self._every
        turn = self.replay.log.turn_step[:, self.p, None].int()
        found = self._since(turn)
        return found * numbers(turn >= 0, found)


class _Sum(Sight):
    """A junction that passes on what reaches it."""

    def __init__(self, replay: Replay, j: int) -> None:
        self.replay, self.j = replay, j
        self.relays = {None if replay.execution.layered else r.iteration: r for r in replay.log.relays[j]}
        self.known: dict[int | None, Tensor] = {}
        self.looked: Tensor | None = None

    def seen(self, i: int | None) -> Tensor:
        if i not in self.known:
            self.known[i] = self.replay._pulled(self.j, self.relays[i].amounts, i)
        return self.known[i]

    def look(self, interval: Interval) -> Tensor:
        if interval is not None:
            return self.replay._looked(self.j, interval)
        if self.looked is None:
            self.looked = self.replay._looked(self.j, None)
        return self.looked

    def in_time(self, i: int) -> bool:
        targets = (int(self.replay.layout.target[k]) for k in self.replay.structure.out_of[self.j])
        return all(self.replay.sight[target].in_time(i) for target in targets)


class _Max(Sight):
    """A junction that passes on by how much the maximum of every window rises: that of the cell which holds it."""

    def __init__(self, replay: Replay, j: int) -> None:
        self.replay, self.j = replay, j
        self.relays, self.windows = replay.log.relays[j], replay.structure.windows[j]
        self.steps = [replay.log.iterations[r.iteration].step for r in self.relays]

    def _to_cells(self, adjoint: Tensor, holders: Tensor) -> Tensor:
        cells = adjoint.new_zeros((len(adjoint), self.replay.structure.width[self.j]))
        return cells.scatter_add(1, holders, adjoint)

    @cached_property
    def _risen(self) -> dict[int | None, Tensor]:
        found: dict[int | None, Tensor] = {}
        after: Tensor | None = None
        total: Tensor | None = None
        for relay, step in zip(reversed(self.relays), reversed(self.steps), strict=True):
            i = None if self.replay.execution.layered else relay.iteration
            pulled = self.replay._pulled(self.j, relay.amounts, i)
            assert relay.holders is not None
            after = torch.zeros_like(pulled) if after is None else after
            worth = torch.where(step != NOWHERE, pulled, after)
            part = self._to_cells(worth - after, relay.holders)
            total, after = part if total is None else total + part, worth
            found[i] = total
        return found

    def seen(self, i: int | None) -> Tensor:
        return self._risen[i]

    def look(self, interval: Interval) -> Tensor:
        low, high = (torch.full_like(self.replay.everyone, end) for end in (NOWHERE, NEVER + 1))
        low, high = interval or (low, high)
        total: Tensor | None = None
        for relay, step in zip(reversed(self.relays), reversed(self.steps), strict=True):
            since = torch.where(step == NOWHERE, NEVER + 1, step)
            found = self.replay._looked(self.j, (torch.maximum(low, since), high))
            assert relay.holders is not None
            part = self._to_cells(found, relay.holders)
            total = part if total is None else total + part
            high = torch.minimum(high, since)
        first = self.windows.first.expand(len(low), -1)
        part = self._to_cells(self.replay._looked(self.j, (low, high)), first)
        return part if total is None else total + part

    def in_time(self, i: int) -> bool:
        return False
