"""The oracle: the masked sum of docs/design.md, section 5, computed from an event log and left to autograd.

    u_i = base_i + b_i + sum_j w_ji s_j [ j was delivered to i no later than i's decisive evaluation ]
    s_i = H(u_i - threshold_i)

Every decisive evaluation is one spike variable. Silent ones (value 0) meet each target at its first decisive
evaluation of the timestep; delivered ones at the first decisive evaluation not before their delivery.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from snn_async.engines.contract import Execution, Start, Values
from snn_async.engines.eventlog import EventLog
from snn_async.engines.layout import Layout, layout_of
from snn_async.graph import Graph

NEVER = 1 << 30


def masked_sum(
    graph: Graph,
    execution: Execution,
    values: Values,
    start: Start,
    log: EventLog,
    surrogates: Sequence[Callable[[Tensor], Tensor]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return differentiable spikes and potentials (T, B, N) of the run that `log` records.

    Args:
        surrogates: one function of u - threshold per population; the neurons' own if None. With smooth
            ones the result is a smooth function of `values`, and its gradient can be checked by finite
            differences.
    """
    samples = [
        _Sample(graph, execution, values, start, log, surrogates, b).run() for b in range(values.x.shape[1])
    ]
    return torch.stack([s for s, _ in samples], 1), torch.stack([v for _, v in samples], 1)


