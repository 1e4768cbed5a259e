"""Plain autograd through the event loop: unlayered backprop as first published, for comparison."""

import torch
from torch import Tensor
from torch.nn import functional

from snn_async import random_keys
from snn_async.checks import not_finite
from snn_async.engines.contract import (
    NOT_YET,
    Counts,
    Engine,
    Execution,
    PendingEvents,
    Simulation,
    Start,
    Values,
)
from snn_async.engines.torch import keys
from snn_async.engines.torch.maps import connections_of, current_maps, exact_products
from snn_async.errors import InputError, OptionError, RunawayError
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of
from snn_async.learning.rule import Rule
from snn_async.neurons import Neuron
from snn_async.schedulers import Momentum, Random
from snn_async.stopping import Output, Quiescent


class ThroughTheLoop(Rule):
    """The method of Koopman et al., "Exploring the Limitations of Layer Synchronization in Spiking Neural Networks",
    TMLR 2025 (arXiv 2408.05098), as it and the authors' public code compute it, in our own words.

    Per timestep, for all N neurons of a batch at once, with base, gain and threshold of the neurons' `begin`:

        V = base;  R = Q = P = 0;  I = W_in x + b_in
        repeat                                              # one forward step
            V = V + gain I where not R                      # where R, V stays what the reset made it
            s = surrogate(V - threshold) where not R;  P = V where s;  V = reset(V, s);  R |= s, but for dropout
            spikes += s;  Q += s
            M = the first F of all N neurons: queued ones first, by random key or by descending P + noise U(0, 1)
            E = Q M;  Q = Q (1 - M);  I = sum of W_l E_l + b_l over the layers l that any sample sends from
        until Q = 0 and no I > 0, in the whole batch

    and autograd through it; P, R and M carry no gradient, `reset` does unless the neuron detaches it. It runs in torch
    whatever the engine, in evaluation too. What is asked of a population stays its own: surrogate, reset, threshold.

    Accidents that are part of the method, each a difference from docs/design.md:

    - *Fillers get gradient.* Where fewer than F neurons are queued, M is filled with others; they send 0, but its
      surrogate gradient counts. With momentum those that spiked before come first, else the lower index.
    - *Every evaluation gets gradient*, not the decisive ones alone: all neurons able to spike are compared in every
      forward step, whether or not a current (or their turn) reached them.
    - *A layer that nobody in the batch sends from is left out*: it passes no gradient, not even to fillers.
    - *Samples influence each other*: by that, and because a timestep goes on until the whole batch is done.
    - *A last current that excites nobody is dropped*, inhibition included.
    - *The bias of a layer is added in every forward step in which a sample sends from it*, to all samples; that of the
      input once, with the input.
    - *Output spikes queue* and take places in M, though they lead nowhere.
    - *Spikes of a neuron that waits and spikes again* (refractory dropout) go as one event of amplitude 2.
    - *The gradient of a hard reset is cut in the next forward step*: where R, V is a constant. Only neurons that spike
      in a timestep's last forward step carry it into the next timestep.
    - `stop="output"` waits until every sample has its output spike: a single silent sample disables it.

    Not kept: spikes that such a stop leaves pending are dropped (the code leaks them into the next timestep);
    refractory dropout acts in training only; dropout of inputs acts; keys are counter-based (`snn_async.random_keys`),
    P is rounded as `momentum_key` says and ties go to the lower index; any dtype; a loop without end is an error.

    So F = None is not layered backpropagation, and a sample's spikes may depend on its batch. Activity: forward steps
    are the batch's, synaptic operations those of the events sent, neuron updates the evaluations.
    """

    name = "through_the_loop"

    def check(self, graph: Graph, execution: Execution) -> None:
        """Raise OptionError for what the published method does not have."""
        modes = zip(graph.populations, execution.refractory, strict=True)
        lacks = [f"the {j.kind} junction {j.name!r} (only populations and synapses)" for j in graph.junctions]
        lacks += [f"the recurrent edge {p.name!r}" for p in graph.projections if p.delayed]
        lacks += [f"the graded spikes of {p.name!r}" for p in graph.populations if not p.neuron.binary]
        lacks += [f"refractory={m!r} of {p.name!r} (only 'discard')" for p, m in modes if m != "discard"]
        if type(execution.scheduler) not in (Random, Momentum):
            lacks.append(f"scheduler={execution.scheduler} (only 'random' and 'momentum')")
        if not isinstance(execution.stop, Quiescent | Output):
            lacks.append(f"stop={execution.stop} (only 'quiescent' and 'output')")
        if execution.leftover != "drop":
            lacks.append(f"leftover={execution.leftover!r} (only 'drop')")
        if execution.input != "prioritized":
            lacks.append(f"input={execution.input!r} (only 'prioritized')")
        if lacks:
            raise OptionError(
                f"rule='through_the_loop', the published method, does not have {lacks[0]}; use rule='unlayered'"
            )

    def timestep(
        self, engine: Engine, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        """Run one timestep's loop; the engine is not asked.

        Raises:
            OptionError: if a log is asked for.
            InputError: if x is not finite, or for events carried over from another network's run.
            RunawayError: if it exceeds `max_forward_steps`.
        """
        if keep_log:
            raise OptionError("rule='through_the_loop' keeps no event log; a trace needs rule='unlayered'")
        if len(start.pending.source):
            raise InputError(
                "the state has pending events, which rule='through_the_loop' does not carry over; "
                "start without a state or use rule='unlayered'"
            )
        if not values.x.isfinite().all():
            raise not_finite(values.x[None])
        with exact_products():
            return _Loop(graph, execution, values, start).run()


class _Loop:
    """One timestep of a batch; what is not said otherwise is (B, N)."""

    def __init__(self, graph: Graph, execution: Execution, values: Values, start: Start) -> None:
        self.graph, self.execution, self.values, self.start = graph, execution, values, start
        self.layout = layout_of(graph)
        self.maps, self.connections = current_maps(graph, values), connections_of(graph, values.x.device)
        self.here = list(graph.slices.values())  # of each population
        self.output = graph.slices[graph.output]
        like, samples = values.base, len(values.base)
        self.potential = values.base
        self.current, self.spikes, self.queue = (torch.zeros_like(like) for _ in range(3))
        self.able = torch.ones_like(like, dtype=torch.bool)  # not refractory
        self.momentum = torch.zeros_like(like, dtype=torch.float64)  # potential at the last spike
        self.first_output = start.sample_ids.new_full((samples,), NOT_YET)
        self.operations, self.updates = (start.sample_ids.new_zeros(samples) for _ in range(2))
        self.step = 0

    def run(self) -> Simulation:
        arriving = torch.zeros_like(self.potential)
        for name, here in self.graph.input_slices.items():
            arriving = arriving + self._currents(name, self.values.x[:, here])
        while True:
            self._evaluate(arriving)
            self.step += 1
            if self._stopped():
                break
            arriving = self._send()
            if not self.queue.any() and not (arriving > 0).any():
                break
            if self.step >= self.execution.max_forward_steps:
                raise RunawayError(
                    f"timestep {self.start.timestep} of a batch has not ended after "
                    f"max_forward_steps={self.execution.max_forward_steps} forward steps; raise the limit"
                )
        return self._result()

    def _send(self) -> Tensor:
        """Return the currents that a forward group brings, with the biases of the layers that take part."""
        group = self._group()
        sent, self.queue = self.queue * group, self.queue * ~group
        arriving = torch.zeros_like(self.potential)
        for name, here in self.graph.slices.items():
            if sent[:, here].any():
                arriving = arriving + self._currents(name, sent[:, here])
        return arriving

    def _currents(self, source: str, amounts: Tensor) -> Tensor:
        """Return what `amounts` (B, size) sent by a population or an input bring to all neurons, with the bias."""
        total = torch.zeros_like(self.potential)
        for k, projection in enumerate(self.graph.projections):
            if projection.source != source:
                continue
            before, after = self.values.source_scale[k], self.values.target_scale[k]
            amount = amounts if before is None else amounts * before
            bias, first = int(self.layout.bias_start[k]), int(self.layout.first_target[k])
            current = self.maps[k](amount) + self.values.biases[bias : bias + projection.fan_out]
            if after is not None:
                current = current * after
            rest = self.graph.size - first - projection.fan_out
            total = total + functional.pad(current, (first, rest))
            degree = self.connections[k].degree
            if degree is not None:
                self.operations = self.operations + ((amount != 0) * degree).sum(1)
        return total

    def _evaluate(self, arriving: Tensor) -> None:
        """Add the currents, compare with the thresholds, reset, and queue the spikes."""
        self.current = self.current + torch.where(self.able, arriving, 0)
        self.updates = self.updates + self.able.sum(1)
        charge = self.values.gain * arriving
        potentials, after, spikes = [], [], []
        for population, here in zip(self.graph.populations, self.here, strict=True):
            neuron, threshold = population.neuron, self.values.threshold[:, here]
            u = _charged(neuron, self.potential[:, here], charge[:, here], self.able[:, here])
            s = _spikes(neuron, u - threshold, self.able[:, here])
            potentials.append(u.detach())
            spikes.append(s)
            after.append(_reset(neuron, u, s, threshold))
        self.potential, s = torch.cat(after, 1), torch.cat(spikes, 1)
        fired = s.detach() != 0
        self.momentum = torch.where(fired, torch.cat(potentials, 1).double(), self.momentum)
        self.able = self.able & ~self._refractory(fired)
        self.first_output = torch.where(
            (self.first_output == NOT_YET) & fired[:, self.output].any(1), self.step, self.first_output
        )
        self.spikes, self.queue = self.spikes + s, self.queue + s

    def _refractory(self, fired: Tensor) -> Tensor:
        """Return which of the neurons that fired stay silent from now on: all, but for refractory dropout."""
        rates = self.execution.refractory_dropout
        if not any(rates):
            return fired
        uniform = self._uniform(random_keys.REFRACTORY_DROPOUT)
        kept = [uniform[:, here] >= rate for rate, here in zip(rates, self.here, strict=True)]
        return fired & torch.cat(kept, 1)

    def _stopped(self) -> bool:
        stop, first = self.execution.stop, self.first_output
        if not isinstance(stop, Output) or bool((first == NOT_YET).any()):
            return False
        return self.step > int(first.max()) + stop.extra_steps

    def _group(self) -> Tensor:
        """Return the forward group as a mask: the first F neurons, queued ones before all others."""
        size = self.execution.forward_group_size
        if size is None or size >= self.graph.size:
            return torch.ones_like(self.able)
        order = self._priority().argsort(dim=1, stable=True)
        idle = (self.queue == 0).gather(1, order)
        order = order.gather(1, idle.byte().argsort(dim=1, stable=True))
        return torch.zeros_like(self.able).scatter(1, order[:, :size], True)

    def _priority(self) -> Tensor:
        """Return the scheduler's priority of every neuron, queued or not, lowest first."""
        scheduler = self.execution.scheduler
        if isinstance(scheduler, Momentum) and not scheduler.noise:
            return -keys.momentum_key(self.momentum)
        uniform = self._uniform(random_keys.ORDER)
        if isinstance(scheduler, Momentum):
            return -(keys.momentum_key(self.momentum) + scheduler.noise * uniform)
        return uniform

    def _uniform(self, purpose: int) -> Tensor:
        """Return this forward step's random numbers, float64."""
        start, first = self.start, self.layout.inputs
        sample = start.sample_ids[:, None]
        source = torch.arange(first, first + self.graph.size, device=sample.device)
        return keys.uniform(
            start.seed, sample, start.timestep, purpose, torch.full_like(sample, self.step), source
        )

    def _result(self) -> Simulation:
        per_population = [self.spikes[:, here].detach().sum(1).long() for here in self.here]
        counts = Counts(
            spikes=torch.stack(per_population, 1),
            forward_steps=torch.full_like(self.first_output, self.step),
            first_output_step=self.first_output,
            synaptic_operations=self.operations,
            neuron_updates=self.updates,
        )
        nothing = PendingEvents.none(self.values.x.detach())
        return Simulation(self.spikes, self.current, self.potential, counts, nothing, None)


def _charged(neuron: Neuron, potential: Tensor, charge: Tensor, able: Tensor) -> Tensor:
    """Return the potential before the comparison; a refractory neuron ignores the charge."""
    # the published (V + I) * not R, for a reset to any value: a constant
    held = torch.full_like(potential, neuron.reset_value) if neuron.reset == "value" else potential
    return torch.where(able, potential + charge, held)


def _spikes(neuron: Neuron, excess: Tensor, able: Tensor) -> Tensor:
    if not neuron.spiking:
        return torch.zeros_like(excess)
    return torch.where(able, neuron.surrogate(excess).to(excess.dtype), 0)


def _reset(neuron: Neuron, u: Tensor, s: Tensor, threshold: Tensor) -> Tensor:
    s = s.detach() if neuron.detach_reset else s
    if neuron.reset == "value":
        return u * (1 - s) + neuron.reset_value * s
    return u - threshold * s if neuron.reset == "subtract" else u
