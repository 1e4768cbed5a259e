"""From the contract's tensors to the compiled functions' records, and back."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from snn_async import keys
from snn_async.engines import numba_records as records
from snn_async.engines.contract import Execution, PendingEvents, Start, Values
from snn_async.engines.eventlog import EventLog
from snn_async.engines.layout import layout_of
from snn_async.graph import Graph
from snn_async.schedulers import Fifo, Layered, Momentum, Random
from snn_async.stopping import After, Output

SCHEDULERS = {
    Random: records.RANDOM,
    Momentum: records.MOMENTUM,
    Fifo: records.FIFO,
    Layered: records.LAYERED,
}
RESETS = {"none": records.NO_RESET, "subtract": records.SUBTRACT, "value": records.VALUE}
REFRACTORY = {"off": records.OFF, "discard": records.DISCARD, "integrate": records.INTEGRATE}


_NETS: WeakKeyDictionary[Graph, dict[Execution, records.Net]] = WeakKeyDictionary()


def net_of(graph: Graph, execution: Execution) -> records.Net:
    """Return the graph's record; it depends on nothing that changes, so it is computed once."""
    nets = _NETS.setdefault(graph, {})
    if execution not in nets:
        nets[execution] = _compute_net(graph, execution)
    return nets[execution]


def _compute_net(graph: Graph, execution: Execution) -> records.Net:
    layout = layout_of(graph)
    neurons = [population.neuron for population in graph.populations]
    return records.Net(
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


def rules_of(execution: Execution, start: Start) -> records.Rules:
    scheduler, stop = execution.scheduler, execution.stop
    kind, steps = records.QUIESCENT, 0
    if isinstance(stop, Output):
        kind, steps = records.OUTPUT, stop.extra_steps
    elif isinstance(stop, After):
        kind, steps = records.AFTER, stop.steps
    return records.Rules(
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


def tensors_of(graph: Graph, values: Values, start: Start) -> records.Tensors:
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
    return records.Tensors(
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


def results(steps: int, samples: int, net: records.Net, x: Tensor, keep_log: bool) -> records.Out:
    shape, dtype = (steps, samples, net.neurons), x.new_empty(0).numpy().dtype
    silent, populations = shape if keep_log else (0, 0, 0), len(net.turn)
    return records.Out(
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


def work_of(net: records.Net, tensors: records.Tensors) -> records.Work:
    n, populations, dtype = net.neurons, len(net.turn), tensors.x.dtype
    return records.Work(
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


def doubled(array: np.ndarray) -> np.ndarray:
    bigger = np.empty((2 * len(array), *array.shape[1:]), dtype=array.dtype)
    bigger[: len(array)] = array
    return bigger


def adjoints_of(
    net: records.Net, log: records.Log, dtype: np.dtype, first: int, last: int
) -> tuple[records.Adjoints, np.ndarray]:
    """Scratch of one chunk, with room for the events of its busiest sample."""
    emitted = log.emitted[first:last, -1] - log.emitted[first:last, 0]
    delivered = log.delivered[first:last, -1] - log.delivered[first:last, 0]
    n, room = net.neurons, int(max(emitted.max(), delivered.max()))
    adjoints = records.Adjoints(
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


def join_logs(out: records.Out, parts: list[Any], bounds: list[tuple[int, int]], steps: int) -> EventLog:
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
        source=ints[:, records.SOURCE].copy(),
        amplitude=floats[:, records.AMPLITUDE].copy(),
        step=ints[:, records.STEP].copy(),
        potential=floats[:, records.POTENTIAL].copy(),
        delivered_timestep=ints[:, records.DELIVERED_TIMESTEP].copy(),
        delivered_step=ints[:, records.DELIVERED_STEP].copy(),
        deliveries=np.concatenate(deliveries),
        delivered=out.delivered,
        silent_step=out.silent_step,
        silent_potential=out.silent_potential,
        turn_step=out.turn_step,
        inputs=out.inputs,
        input_source=np.concatenate([part[3] for part in parts]),
        input_amplitude=np.concatenate([part[4] for part in parts]),
    )


def join_left(out: records.Out, parts: list[Any]) -> PendingEvents:
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


def log_of(log: EventLog, slope: np.ndarray, silent_slope: np.ndarray) -> records.Log:
    fields = {name: value for name, value in vars(log).items() if name != "delivered_timestep"}
    return records.Log(**fields, slope=slope, silent_slope=silent_slope)


def dense(grad: Tensor | None, x: Tensor) -> np.ndarray:
    return (x.new_empty((0, 0, 0)) if grad is None else grad).numpy()
