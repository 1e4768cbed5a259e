"""The numba engine: compiled once per machine, for the CPU.

One kernel runs T timesteps of `LinearNeuron`. The events of one timestep of any neuron are the case of T = 1 with the
given base as the potential, leak 1, offset 0 and nothing delayed.
"""

import numpy as np
import torch
from torch import Tensor

from snn_async.checks import not_finite
from snn_async.engines.contract import (
    Adjoints,
    Counts,
    Execution,
    Gradients,
    Simulation,
    Slopes,
    Start,
    Values,
)
from snn_async.engines.numba import codes, records
from snn_async.engines.numba.arrays import (
    SCHEDULERS,
    Floats,
    array_of,
    carried_of,
    results,
    rows_of,
    rules_of,
    tensors_of,
)
from snn_async.engines.numba.backward.slopes import GIVEN, Forms, closed_forms
from snn_async.engines.numba.chunks import Part, replay_chunks, run_chunks
from snn_async.engines.numba.geometry import SYNAPSES
from snn_async.engines.numba.log import NumbaLog, joined_left, logs_of
from snn_async.engines.numba.net import JUNCTIONS, net_of
from snn_async.engines.numba.sequence import (
    SequenceAdjoints,
    SequenceGradients,
    SequenceLog,
    SequenceSimulation,
    SequenceValues,
)
from snn_async.errors import RunawayError, UnsupportedByEngineError
from snn_async.graph import Graph
from snn_async.learning.slopes import surrogate_slopes
from snn_async.neurons import LinearNeuron


