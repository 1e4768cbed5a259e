"""Options and tensors as the compiled functions' records, and the arrays that results go to."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snn_async import random_keys
from snn_async.engines.contract import Execution, PendingEvents, Start, Values
from snn_async.engines.numba import codes, records
from snn_async.engines.numba.sequence import SequenceValues
from snn_async.graph import Graph
from snn_async.graph.layout import layout_of
from snn_async.schedulers import Fifo, Layered, Momentum, Random
from snn_async.stopping import After, Output

SCHEDULERS = {
    Random: codes.RANDOM,
    Momentum: codes.MOMENTUM,
    Fifo: codes.FIFO,
    Layered: codes.LAYERED,
}
Floats = NDArray[np.floating]


def rules_of(execution: Execution, start: Start) -> records.Rules:
    scheduler, stop = execution.scheduler, execution.stop
    kind, steps = codes.QUIESCENT, 0
    if isinstance(stop, Output):
        kind, steps = codes.OUTPUT, stop.extra_steps
    elif isinstance(stop, After):
        kind, steps = codes.AFTER, stop.steps
    return records.Rules(
        scheduler=SCHEDULERS[type(scheduler)],
        noise=scheduler.noise if isinstance(scheduler, Momentum) else 1.0,
        by_potential=isinstance(scheduler, Momentum),
        group_size=execution.forward_group_size or 0,
        stop=kind,
        stop_steps=steps,
        carry=execution.leftover == "carry",
        queued=execution.queues_input,
        max_forward_steps=execution.max_forward_steps,
        seed=np.uint64(start.seed & random_keys.MASK),
        timestep=start.timestep,
    )


def array_of(tensor: Tensor) -> Floats:
    """Return a tensor's own memory, or a copy where it is not contiguous."""
    return np.ascontiguousarray(tensor.detach().numpy())


def rows_of(tensor: Tensor) -> Floats:
    """Return (B, N) values, or (1, N) if all samples share them."""
    return array_of(tensor[:1] if tensor.stride(0) == 0 else tensor)


def tensors_of(
    graph: Graph,
    start: Start,
    values: Values | SequenceValues,
    *,
    threshold: Floats,
    **arrays: Floats,
) -> records.Tensors:
    """Return all values; `threshold` and `arrays` are the members in which the two kinds differ."""
    compare = threshold.copy()
    for population in graph.populations:
        here = graph.slices[population.name]
        if population.neuron.inclusive:
            compare[:, here] = np.nextafter(compare[:, here], compare.dtype.type(-np.inf))
        if not population.neuron.spiking:
            compare[:, here] = np.inf
    scales = [np.zeros(0, dtype=threshold.dtype)]
    starts: list[list[int]] = [[], []]
    filled = 0
    for given, places in zip((values.source_scale, values.target_scale), starts, strict=True):
        for scale in given:
            places.append(-1 if scale is None else filled)
            if scale is not None:
                scales.append(array_of(scale).reshape(-1))
                filled += scale.numel()
    layout, bias = layout_of(graph), array_of(values.biases)
    has_bias = np.zeros(layout.populations, dtype=bool)
    for k in np.flatnonzero(layout.bias_start >= 0):
        has_bias[layout.target[k]] |= bias[
            layout.bias_start[k] : layout.bias_start[k] + layout.fan_out[k]
        ].any()
    return records.Tensors(
        **arrays,
        weights=array_of(values.weights),
        biases=bias,
        threshold=threshold,
        compare=compare,
        sample_ids=array_of(start.sample_ids),
        scales=np.concatenate(scales),
        source_scale_start=np.array(starts[0], dtype=np.int64),
        target_scale_start=np.array(starts[1], dtype=np.int64),
        has_bias=has_bias,
        one=np.ones(1, dtype=threshold.dtype),
    )


def carried_of(pending: PendingEvents, amplitude: Tensor, samples: int) -> records.Carried:
    count = np.bincount(pending.sample.numpy(), minlength=samples)
    return records.Carried(
        offsets=np.concatenate(([0], np.cumsum(count))).astype(np.int64),
        source=array_of(pending.source),
        amplitude=array_of(amplitude),
        potential=array_of(pending.potential),
        timestep=array_of(pending.timestep),
        step=array_of(pending.step),
    )


def results(
    steps: int, samples: int, net: records.Net, dtype: np.dtype, keep_log: bool, keep_arrived: bool
) -> records.Out:
    shape, nobody = (steps, samples, net.neurons), (0, 0, 0)
    return records.Out(
        spikes=np.empty(shape, dtype=dtype),
        potentials=np.empty(shape, dtype=dtype),
        arrived=np.empty(shape if keep_log or keep_arrived else nobody, dtype=dtype),
        silent_step=np.empty(shape if keep_log else nobody, dtype=np.int32),
        silent_potential=np.empty(shape if keep_log else nobody, dtype=dtype),
        turn_step=np.empty((steps, samples, net.nodes), dtype=np.int32),
        population_spikes=np.empty((steps, samples, net.populations), dtype=np.int64),
        forward_steps=np.empty((steps, samples), dtype=np.int64),
        first_output=np.empty((steps, samples), dtype=np.int64),
        operations=np.empty((steps, samples), dtype=np.int64),
        updates=np.empty((steps, samples), dtype=np.int64),
        emitted=np.zeros((samples, steps + 2), dtype=np.int64),
        delivered=np.zeros((samples, steps + 1), dtype=np.int64),
        inputs=np.zeros((samples, steps + 1), dtype=np.int64),
        left=np.zeros(samples, dtype=np.int64),
    )
