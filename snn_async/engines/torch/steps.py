"""One forward step of every sample: deliver, let junctions pass on, evaluate, emit (docs/design.md, section 3).

Samples never wait for each other: each has its own forward step, in tensors (B,), and what a sample takes no part in
is masked. Neurons are (B, N), receivers (B, N + C).
"""

import torch
from torch import Tensor

from snn_async import random_keys
from snn_async.engines.contract import NOT_YET, Execution, Start, Values
from snn_async.engines.torch import keys
from snn_async.engines.torch.device import any_of, numbers
from snn_async.engines.torch.junctions import Junctions
from snn_async.engines.torch.log import Iteration, Relay
from snn_async.engines.torch.maps import current_maps
from snn_async.engines.torch.structure import structure_of
from snn_async.engines.torch.table import Table
from snn_async.graph import Graph


class ForwardSteps:
    """The state of all samples while a timestep's events run, and what a forward step does with it.

    Attributes:
        base, current: (B, n) of every population: a potential is base + gain * current; its spikes move the base.
        arriving: (B, n) currents of this forward step, of the populations that get any.
        reached: (B, N + C) receivers of this forward step's events; `touched`: their nodes; `whole`: populations all
            of whose neurons are evaluated in all samples, where `reached` says nothing.
        able: (B, n) of every population: able to spike, i.e. not refractory.
        seen: populations that were evaluated before; of the others nothing has changed yet.
        count: (B, N) decisive evaluations with a spike, if there may be several.
        turn_step: (B, P + J) see `EventLog`.
        bias: currents that arrive at each population's turn; has_bias: (P,) whether it has any.
        step: (B,) the next forward step's number; at the end, how many there were.
        iterations, relays: what `TorchLog` keeps; `sent`: what instant junctions pass on behind a barrier.
        arrived: behind a barrier, (B, 1) the forward step in which each projection delivers, `NEVER` if it does not.
    """

    def __init__(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> None:
        x = values.x
        self.keep_log = keep_log
        self.structure = structure = structure_of(graph, execution, x.device)
        self.layout, self.execution, self.values, self.start = structure.layout, execution, values, start
        self.maps, samples = current_maps(graph, values), len(x)
        populations = range(self.layout.populations)
        self.base = [values.base[:, structure.neurons_of(p)] for p in populations]
        self.gain = [values.gain[:, structure.neurons_of(p)] for p in populations]
        self.threshold = [values.threshold[:, structure.neurons_of(p)] for p in populations]
        self.current = [values.base.new_zeros(()).expand(one.shape) for one in self.base]
        self.able = [torch.ones((), dtype=torch.bool, device=x.device).expand(one.shape) for one in self.base]
        self.arriving: dict[int, Tensor] = {}
        receivers = (samples, self.layout.neurons + self.layout.cells)
        self.reached = torch.zeros(receivers, dtype=torch.bool, device=x.device)
        self.touched: set[int] = set()
        self.whole: set[int] = set()
        self.seen: set[int] = set()
        whole = start.sample_ids  # of their type and device
        self.count = whole.new_zeros(values.base.shape if structure.repeats else 0)
        self.turn_step = whole.new_full((samples, len(structure.turn)), NOT_YET)
        self.step, self.operations, self.updates = (whole.new_zeros(samples) for _ in range(3))
        self.first_output = torch.full_like(self.step, NOT_YET)
        self.bias = [structure.bias(values, p) for p in populations]
        changes = (values.biases != 0).long()
        of_nodes = whole.new_zeros(len(structure.turn)).index_add(0, structure.biased, changes) > 0
        self.has_bias = of_nodes[: self.layout.populations]
        self.junctions = Junctions(graph, self.layout, structure.windows, values)
        self.iterations: list[Iteration] = []
        self.relays: dict[int, list[Relay]] = {j: [] for j in structure.instant}
        self.arrived: dict[int, Tensor] = {}
        inputs, anything = self.layout.inputs, len(start.pending.sample) > 0
        first = 0 if anything or execution.queues_input else inputs
        end = inputs + self.layout.neurons
        end += self.layout.units if anything or self.junctions.waiting else 0
        kept = self.layout.neurons if structure.moves_on else 0
        self.table = Table(first, end, values.base, start, values.pending.detach(), kept)

    # -- delivering ------------------------------------------------------------------------------------

    def _deliver(self, edges: list[int], amounts: Tensor, counts: Tensor) -> None:
        """Add what amounts (B, units) of a node bring through projections, and mark the receivers they reach.

        Args:
            counts: (B, units) how many events an amount is made of.
        """
        for k in edges:
            part = self.structure.taken(k)
            self._deliver_through(k, amounts[:, part], counts[:, part])

    def _deliver_through(self, k: int, amounts: Tensor, counts: Tensor) -> None:
        """The same of what one projection takes, (B, fan_in)."""
        scale, targets, node = (
            self.values.source_scale[k],
            self.structure.targets(k),
            int(self.layout.target[k]),
        )
        sent, events = (amounts, counts) if scale is None else (amounts * scale, counts * (scale != 0))
        current, after = self.maps[k](sent), self.values.target_scale[k]
        current = current if after is None else current * after
        if node < self.layout.populations:
            before = self.arriving.get(node)
            self.arriving[node] = current if before is None else before + current
        else:
            first = self.layout.neurons
            self.junctions.cells[:, targets.start - first : targets.stop - first] += current
        connections = self.structure.connections[k]
        anyway = node in self.whole or (self.execution.layered and node < self.layout.populations)
        if not anyway and node not in self.junctions.waiting:
            self.reached[:, targets] |= connections.reach(events > 0)
        self.touched.add(node)
        if connections.degree is not None:
            number = events.view(torch.uint8) if events.dtype == torch.bool else events
            self.operations = self.operations + (number.double() @ connections.degree.double()).long()

    def _pass_on(self, nodes: set[int]) -> None:
        """Let junctions that do not wait pass on what reached them in this forward step from `nodes`."""
        for j in self.junctions.instant:
            if any(int(self.layout.source[k]) in nodes for k in self.structure.into[j]):
                nodes.add(j)
                passed, amounts = self._relay(j)
                self._deliver(self.structure.out_of[j], amounts, passed)

    def _relay(self, j: int) -> tuple[Tensor, Tensor]:
        """Return which of a junction's units pass something on at once, (B, U), and what (B, U)."""
        passed, amounts, holders = self.junctions.pass_on(j, self.reached[:, self.layout.neurons :])
        if self.keep_log:
            self.relays[j].append(Relay(len(self.iterations), passed, amounts, holders))
        return passed, amounts

    # -- evaluating ------------------------------------------------------------------------------------

    def _evaluate(self, stepping: Tensor, at_turn: Tensor, turning: list[int]) -> None:
        """Finish a forward step of the samples `stepping` (B,): one evaluation of every neuron that was reached.

        Args:
            at_turn: (B, P) whose turn it is: bias and last timestep's spikes arrive, everybody is evaluated.
            turning: the populations of which that can be true.
        """
        step, populations = self.step[:, None], self.layout.populations
        if turning:
            self.turn_step[:, :populations] = torch.where(at_turn, step, self.turn_step[:, :populations])
        for p in turning:
            now, bias = at_turn[:, p, None], self.bias[p]
            if p not in self.whole:
                self.reached[:, self.structure.neurons_of(p)] |= now
                bias = bias * now.view(torch.uint8)
            before = self.arriving.get(p)
            self.arriving[p] = bias.expand(self.base[p].shape) if before is None else before + bias
            self._deliver_unsent(p, at_turn[:, p])
        for p in sorted(self.touched.union(turning)):
            if p < populations:
                self._evaluate_population(p)
        if self.layout.cells:
            self.reached[:, self.layout.neurons :] = False
        self.touched.clear()
        self.whole.clear()
        self.step = self.step + stepping

    def _evaluate_population(self, p: int) -> None:
        """Evaluate the neurons of a population that were reached."""
        here, mode, whole = self.structure.neurons_of(p), self.execution.refractory[p], p in self.whole
        arriving, able, fresh = self.arriving.pop(p), self.able[p], p not in self.seen
        if fresh:
            self.current[p] = arriving
        else:  # who is refractory may ignore them
            self.current[p] = self.current[p] + (
                arriving * numbers(able, arriving) if mode == "discard" else arriving
            )
        evaluated = able if whole else able & self.reached[:, here]
        if whole and (fresh or mode == "integrate"):
            self.updates = self.updates + (here.stop - here.start)
        else:
            counted = self.reached[:, here] if mode == "integrate" else evaluated
            self.updates = self.updates + counted.sum(1)
        potential = self._potential(p)
        fires, value = self._spikes(p, None if whole and fresh else evaluated, potential)
        self._record(p, None if whole and fresh else evaluated, fires, value, potential)
        self._spike(p, fires, value)
        self.seen.add(p)
        if not whole:
            self.reached[:, here] = False

    def _record(
        self, p: int, evaluated: Tensor | None, fires: Tensor | None, value: Tensor, potential: Tensor
    ) -> None:
        """Keep decisive evaluations of a population's neurons, and let what fires be pending.

        Args:
            evaluated: (B, n) which were; None for all.
            fires: (B, n); None for nobody.
        """
        table, here, repeats = self.table, self.structure.neurons_of(p), self.structure.repeats
        columns, step = table.here(self.structure.sources(p)), self.step[:, None].int()
        leads, count = bool(self.structure.out_of[p]), self.count[..., here]
        for m, plane in enumerate(table.planes):
            at, own = evaluated, fires
            if repeats:
                at = count == m if at is None else at & (count == m)
                own = None if own is None else own & (count == m)
            fields = [(plane.step[:, columns], step), (plane.potential[:, columns], potential)]
            if plane.current is not None:
                fields.append((plane.current[:, here], self.current[p]))
            for field, new in fields:
                if at is None:
                    field.copy_(new.expand_as(field))
                else:
                    torch.where(at, new, field, out=field)
            if own is not None:
                plane.amplitude[:, columns] += value * numbers(own, value) if repeats else value
                if leads:
                    plane.alive[:, columns] |= own
                    table.widen(columns)
        if fires is not None and repeats:
            count += fires

    def _deliver_unsent(self, node: int, now: Tensor) -> None:
        """Deliver last timestep's spikes, or settled potentials, to a node, in the samples `now` (B,)."""
        for k in self.structure.delayed:
            if int(self.layout.target[k]) == node:
                if self.layout.settled[k]:
                    p = int(self.layout.source[k])
                    amounts = self._potential(p)[:, self.structure.taken(k)]
                else:
                    amounts = self.structure.last_spikes(self.values, k)
                amounts = torch.where(now[:, None], amounts, 0.0)
                self._deliver_through(k, amounts, amounts != 0)

    def _take_turns(self, taken: Tensor, populations: list[int]) -> None:
        """Let turns `taken` (B, P) of some populations pass without a forward step: nothing arrives."""
        count, step = self.layout.populations, self.step[:, None]
        self.turn_step[:, :count] = torch.where(taken, step, self.turn_step[:, :count])
        for p in populations:
            evaluated, potential = taken[:, p, None] & self.able[p], self._potential(p)
            self._record(p, evaluated, None, potential, potential)
            self.updates = self.updates + evaluated.sum(1)

    def _potential(self, p: int) -> Tensor:
        """Return the potentials (B, n) of a population as they are now."""
        return self.base[p] + self.gain[p] * self.current[p]

    def _spikes(self, p: int, able: Tensor | None, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of a population's neurons spike, and the values, 0 for others, (B, n).

        Args:
            able: (B, n) which can; None for all.
            u: (B, n) their potentials.
        """
        neuron, threshold = self.structure.neurons[p], self.threshold[p]
        if not neuron.spiking:
            return torch.zeros_like(u, dtype=torch.bool), torch.zeros_like(u)
        if not neuron.binary:
            value = neuron.value(u, threshold)
            value = value if able is None else torch.where(able, value, 0.0)
            return value != 0, value
        fires = u >= threshold if neuron.inclusive else u > threshold
        fires = fires if able is None else fires & able
        return fires, numbers(fires, u)

    def _spike(self, p: int, fires: Tensor, value: Tensor) -> None:
        """Reset a population's neurons that fire (B, n), and make them refractory."""
        neuron = self.structure.neurons[p]
        if not neuron.spiking:
            return
        if p == self.layout.output:
            first = any_of(fires, 1) & (self.first_output == NOT_YET)
            self.first_output = torch.where(first, self.step, self.first_output)
        if neuron.reset == "subtract":
            self.base[p] = self.base[p] - value * self.threshold[p]
        elif neuron.reset == "value":
            moved = neuron.reset_value - self.gain[p] * self.current[p]
            self.base[p] = torch.where(fires, moved, self.base[p])
        if self.execution.refractory[p] == "off":
            return
        rate, resting = self.execution.refractory_dropout[p], fires
        if rate:
            sources = self.structure.sources(p)
            number = keys.uniform(
                self.start.seed,
                self.start.sample_ids[:, None],
                self.start.timestep,
                random_keys.REFRACTORY_DROPOUT,
                self.step[:, None],
                torch.arange(sources.start, sources.stop, device=fires.device),
            )
            resting = fires & (number >= rate)
        self.able[p] = ~resting if p not in self.seen else self.able[p] & ~resting