class NumbaEngine:
    """Compiled for the CPU, float32 and float64; binary spikes, built-in schedulers, synapses that are data."""

    name = "numba"

    def check(self, graph: Graph, execution: Execution) -> None:
        if type(execution.scheduler) not in SCHEDULERS:
            raise UnsupportedByEngineError(
                f"engine 'numba' cannot run the scheduler {execution.scheduler!r}, only the built-in "
                f"{sorted(s.__name__.lower() for s in SCHEDULERS)}; use backend='torch'"
            )
        for population in graph.populations:
            if not population.neuron.binary:
                raise UnsupportedByEngineError(
                    f"engine 'numba' cannot run {population.name!r}, whose spikes are not 0 or 1; use backend='torch'"
                )
        for junction in graph.junctions:
            if junction.kind not in JUNCTIONS:
                raise UnsupportedByEngineError(
                    f"engine 'numba' cannot run {junction.name!r}, a function that waits for all it takes; use "
                    "backend='torch'"
                )
        for projection in graph.projections:
            if type(projection.synapses) not in SYNAPSES:
                raise UnsupportedByEngineError(
                    f"engine 'numba' cannot run projection {projection.name!r} ({projection.synapses.describe()}); "
                    "use backend='torch'"
                )

    # -- one timestep of any neurons -------------------------------------------------------------------

    def simulate(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        tensors = _one_timestep(graph, values, start)
        net, rules = net_of(graph, execution, False), rules_of(execution, start)
        carried = carried_of(start.pending, values.pending, len(values.x))
        out = results(1, len(values.x), net, tensors.x.dtype, keep_log, True)
        parts, bounds = run_chunks(net, rules, tensors, carried, out, keep_log)
        _raise_for(parts, values.x[None], execution, start)
        pending = joined_left(out, parts, start.timestep)
        log = NumbaLog(net, rules, logs_of(out, parts, carried), bounds) if keep_log else None
        spikes, current, potential = (
            torch.from_numpy(array[0]) for array in (out.spikes, out.arrived, out.potentials)
        )
        counts = Counts(*(torch.from_numpy(array[0]) for array in _counts(out)))
        return Simulation(spikes, current, potential, counts, pending, log)

    def replay(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        simulation: Simulation,
        slopes: Slopes,
        adjoints: Adjoints,
        needs_x: bool,
    ) -> Gradients:
        assert isinstance(simulation.log, NumbaLog)
        tensors = _one_timestep(graph, values, start)
        run = _run(
            graph,
            simulation.spikes[None],
            simulation.potential[None],
            None,
            slopes,
            adjoints.spikes,
            adjoints.current,
            adjoints.potential,
            adjoints.pending,
            values.biases.requires_grad,
        )
        own = _own(tensors, values.pending, needs_x)
        found = replay_chunks(
            net_of(graph, execution, False),
            rules_of(execution, start),
            tensors,
            simulation.log.chunks,
            run,
            own | {name: np.zeros_like(tensors.potentials) for name in ("gain", "threshold")},
            summed=("weights", "biases", "leak", "offset"),
        )
        assert found is not None
        return Gradients(
            x=found["x"][0] if needs_x else None,
            weights=found["weights"],
            biases=found["biases"],
            base=found["potentials"],
            gain=found["gain"],
            threshold=found["threshold"],
            last_spikes=found["last_spikes"],
            pending=found["carried"],
        )

    # -- T timesteps of LinearNeuron -------------------------------------------------------------------

    def runs_sequences(self, graph: Graph) -> bool:
        """Return whether `simulate_sequence` can run the graph's neurons."""
        return all(type(population.neuron) is LinearNeuron for population in graph.populations)

    def simulate_sequence(
        self, graph: Graph, execution: Execution, values: SequenceValues, start: Start, keep_log: bool
    ) -> SequenceSimulation:
        """Run T timesteps, the first of which `start` describes; raises what `simulate` raises."""
        tensors = _sequence(graph, values, start)
        net, rules = net_of(graph, execution, True), rules_of(execution, start)
        steps, samples, _ = values.x.shape
        carried = carried_of(start.pending, values.pending, samples)
        out = results(steps, samples, net, tensors.x.dtype, keep_log, False)
        parts, bounds = run_chunks(net, rules, tensors, carried, out, keep_log)
        _raise_for(parts, values.x, execution, start)
        pending = joined_left(out, parts, start.timestep)
        return SequenceSimulation(
            spikes=torch.from_numpy(out.spikes),
            potentials=torch.from_numpy(out.potentials),
            counts=Counts(*(torch.from_numpy(array) for array in _counts(out))),
            pending=pending,
            log=SequenceLog(logs_of(out, parts, carried), bounds) if keep_log else None,
        )

    def replay_sequence(
        self,
        graph: Graph,
        execution: Execution,
        values: SequenceValues,
        start: Start,
        simulation: SequenceSimulation,
        adjoints: SequenceAdjoints,
        needs_x: bool,
    ) -> SequenceGradients:
        """Return the gradients of T timesteps.

        Raises:
            GradientError: if a surrogate's derivative is not finite.
        """
        assert simulation.log is not None
        tensors, log, forms = _sequence(graph, values, start), simulation.log, closed_forms(graph)

        def replayed(forms: Forms | None, slopes: Slopes | None) -> dict[str, Tensor] | None:
            return replay_chunks(
                net_of(graph, execution, True),
                rules_of(execution, start),
                tensors,
                log.chunks,
                _run(
                    graph,
                    simulation.spikes,
                    simulation.potentials,
                    forms,
                    slopes,
                    adjoints.spikes,
                    None,
                    adjoints.potentials,
                    adjoints.pending,
                    values.biases.requires_grad,
                ),
                _own(tensors, values.pending, needs_x),
                summed=("weights", "biases", "leak", "offset", "gain", "threshold"),
            )

        found = None if forms is None else replayed(forms, None)
        if found is None:  # a surrogate that only autograd knows, or one whose slope is not finite
            found = replayed(None, surrogate_slopes(graph, log, values.threshold))
            assert found is not None
        return SequenceGradients(
            x=found["x"] if needs_x else None,
            weights=found["weights"],
            biases=found["biases"],
            potentials=found["potentials"],
            leak=found["leak"],
            gain=found["gain"][0],
            offset=found["offset"],
            threshold=found["threshold"][0],
            last_spikes=found["last_spikes"],
            pending=found["carried"],
        )


def _one_timestep(graph: Graph, values: Values, start: Start) -> records.Tensors:
    base, last_spikes = array_of(values.base), array_of(values.last_spikes)
    return tensors_of(
        graph,
        start,
        values,
        x=array_of(values.x)[None],
        leak=np.ones(graph.size, dtype=base.dtype),
        offset=np.zeros(graph.size, dtype=base.dtype),
        gain=rows_of(values.gain),
        threshold=rows_of(values.threshold),
        potentials=base,
        fired=last_spikes,
        last_spikes=last_spikes,
    )


def _sequence(graph: Graph, values: SequenceValues, start: Start) -> records.Tensors:
    return tensors_of(
        graph,
        start,
        values,
        x=array_of(values.x),
        leak=array_of(values.leak),
        offset=array_of(values.offset),
        gain=array_of(values.gain)[None],
        threshold=array_of(values.threshold)[None],
        potentials=array_of(values.potentials),
        fired=array_of(values.fired),
        last_spikes=array_of(values.last_spikes),
    )


def _raise_for(parts: list[Part], x: Tensor, execution: Execution, start: Start) -> None:
    """Raise what stopped a chunk.

    Args:
        x: (T, B, S).
    """
    for part in parts:
        b, status, t = part.stopped
        if status == codes.NOT_FINITE:
            raise not_finite(x)
        if status == codes.RUNAWAY:
            raise RunawayError(
                f"timestep {start.timestep + t} of sample {start.sample_ids[b]} is not quiescent after "
                f"max_forward_steps={execution.max_forward_steps} forward steps; raise the limit, "
                "use refractory='discard' or 'integrate', or a stop rule"
            )


def _counts(out: records.Out) -> tuple[Floats, ...]:
    """The members of `Counts` as arrays, with a leading T."""
    return out.population_spikes, out.forward_steps, out.first_output, out.operations, out.updates


def _run(
    graph: Graph,
    spikes: Tensor,
    potentials: Tensor,
    forms: Forms | None,
    slopes: Slopes | None,
    grad_spikes: Tensor | None,
    grad_arrived: Tensor | None,
    grad_potentials: Tensor | None,
    grad_left: Tensor | None,
    needs_biases: bool,
) -> records.Run:
    """Return what the replay needs beside the log; (B, N) tensors of one timestep become (1, B, N)."""

    def sized(tensor: Tensor | None) -> Floats:
        return array_of(spikes.new_zeros(0) if tensor is None else tensor).reshape(-1, *spikes.shape[1:])

    dtype, none = array_of(spikes).dtype, spikes.new_zeros(0)
    form, parameter = forms or (np.full(len(graph.populations), GIVEN), np.zeros(len(graph.populations)))
    return records.Run(
        spikes=array_of(spikes),
        potentials=array_of(potentials),
        form=form,
        parameter=parameter.astype(dtype),
        slope=array_of(none if slopes is None else slopes.events),
        silent_slope=sized(None if slopes is None else slopes.silent),
        grad_spikes=sized(grad_spikes),
        grad_arrived=sized(grad_arrived),
        grad_potentials=sized(grad_potentials),
        grad_left=array_of(none if grad_left is None else grad_left),
        needs_biases=needs_biases,
    )


def _own(tensors: records.Tensors, pending: Tensor, needs_x: bool) -> dict[str, Floats]:
    """Zeros for the gradients in which every sample has its own place; those of x have no timesteps if not needed."""
    return {
        "x": np.zeros_like(tensors.x if needs_x else tensors.x[:0]),
        "potentials": np.zeros_like(tensors.potentials),
        "last_spikes": np.zeros_like(tensors.last_spikes),
        "carried": np.zeros_like(array_of(pending)),
    }
