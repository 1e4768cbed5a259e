"""The numba engine: compiled once per machine, one chunk of samples per thread, bit-identical on any number.

Chunks depend on the batch and the model only, and their gradients are summed in a fixed order, so the number
of threads changes nothing. Threads are torch's own number, from a pool that lives for one call: nothing is
left behind that a forked DataLoader worker could trip over.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_async import keys
from snn_async.checks import not_finite
from snn_async.engines import numba_replay as replay_kernels
from snn_async.engines import numba_simulate as kernels
from snn_async.engines.contract import (
    Counts,
    Execution,
    Gradients,
    PendingEvents,
    Simulation,
    Start,
    Values,
)
from snn_async.engines.decisive import surrogate_derivatives
from snn_async.engines.eventlog import EventLog
from snn_async.engines.layout import layout_of
from snn_async.errors import RunawayError, UnsupportedByEngineError
from snn_async.graph import Graph
from snn_async.schedulers import Fifo, Layered, Momentum, Random
from snn_async.stopping import After, Output

SCHEDULERS = {
    Random: kernels.RANDOM,
    Momentum: kernels.MOMENTUM,
    Fifo: kernels.FIFO,
    Layered: kernels.LAYERED,
}
RESETS = {"none": kernels.NO_RESET, "subtract": kernels.SUBTRACT, "value": kernels.VALUE}
REFRACTORY = {"off": kernels.OFF, "discard": kernels.DISCARD, "integrate": kernels.INTEGRATE}
CHUNKS = 16
GRADIENT_BYTES = 1 << 26  # at most this much memory for the chunks' weight gradients, but always two chunks


class NumbaEngine:
    """Compiled for the CPU, float32 and float64; built-in schedulers only."""

    name = "numba"

    def check(self, graph: Graph, execution: Execution) -> None:
        if type(execution.scheduler) not in SCHEDULERS:
            raise UnsupportedByEngineError(
                f"engine 'numba' cannot run the scheduler {execution.scheduler!r}, only the built-in "
                f"{sorted(s.__name__.lower() for s in SCHEDULERS)}; use backend='reference'"
            )

    def simulate(
        self, graph: Graph, execution: Execution, values: Values, start: Start, keep_log: bool
    ) -> Simulation:
        net, rules, tensors = _net(graph, execution), _rules(execution, start), _tensors(graph, values, start)
        steps, samples, _ = values.x.shape
        out = _out(steps, samples, net, values.x, keep_log)
        carried = kernels.Carried(*vars(start.pending).values())
        bounds = _chunks(samples, CHUNKS)

        parts = _in_threads(
            lambda chunk: _run_chunk(net, rules, tensors, carried, out, chunk, keep_log), bounds
        )
        for *_, (b, status, t) in parts:
            if status == kernels.NOT_FINITE:
                raise not_finite(tensors.x)
            if status == kernels.RUNAWAY:
                raise RunawayError(
                    f"timestep {start.timestep + t} of sample {start.sample_ids[b]} is not quiescent after "
                    f"max_forward_steps={execution.max_forward_steps} forward steps; raise the limit, "
                    "use refractory='discard' or 'integrate', or a stop rule"
                )
        log = _log(out, parts, bounds, steps) if keep_log else None
        counts = Counts(
            out.population_spikes, out.forward_steps, out.first_output, out.operations, out.updates
        )
        return Simulation(
            torch.from_numpy(out.spikes), torch.from_numpy(out.potentials), counts, _left(out, parts), log
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
        net, rules, tensors = _net(graph, execution), _rules(execution, start), _tensors(graph, values, start)
        slope, silent_slope = surrogate_derivatives(graph, values, simulation.log)
        log = _replay_log(simulation.log, slope, silent_slope)
        run = replay_kernels.Run(
            simulation.spikes.detach().numpy(),
            simulation.potentials.detach().numpy(),
            _adjoint(grad_spikes, values.x),
            _adjoint(grad_potentials, values.x),
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
        population_of = layout_of(graph).population_of

        def chunk(task: tuple[tuple[int, int], dict[str, np.ndarray]]) -> None:
            (first, last), own = task
            grads = replay_kernels.Grads(**own, potentials=potentials.numpy(), x=x.numpy())
            adjoints, buckets = _adjoints(net, log, tensors.x.dtype, first, last)
            replay_kernels.replay_chunk(
                net, rules, tensors, log, run, grads, adjoints, buckets, population_of, first, last
            )

        _in_threads(chunk, list(zip(bounds, sums, strict=True)))
        total = sums[0]
        for part in sums[1:]:
            for name in shared:
                total[name] += part[name]
        tensors_out = {name: torch.from_numpy(total[name]) for name in shared}
        return Gradients(**tensors_out, potentials=potentials, x=x if needs_x else None)


def _in_threads(function: Callable[[Any], Any], tasks: list[Any]) -> list[Any]:
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        return [function(task) for task in tasks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, tasks))


def _chunks(samples: int, most: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, samples, min(samples, most) + 1).astype(int).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))


@lru_cache(maxsize=64)
def _net(graph: Graph, execution: Execution) -> kernels.Net:
    layout = layout_of(graph)
    neurons = [population.neuron for population in graph.populations]
    return kernels.Net(
        inputs=layout.inputs,
        neurons=layout.neurons,
        output=layout.output,
        start=layout.start,
        turn=layout.turn,
        source=layout.source,
        target=layout.target,
        fan_in=layout.fan_in,
        fan_out=layout.fan_out,
        first_source=layout.first_source,
        weight_start=layout.weight_start,
        bias_start=layout.bias_start,
        has_out=np.array([bool(graph.out_of(population.name)) for population in graph.populations]),
        reset=np.array([RESETS[n.reset] for n in neurons]),
        reset_value=np.array([n.reset_value for n in neurons], dtype=np.float64),
        delayed=np.array([n.delayed_reset for n in neurons]),
        swallow=np.array([n.swallow_input for n in neurons]),
        retest=np.array([n.retest_residual for n in neurons]),
        detach=np.array([n.detach_reset for n in neurons]),
        spiking=np.array([n.spiking for n in neurons]),
        refractory=np.array([REFRACTORY[mode] for mode in execution.refractory]),
        refractory_dropout=np.array(execution.refractory_dropout, dtype=np.float64),
    )


def _rules(execution: Execution, start: Start) -> kernels.Rules:
    scheduler, stop = execution.scheduler, execution.stop
    kind, steps = kernels.QUIESCENT, 0
    if isinstance(stop, Output):
        kind, steps = kernels.OUTPUT, stop.extra_steps
    elif isinstance(stop, After):
        kind, steps = kernels.AFTER, stop.steps
    return kernels.Rules(
        scheduler=SCHEDULERS[type(scheduler)],
        noise=scheduler.noise if isinstance(scheduler, Momentum) else 0.0,
        group_size=execution.forward_group_size or 0,
        stop=kind,
        stop_steps=steps,
        carry=execution.leftover == "carry",
        queued=execution.queues_input,
        max_forward_steps=execution.max_forward_steps,
        seed=np.uint64(start.seed & keys.MASK),
        timestep=start.timestep,
    )


def _tensors(graph: Graph, values: Values, start: Start) -> kernels.Tensors:
    threshold = values.threshold.detach().numpy()
    compare = threshold.copy()
    for population in graph.populations:
        here = graph.slices[population.name]
        if population.neuron.inclusive:
            compare[here] = np.nextafter(compare[here], compare.dtype.type(-np.inf))
        if not population.neuron.spiking:
            compare[here] = np.inf
    scales: list[np.ndarray] = []
    source_start: list[int] = []
    target_start: list[int] = []
    filled = 0
    for given, starts in ((values.source_scale, source_start), (values.target_scale, target_start)):
        for scale in given:
            starts.append(-1 if scale is None else filled)
            if scale is not None:
                scales.append(scale.reshape(-1).numpy())
                filled += len(scales[-1])
    biases = values.biases.detach().numpy()
    layout = layout_of(graph)
    has_bias = np.zeros(len(layout.turn), dtype=bool)
    for k, target in enumerate(layout.target):
        has_bias[target] |= biases[layout.bias_start[k] : layout.bias_start[k] + layout.fan_out[k]].any()
    return kernels.Tensors(
        x=np.ascontiguousarray(values.x.detach().numpy()),
        weights=values.weights.detach().numpy(),
        biases=biases,
        leak=values.leak.detach().numpy(),
        offset=values.offset.detach().numpy(),
        threshold=threshold,
        compare=compare,
        potentials=np.ascontiguousarray(values.potentials.detach().numpy()),
        spikes=start.spikes.astype(threshold.dtype),
        sample_ids=start.sample_ids,
        scales=np.concatenate(scales) if scales else np.zeros(0, dtype=threshold.dtype),
        source_scale_start=np.array(source_start, dtype=np.int64),
        target_scale_start=np.array(target_start, dtype=np.int64),
        has_bias=has_bias,
    )


def _out(steps: int, samples: int, net: kernels.Net, x: Tensor, keep_log: bool) -> kernels.Out:
    shape, dtype = (steps, samples, net.neurons), x.new_empty(0).numpy().dtype
    silent, populations = shape if keep_log else (0, 0, 0), len(net.turn)
    return kernels.Out(
        spikes=np.empty(shape, dtype=dtype),
        potentials=np.empty(shape, dtype=dtype),
        silent_step=np.empty(silent, dtype=np.int32),
        silent_potential=np.empty(silent, dtype=dtype),
        turn_step=np.empty((steps, samples, populations), dtype=np.int32),
        population_spikes=np.empty((steps, samples, populations), dtype=np.int64),
        forward_steps=np.empty((steps, samples), dtype=np.int64),
        first_output=np.empty((steps, samples), dtype=np.int64),
        operations=np.empty((steps, samples), dtype=np.int64),
        updates=np.empty((steps, samples), dtype=np.int64),
        emitted=np.zeros((samples, steps + 2), dtype=np.int64),
        delivered=np.zeros((samples, steps + 1), dtype=np.int64),
        inputs=np.zeros(samples * steps + 1, dtype=np.int64),
        left=np.zeros(samples, dtype=np.int64),
    )


def _work(net: kernels.Net, tensors: kernels.Tensors) -> kernels.Work:
    n, populations, dtype = net.neurons, len(net.turn), tensors.x.dtype
    return kernels.Work(
        u=np.zeros(n, dtype=dtype),
        compare=np.zeros(n, dtype=dtype),
        held=np.zeros(n, dtype=dtype),
        ignoring=np.zeros(n, dtype=bool),
        residual=np.zeros(n, dtype=dtype),
        count=np.zeros(n, dtype=np.int32),
        last_spike=np.zeros(n, dtype=np.int32),
        last_evaluation=np.zeros(populations, dtype=np.int64),
        able=np.zeros(populations, dtype=np.int64),
        turn=np.zeros(populations, dtype=np.int64),
        turn_step=np.zeros(populations, dtype=np.int64),
        reached=np.zeros(populations, dtype=bool),
        found=np.zeros(n, dtype=np.int64),
        now=np.zeros(12, dtype=np.int64),
    )


def _run_chunk(
    net: kernels.Net,
    rules: kernels.Rules,
    tensors: kernels.Tensors,
    carried: kernels.Carried,
    out: kernels.Out,
    chunk: tuple[int, int],
    keep_log: bool,
) -> tuple[Any, ...]:
    """Run a chunk, with more room each time its events do not fit."""
    steps, _, size = tensors.x.shape
    dtype, (sample, last) = tensors.x.dtype, chunk
    work = _work(net, tensors)
    room = (net.neurons + size) * 2 + (last - sample) * steps * net.neurons // 4
    events = kernels.Events(
        ints=np.empty((room, 5), dtype=np.int32),
        floats=np.empty((room, 2), dtype=dtype),
        pending=np.empty(room, dtype=np.int64),
        deliveries=np.empty(room, dtype=np.int64),
        priority=np.empty(room, dtype=np.float64),
        heap=np.empty(room, dtype=np.int64),
        sources=np.empty(room, dtype=np.int32),
        amplitudes=np.empty(room, dtype=dtype),
    )
    inputs = size + (last - sample) * steps * size // 16 if keep_log else size
    rooms = kernels.Rooms(
        input_source=np.empty(inputs, dtype=np.int32),
        input_amplitude=np.empty(inputs, dtype=dtype),
        left_ints=np.empty((room if rules.carry else 0, 3), dtype=np.int64),
        left_floats=np.empty((room if rules.carry else 0, 2), dtype=np.float64),
        v=np.empty(net.neurons, dtype=dtype),
        fired=np.empty(net.neurons, dtype=dtype),
        ranges=np.zeros((len(net.turn), 2), dtype=np.int64),
    )
    while True:
        sample, status, t = kernels.simulate_chunk(
            net, rules, tensors, carried, out, work, events, rooms, sample, last, keep_log
        )
        if status != kernels.NO_ROOM:
            break
        events = kernels.Events(*(_doubled(array) for array in events))
        rooms = rooms._replace(
            input_source=_doubled(rooms.input_source),
            input_amplitude=_doubled(rooms.input_amplitude),
            left_ints=_doubled(rooms.left_ints),
            left_floats=_doubled(rooms.left_floats),
        )
    now = work.now
    return (
        events.ints[: now[kernels.EVENTS]],
        events.floats[: now[kernels.EVENTS]],
        events.deliveries[: now[kernels.DELIVERIES]],
        rooms.input_source[: now[kernels.INPUTS]],
        rooms.input_amplitude[: now[kernels.INPUTS]],
        rooms.left_ints[: now[kernels.LEFT]],
        rooms.left_floats[: now[kernels.LEFT]],
        (sample, status, t),
    )


def _doubled(array: np.ndarray) -> np.ndarray:
    bigger = np.empty((2 * len(array), *array.shape[1:]), dtype=array.dtype)
    bigger[: len(array)] = array
    return bigger


def _adjoints(
    net: kernels.Net, log: replay_kernels.Log, dtype: np.dtype, first: int, last: int
) -> tuple[replay_kernels.Adjoints, np.ndarray]:
    """Scratch of one chunk, with room for the events of its busiest sample."""
    emitted = log.emitted[first:last, -1] - log.emitted[first:last, 0]
    delivered = log.delivered[first:last, -1] - log.delivered[first:last, 0]
    n, room = net.neurons, int(max(emitted.max(), delivered.max()))
    adjoints = replay_kernels.Adjoints(
        current=np.zeros(n, dtype=dtype),
        kept=np.zeros(n, dtype=dtype),
        silent=np.zeros(n, dtype=dtype),
        last=np.zeros(n, dtype=dtype),
        last_step=np.zeros(n, dtype=np.int32),
        after=np.zeros(n, dtype=dtype),
        slot=np.zeros(n, dtype=dtype),
        slot_step=np.zeros(n, dtype=np.int32),
        slot_after=np.zeros(n, dtype=dtype),
        extra_neuron=np.zeros(room, dtype=np.int64),
        extra_step=np.zeros(room, dtype=np.int64),
        extra=np.zeros(room, dtype=dtype),
        rows=np.zeros(room, dtype=dtype),
        head=np.zeros(len(net.turn), dtype=np.int64),
        following=np.zeros(room, dtype=np.int64),
    )
    return adjoints, np.zeros(len(net.turn) + 1 + room, dtype=np.int64)


def _log(out: kernels.Out, parts: list[Any], bounds: list[tuple[int, int]], steps: int) -> EventLog:
    """Join the chunks: their offsets become the batch's."""
    rows = delivered = inputs = 0
    deliveries = []
    for (ints, _, own_deliveries, input_source, *_), (first, last) in zip(parts, bounds, strict=True):
        out.emitted[first:last] += rows
        out.delivered[first:last] += delivered
        out.inputs[first * steps : last * steps] += inputs
        deliveries.append(own_deliveries + rows)
        rows, delivered, inputs = (
            rows + len(ints),
            delivered + len(own_deliveries),
            inputs + len(input_source),
        )
    out.inputs[-1] = inputs
    ints = np.concatenate([part[0] for part in parts])
    floats = np.concatenate([part[1] for part in parts])
    return EventLog(
        emitted=out.emitted,
        source=ints[:, kernels.SOURCE].copy(),
        amplitude=floats[:, kernels.AMPLITUDE].copy(),
        step=ints[:, kernels.STEP].copy(),
        potential=floats[:, kernels.POTENTIAL].copy(),
        delivered_timestep=ints[:, kernels.DELIVERED_TIMESTEP].copy(),
        delivered_step=ints[:, kernels.DELIVERED_STEP].copy(),
        deliveries=np.concatenate(deliveries),
        delivered=out.delivered,
        silent_step=out.silent_step,
        silent_potential=out.silent_potential,
        turn_step=out.turn_step,
        inputs=out.inputs,
        input_source=np.concatenate([part[3] for part in parts]),
        input_amplitude=np.concatenate([part[4] for part in parts]),
    )


def _left(out: kernels.Out, parts: list[Any]) -> PendingEvents:
    ints = np.concatenate([part[5] for part in parts])
    floats = np.concatenate([part[6] for part in parts])
    return PendingEvents(
        offsets=np.concatenate(([0], np.cumsum(out.left))).astype(np.int64),
        source=ints[:, 0].astype(np.int32),
        amplitude=floats[:, 0].copy(),
        potential=floats[:, 1].copy(),
        timestep=ints[:, 1].copy(),
        step=ints[:, 2].astype(np.int32),
    )


def _replay_log(log: EventLog, slope: np.ndarray, silent_slope: np.ndarray) -> replay_kernels.Log:
    fields = {name: value for name, value in vars(log).items() if name != "delivered_timestep"}
    return replay_kernels.Log(**fields, slope=slope, silent_slope=silent_slope)


def _adjoint(grad: Tensor | None, x: Tensor) -> np.ndarray:
    return (x.new_empty((0, 0, 0)) if grad is None else grad).numpy()
