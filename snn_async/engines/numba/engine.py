"""The numba engine: compiled once per machine, one chunk of samples per thread, bit-identical on any number.

Chunks depend on the batch and the model only, and their gradients are summed in a fixed order, so the number
of threads changes nothing. Threads are torch's own number, from a pool that lives for one call: nothing is
left behind that a forked DataLoader worker could trip over.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_async.checks import not_finite
from snn_async.engines.contract import (
    Counts,
    Execution,
    Gradients,
    Simulation,
    Start,
    Values,
)
from snn_async.engines.numba import records
from snn_async.engines.numba.arrays import (
    SCHEDULERS,
    SYNAPSES,
    adjoints_of,
    dense,
    doubled,
    join_left,
    join_logs,
    log_of,
    net_of,
    results,
    rules_of,
    tensors_of,
    work_of,
)
from snn_async.engines.numba.compile import replay, simulate
from snn_async.errors import RunawayError, UnsupportedByEngineError
from snn_async.graph import Graph
from snn_async.learning.slopes import surrogate_derivatives

CHUNKS = 16
MOST_ROWS = 1 << 22  # that a chunk makes room for at first
GRADIENT_BYTES = 1 << 26  # at most this much memory for the chunks' weight gradients, but always two chunks


class NumbaEngine:
    """Compiled for the CPU, float32 and float64; built-in schedulers only."""

    name = "numba"

    def check(self, graph: Graph, execution: Execution) -> None:
        if type(execution.scheduler) not in SCHEDULERS:
            raise UnsupportedByEngineError(
                f"engine 'numba' cannot run the scheduler {execution.scheduler!r}, only the built-in "
                f"{sorted(s.__name__.lower() for s in SCHEDULERS)}; use backend='torch'"
            )
        for projection in graph.projections:
            if type(projection.synapses) not in SYNAPSES:
                raise UnsupportedByEngineError(
                    f"engine 'numba' cannot run projection {projection.name!r} ({projection.synapses.describe()}); "
                    "use backend='torch'"
                )
            if projection.delayed and projection.target not in graph.index:
                raise UnsupportedByEngineError(
                    f"engine 'numba' cannot run the recurrent projection {projection.name!r} into the junction "
                    f"{projection.target!r}; use backend='reference'"
                )

    def simulate(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        net, rules, tensors = (
            net_of(graph, execution),
            rules_of(execution, start),
            tensors_of(graph, values, start),
        )
        steps, samples, _ = values.x.shape
        out = results(steps, samples, net, values.x, keep_log)
        carried = records.Carried(*vars(start.pending).values())
        bounds = _chunks(samples, CHUNKS)

        parts = _in_threads(
            lambda chunk: _run_chunk(net, rules, tensors, carried, out, chunk, keep_log), bounds
        )
        for *_, (b, status, t) in parts:
            if status == records.NOT_FINITE:
                raise not_finite(tensors.x)
            if status == records.RUNAWAY:
                raise RunawayError(
                    f"timestep {start.timestep + t} of sample {start.sample_ids[b]} is not quiescent after "
                    f"max_forward_steps={execution.max_forward_steps} forward steps; raise the limit, "
                    "use refractory='discard' or 'integrate', or a stop rule"
                )
        log = join_logs(out, parts, bounds, steps) if keep_log else None
        counts = Counts(
            out.population_spikes, out.forward_steps, out.first_output, out.operations, out.updates
        )
        return Simulation(
            torch.from_numpy(out.spikes), torch.from_numpy(out.potentials), counts, join_left(out, parts), log
        )

    def replay(
        self,
        graph: Graph,
        execution: Execution,
        values: Values,
        start: Start,
        simulation: Simulation,
        grad_spikes: Tensor | None,
        grad_potentials: Tensor | None,
        needs_x: bool,
    ) -> Gradients:
        assert simulation.log is not None
        net, rules, tensors = (
            net_of(graph, execution),
            rules_of(execution, start),
            tensors_of(graph, values, start),
        )
        slope, silent_slope = surrogate_derivatives(graph, values, simulation.log)
        log = log_of(simulation.log, slope, silent_slope)
        run = records.Run(
            simulation.spikes.detach().numpy(),
            simulation.potentials.detach().numpy(),
            dense(grad_spikes, values.x),
            dense(grad_potentials, values.x),
        )
        steps, samples, inputs = values.x.shape
        x = values.x.new_zeros((steps if needs_x else 0, samples, inputs))
        potentials = values.x.new_empty((samples, net.neurons))
        bytes_each = values.weights.numel() * values.weights.element_size()
        bounds = _chunks(samples, max(2, min(CHUNKS, GRADIENT_BYTES // max(1, bytes_each))))
        shared = ("weights", "biases", "leak", "offset", "threshold")
        sums = [
            {name: np.zeros(getattr(values, name).shape, dtype=tensors.x.dtype) for name in shared}
            for _ in bounds
        ]

        def chunk(task: tuple[tuple[int, int], dict[str, np.ndarray]]) -> None:
            (first, last), own = task
            grads = records.Grads(**own, potentials=potentials.numpy(), x=x.numpy())
            adjoints = adjoints_of(net, log, tensors.x.dtype, first, last)
            replay(net, rules, tensors, log, run, grads, adjoints, first, last)

        _in_threads(chunk, list(zip(bounds, sums, strict=True)))
        total = sums[0]
        for part in sums[1:]:
            for name in shared:
                total[name] += part[name]
        weights, biases, leak, offset, threshold = (torch.from_numpy(total[name]) for name in shared)
        return Gradients(weights, biases, leak, offset, threshold, potentials, x if needs_x else None)


def _in_threads(function: Callable[[Any], Any], tasks: list[Any]) -> list[Any]:
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        return [function(task) for task in tasks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, tasks))


def _chunks(samples: int, most: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, samples, min(samples, most) + 1).astype(int).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))


def _run_chunk(
    net: records.Net,
    rules: records.Rules,
    tensors: records.Tensors,
    carried: records.Carried,
    out: records.Out,
    chunk: tuple[int, int],
    keep_log: bool,
) -> tuple[Any, ...]:
    """Run a chunk, with more room each time its events do not fit."""
    steps, _, size = tensors.x.shape
    dtype, (sample, last) = tensors.x.dtype, chunk
    work = work_of(net, tensors)
    # room that is never used is never resident; running a sample again takes longer than asking for much
    units = len(net.node_of) - net.inputs
    room = (units + size) * 2 + min((last - sample) * steps * units, MOST_ROWS)
    events = records.Events(
        ints=np.empty((room, 6), dtype=np.int32),
        floats=np.empty((room, 2), dtype=dtype),
        pending=np.empty(room, dtype=np.int64),
        deliveries=np.empty(room, dtype=np.int64),
        priority=np.empty(room, dtype=np.float64),
        scratch=np.empty(room, dtype=np.float64),
        chosen=np.empty(room, dtype=np.int64),
        sources=np.empty(room, dtype=np.int32),
        amplitudes=np.empty(room, dtype=dtype),
    )
    inputs = size + min((last - sample) * steps * size, MOST_ROWS) if keep_log else size
    rooms = records.Rooms(
        input_source=np.empty(inputs, dtype=np.int32),
        input_amplitude=np.empty(inputs, dtype=dtype),
        left_ints=np.empty((room if rules.carry else 0, 3), dtype=np.int64),
        left_floats=np.empty((room if rules.carry else 0, 2), dtype=np.float64),
        v=np.empty(net.neurons, dtype=dtype),
        fired=np.empty(net.neurons, dtype=dtype),
        ranges=np.zeros((net.nodes, 2), dtype=np.int64),
    )
    while True:
        sample, status, t = simulate(
            net, rules, tensors, carried, out, work, events, rooms, sample, last, keep_log
        )
        if status != records.NO_ROOM:
            break
        events = records.Events(*(doubled(array) for array in events))
        rooms = rooms._replace(
            input_source=doubled(rooms.input_source),
            input_amplitude=doubled(rooms.input_amplitude),
            left_ints=doubled(rooms.left_ints),
            left_floats=doubled(rooms.left_floats),
        )
    now = work.now
    return (
        events.ints[: now[records.EVENTS]],
        events.floats[: now[records.EVENTS]],
        events.deliveries[: now[records.DELIVERIES]],
        rooms.input_source[: now[records.INPUTS]],
        rooms.input_amplitude[: now[records.INPUTS]],
        rooms.left_ints[: now[records.LEFT]],
        rooms.left_floats[: now[records.LEFT]],
        (sample, status, t),
    )