class _Sample:
    def __init__(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        log: EventLog,
        surrogates: Sequence[Callable[[Tensor], Tensor]] | None,
        b: int,
    ) -> None:
        self.graph, self.execution, self.values, self.log, self.b = graph, execution, values, log, b
        self.layout: Layout = layout_of(graph)
        self.neurons = [population.neuron for population in graph.populations]
        self.surrogates = surrogates or [neuron.surrogate for neuron in self.neurons]
        self.spikes_before = torch.from_numpy(start.spikes[b].astype(np.int64))
        self.spike_variable: dict[int, Tensor] = {}
        layout = self.layout
        self.weights = [
            values.weights[w : w + i * o].view(i, o)
            for w, i, o in zip(layout.weight_start, layout.fan_in, layout.fan_out, strict=True)
        ]

    def run(self) -> tuple[Tensor, Tensor]:
        potential = self.values.potentials[self.b]
        spikes, potentials = [], []
        for t in range(len(self.values.x)):
            base, residual = self._begin(potential)
            self.silent = torch.zeros_like(base)
            count = torch.zeros_like(base)
            after = torch.zeros_like(base)
            for p in range(len(self.neurons)):
                here = slice(*self.layout.start[p : p + 2])
                u, s, silent = self._population(t, p, base[here])
                after = torch.cat((after[: here.start], u, after[here.stop :]))
                count = torch.cat((count[: here.start], s, count[here.stop :]))
                self.silent = torch.cat((self.silent[: here.start], silent, self.silent[here.stop :]))
            potential = after + residual
            self.spikes_before = count.detach().round().long()
            spikes.append(count)
            potentials.append(potential)
        return torch.stack(spikes), torch.stack(potentials)

    def _begin(self, v: Tensor) -> tuple[Tensor, Tensor]:
        bases, residuals = [], []
        self.swallowed = torch.zeros(len(v), dtype=torch.bool)
        for p, neuron in enumerate(self.neurons):
            here = slice(*self.layout.start[p : p + 2])
            threshold, fired, before = self.values.threshold[here], self.spikes_before[here], v[here]
            if neuron.delayed_reset and neuron.reset == "value":
                before = torch.where(fired > 0, torch.full_like(before, neuron.reset_value), before)
            base = self.values.leak[here] * before + self.values.offset[here]
            if neuron.delayed_reset and neuron.reset == "subtract":
                base = base - fired.to(base) * threshold
            if neuron.swallow_input:
                base = torch.where(fired > 0, torch.full_like(base, neuron.reset_value), base)
                self.swallowed[here] = fired > 0
            residual = torch.zeros_like(base)
            if neuron.retest_residual and neuron.spiking:
                above = before >= threshold if neuron.inclusive else before > threshold
                residual = above.to(base) * threshold
            bases.append(base - residual)
            residuals.append(residual)
        return torch.cat(bases), torch.cat(residuals)

    def _population(self, t: int, p: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the final potential, the spike count and the silent spike variable of each neuron."""
        log, b, neuron, refractory = self.log, self.b, self.neurons[p], self.execution.refractory[p]
        here = slice(*self.layout.start[p : p + 2])
        threshold = self.values.threshold[here]
        fired = self._spikes_of(t, here)  # (row, index within the population, step)
        silent_step = torch.from_numpy(log.silent_step[t, b, here].astype(np.int64))
        first, last = self._decisive_range(silent_step, fired)
        arrivals = self._arrivals(t, p)
        steps = sorted({*arrivals, *silent_step[silent_step >= 0].tolist(), *(step for *_, step in fired)})
        count, silent = torch.zeros_like(u), torch.zeros_like(u)
        would_be = self._would_be(t, p, u)
        for step in steps:
            lands = ~self.swallowed[here] & ((step <= last) | (refractory == "integrate"))
            u = u + torch.where(lands, arrivals.get(step, torch.zeros_like(u)), 0.0)
            u = u + torch.where(~self.swallowed[here] & (first == step), would_be, 0.0)
            if not neuron.spiking:
                continue
            firing = torch.zeros(len(u), dtype=torch.bool)
            firing[[i for _, i, at in fired if at == step]] = True
            deciding = firing | (silent_step == step)
            s = torch.where(deciding, self.surrogates[p](u - threshold), 0.0)
            count = count + s
            silent = torch.where(silent_step == step, s, silent)
            for row, i, at in fired:
                if at == step:
                    self.spike_variable[row] = s[i]
            u = torch.where(deciding, self._reset(p, u, s, threshold), u)
        return u, count, silent

    def _reset(self, p: int, u: Tensor, s: Tensor, threshold: Tensor) -> Tensor:
        neuron = self.neurons[p]
        if neuron.delayed_reset or neuron.reset == "none":
            return u
        if neuron.detach_reset:
            s = s.detach()
        if neuron.reset == "subtract":
            return u - s * threshold
        return (1 - s) * u + s * neuron.reset_value

    def _spikes_of(self, t: int, here: slice) -> list[tuple[int, int, int]]:
        log, first = self.log, self.layout.inputs + here.start
        rows = range(log.emitted[self.b, 1 + t], log.emitted[self.b, 2 + t])
        size = here.stop - here.start
        return [
            (row, int(log.source[row]) - first, int(log.step[row]))
            for row in rows
            if 0 <= log.source[row] - first < size
        ]

    @staticmethod
    def _decisive_range(silent_step: Tensor, fired: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
        """Forward steps of every neuron's first and last decisive evaluation."""
        first = torch.where(silent_step >= 0, silent_step, NEVER)
        last = silent_step.clone()
        for _, i, step in fired:
            first[i], last[i] = min(int(first[i]), step), max(int(last[i]), step)
        return first, last

    def _arrivals(self, t: int, p: int) -> dict[int, Tensor]:
        """Currents into population p by forward step: bias, input and delivered events."""
        log, b = self.log, self.b
        arrivals: dict[int, Tensor] = {}
        turn_step = int(log.turn_step[t, b, p])
        evaluated = turn_step >= 0 or self.execution.leftover == "carry"
        rows = log.deliveries[log.delivered[b, t] : log.delivered[b, t + 1]].tolist() if evaluated else []
        for k in self._into(p):
            scale = self.values.target_scale[k]
            target_scale = 1.0 if scale is None else scale[t, b]

            def arrive(step: int, current: Tensor, scale: "Tensor | float" = target_scale) -> None:
                arrivals[step] = arrivals.get(step, 0.0) + current * scale

            if turn_step >= 0:
                first = int(self.layout.bias_start[k])
                arrive(turn_step, self.values.biases[first : first + int(self.layout.fan_out[k])])
            if self.layout.source[k] < 0 and evaluated and not self.execution.queues_input:
                at = turn_step if self.execution.layered else 0
                arrive(at, (self._source_scale(k, t) * self.values.x[t, b]) @ self.weights[k])
            for row in rows:
                j = int(log.source[row] - self.layout.first_source[k])
                if 0 <= j < self.layout.fan_in[k]:
                    spike = self._variable(row) * self._source_scale(k, t)[j]
                    arrive(int(log.delivered_step[row]), spike * self.weights[k][j])
        return arrivals

    def _would_be(self, t: int, p: int, u: Tensor) -> Tensor:
        """Currents (of value 0) from silent neurons and, if inputs are queued, from zero inputs."""
        total = torch.zeros_like(u)
        for k in self._into(p):
            source = self.layout.source[k]
            if source >= 0:
                value = self.silent[slice(*self.layout.start[source : source + 2])]
            elif not self.execution.queues_input:
                continue
            else:
                x = self.values.x[t, self.b]
                value = torch.where(x == 0, x, 0.0)
            scale = self.values.target_scale[k]
            current = (self._source_scale(k, t) * value) @ self.weights[k]
            total = total + (current if scale is None else current * scale[t, self.b])
        return total

    def _into(self, p: int) -> list[int]:
        return [int(k) for k in np.flatnonzero(self.layout.target == p)]

    def _source_scale(self, k: int, t: int) -> Tensor:
        scale = self.values.source_scale[k]
        return self.values.x.new_ones(int(self.layout.fan_in[k])) if scale is None else scale[t, self.b]

    def _variable(self, row: int) -> Tensor:
        """The spike variable of a row, its input value, or a constant if it was pending before the run."""
        log = self.log
        if row < log.emitted[self.b, 1]:
            return self.values.x.new_tensor(float(log.amplitude[row]))
        if log.source[row] < self.layout.inputs:
            t = int(np.searchsorted(log.emitted[self.b], row, side="right")) - 2
            return self.values.x[t, self.b, int(log.source[row])]
        return self.spike_variable[row]
