"""From the contract's tensors to the compiled functions' records, and back."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from snn_async import random_keys
from snn_async.engines.contract import Execution, PendingEvents, Start, Values
from snn_async.engines.event_log import EventLog
from snn_async.engines.numba import records
from snn_async.graph import INPUT, Graph, Junction
from snn_async.graph.grids import size_of
from snn_async.graph.layout import Indices, layout_of
from snn_async.graph.synapses import Convolution, Dense, OneToOne, Wiring
from snn_async.schedulers import Fifo, Layered, Momentum, Random
from snn_async.stopping import After, Output

SCHEDULERS = {
    Random: records.RANDOM,
    Momentum: records.MOMENTUM,
    Fifo: records.FIFO,
    Layered: records.LAYERED,
}
RESETS = {"none": records.NO_RESET, "subtract": records.SUBTRACT, "value": records.VALUE}
JUNCTIONS = {"sum": records.SUM, "max": records.MAX, "and": records.AND, "iand": records.IAND}
SYNAPSES: dict[type, int] = {
    Dense: records.DENSE,
    Convolution: records.CONVOLUTION,
    OneToOne: records.ONE_TO_ONE,
    Wiring: records.WIRING,
}
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
    nodes = len(layout.turn)
    blocks = [_block(graph, name) for name in graph.nodes]
    levels = {
        turn for turn, j in zip(layout.turn[layout.populations :], graph.junctions, strict=True) if j.waits
    }
    rows, *tables = _geometry(graph)
    return records.Net(
        inputs=layout.inputs,
        neurons=layout.neurons,
        cells=layout.cells,
        populations=layout.populations,
        nodes=nodes,
        output=layout.output,
        levels=len(levels),
        phase_length=layout.phase_length,
        start=layout.start,
        order=layout.order,
        turn=layout.turn,
        node_kind=np.array(
            [records.POPULATION] * layout.populations + [JUNCTIONS[j.kind] for j in graph.junctions]
        ),
        node_of=np.repeat(np.arange(nodes + 1), [layout.inputs, *layout.size]).astype(np.int32),
        size=layout.size,
        first_unit=layout.first_unit,
        first_receiver=layout.first_receiver,
        block=np.array([size for size, _ in blocks], dtype=np.int64),
        block_start=_starts([count for _, count in blocks]),
        **_windows(graph),
        first_counts=_first_counts(graph),
        near_input=_near_input(graph),
        source=layout.source,
        target=layout.target,
        fan_in=layout.fan_in,
        fan_out=layout.fan_out,
        first_source=layout.first_source,
        first_target=layout.first_target,
        delayed_edge=layout.delayed,
        weighted=np.array([p.synapses.weighted for p in graph.projections]),
        geometry=rows,
        table_offsets=tables[0],
        table_positions=tables[1],
        table_values=tables[2],
        weight_start=layout.weight_start,
        weight_count=np.array([p.synapses.weight_count for p in graph.projections], dtype=np.int64),
        bias_start=layout.bias_start,
        has_out=np.array([any(not p.delayed for p in graph.out_of(name)) for name in graph.nodes]),
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


def _starts(sizes: list[int]) -> Indices:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def _joined(parts: list[Indices]) -> Indices:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _block(graph: Graph, name: str) -> tuple[int, int]:
    """Return how many neighbouring receivers of a node are always reached together, and how many such blocks it has."""
    node = graph.nodes[name]
    if isinstance(node, Junction) and node.waits:  # nobody asks whom an event reached
        return 1, 0
    grid = node.cells if isinstance(node, Junction) else node.grid
    synapses = [p.synapses for p in graph.into(name) if not p.delayed]
    if all(isinstance(s, Dense) for s in synapses):
        return size_of(grid), 1
    if all(isinstance(s, Dense) or isinstance(s, Convolution) and s.groups == 1 for s in synapses):
        return grid[0], grid[1] * grid[2]
    return 1, size_of(grid)


def _geometry(graph: Graph) -> tuple[Indices, Indices, Indices, np.ndarray]:
    """Return the columns of `Net.geometry` and the tables of all Wirings, offsets absolute."""
    rows = np.zeros((len(graph.projections), records.COLUMNS), dtype=np.int64)
    offsets: list[Indices] = []
    positions: list[Indices] = []
    values: list[np.ndarray] = []
    filled = entries = 0
    for row, projection in zip(rows, graph.projections, strict=True):
        synapses = projection.synapses
        row[records.KIND] = SYNAPSES[type(synapses)]
        row[records.SHARE] = 1
        if isinstance(synapses, Dense):
            row[records.OUTS] = row[records.SHIFT] = synapses.fan_out
            row[records.SHARE] = synapses.fan_in
        elif isinstance(synapses, Convolution):
            (channels, _, width), (outs, out_height, out_width) = synapses.source, synapses.target
            ins, outs_each = channels // synapses.groups, outs // synapses.groups
            row[1 : records.TABLE] = (
                *(channels, width, outs, out_height, out_width),
                *(*synapses.kernel, *synapses.stride, *synapses.dilation),
                *(synapses.padding[0], synapses.padding[2]),
                *(ins, outs_each, ins, synapses.kernel[0] * synapses.kernel[1] * outs_each),
            )
        elif isinstance(synapses, OneToOne):
            row[records.CHANNELS] = synapses.weight_count
        elif isinstance(synapses, Wiring):
            row[records.CHANNELS], row[records.TABLE] = synapses.channels, filled
            offsets.append(synapses.offsets + entries)
            positions.append(synapses.positions)
            values.append(synapses.values)
            filled += len(synapses.offsets)
            entries += len(synapses.positions)
    return rows, _joined(offsets), _joined(positions), np.concatenate([np.zeros(0), *values])


def _windows(graph: Graph) -> dict[str, np.ndarray]:
    """Return the junctions' columns, the windows of all "max" junctions and, for every cell position, its windows."""
    columns = np.zeros((len(graph.nodes), records.CELL_COUNT + 1), dtype=np.int64)
    parts: list[list[Indices]] = [[], [], [], []]
    filled = entries = cells = 0
    for junction in graph.junctions:
        row = columns[graph.node_index[junction.name]]
        row[records.CELL_CHANNELS], row[records.CELL_COUNT] = junction.cells[0], junction.cell_count
        if junction.windows is None:
            continue
        offsets, positions = junction.windows.offsets, junction.windows.positions
        row[records.WINDOWS], row[records.INVERSE] = filled, cells
        window = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        count = np.bincount(positions, minlength=junction.cells[1] * junction.cells[2])
        found = (
            offsets + entries,
            positions,
            _starts(count.tolist()) + entries,
            window[np.argsort(positions, kind="stable")],
        )
        for part, values in zip(parts, found, strict=True):
            part.append(values)
        filled, entries, cells = filled + len(offsets), entries + len(positions), cells + len(count) + 1
    names = ("window_offsets", "window_positions", "inverse_offsets", "inverse_windows")
    return {"junction": columns} | {name: _joined(part) for name, part in zip(names, parts, strict=True)}


def _first_counts(graph: Graph) -> np.ndarray:
    """Return per node whether it is a "max" or passes on at once to where one's cells get their credit."""
    wanted = dict.fromkeys(graph.nodes, False)
    for name in graph.order:
        node = graph.nodes[name]
        if isinstance(node, Junction) and not node.waits:
            wanted[name] = node.kind == "max" or any(
                wanted[p.source] for p in graph.into(name) if p.source in wanted
            )
    return np.array(list(wanted.values()))


def _near_input(graph: Graph) -> np.ndarray:
    """Return per node whether it is a junction that inputs reach without passing a population."""
    near = dict.fromkeys(graph.nodes, False)
    for name in graph.order:
        if isinstance(graph.nodes[name], Junction):
            near[name] = any(p.source == INPUT or near[p.source] for p in graph.into(name))
    return np.array(list(near.values()))


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
        seed=np.uint64(start.seed & random_keys.MASK),
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
    has_bias = np.zeros(layout.populations, dtype=bool)
    for k in np.flatnonzero(layout.bias_start >= 0):
        has_bias[layout.target[k]] |= biases[
            layout.bias_start[k] : layout.bias_start[k] + layout.fan_out[k]
        ].any()
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
    silent = shape if keep_log else (0, 0, 0)
    return records.Out(
        spikes=np.empty(shape, dtype=dtype),
        potentials=np.empty(shape, dtype=dtype),
        silent_step=np.empty(silent, dtype=np.int32),
        silent_potential=np.empty(silent, dtype=dtype),
        turn_step=np.empty((steps, samples, net.nodes), dtype=np.int32),
        population_spikes=np.empty((steps, samples, net.populations), dtype=np.int64),
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
    n, dtype, units = net.neurons, tensors.x.dtype, len(net.node_of) - net.inputs - net.neurons
    blocks = net.block_start[net.populations]
    return records.Work(
        u=np.zeros(n + net.cells, dtype=dtype),
        compare=np.zeros(n, dtype=dtype),
        held=np.zeros(n, dtype=dtype),
        ignoring=np.zeros(n, dtype=bool),
        residual=np.zeros(n, dtype=dtype),
        count=np.zeros(n, dtype=np.int32),
        last_spike=np.zeros(n, dtype=np.int32),
        last_evaluation=np.zeros(blocks, dtype=np.int32),
        able=np.zeros(blocks, dtype=np.int32),
        turn=np.zeros(net.nodes, dtype=np.int64),
        turn_step=np.zeros(net.nodes, dtype=np.int64),
        recurrent=np.zeros(net.nodes, dtype=bool),
        dirty=np.zeros(net.block_start[-1], dtype=np.uint8),
        bounds=np.zeros((net.nodes, 2), dtype=np.int64),
        dirty_unit=np.zeros(units, dtype=np.uint8),
        holder=np.zeros(units, dtype=np.int32),
        maximum=np.zeros(units, dtype=dtype),
        change=np.zeros(1, dtype=dtype),
        found=np.zeros(n + 3, dtype=np.int64),
        bins=np.zeros(net.nodes + 3, dtype=np.int64),
        leads=np.zeros(net.nodes + 1, dtype=np.uint8),
        **_room_for_runs(net, dtype),
        now=np.zeros(12, dtype=np.int64),
    )


def _room_for_runs(net: records.Net, dtype: np.dtype) -> dict[str, Any]:
    """Scratch for the runs of one event."""
    most = max(1, int(net.geometry[:, [records.KERNEL_Y, records.KERNEL_X]].prod(1).max()))
    if len(net.table_offsets) > 1:
        most = max(most, int(np.diff(net.table_offsets).max()))
    return {"runs": np.zeros((most, 4), dtype=np.int64), "coefficients": np.zeros(most, dtype=dtype)}


def doubled(array: np.ndarray) -> np.ndarray:
    bigger = np.empty((2 * len(array), *array.shape[1:]), dtype=array.dtype)
    bigger[: len(array)] = array
    return bigger


def adjoints_of(
    net: records.Net, log: records.Log, dtype: np.dtype, first: int, last: int
) -> records.Adjoints:
    """Scratch of one chunk, with room for the events of its busiest sample."""
    emitted = log.emitted[first:last, -1] - log.emitted[first:last, 0]
    delivered = log.delivered[first:last, -1] - log.delivered[first:last, 0]
    n, room = net.neurons, int(max(emitted.max(), delivered.max()))
    units = len(net.node_of) - net.inputs - n
    cells = int(max(net.size.max(), net.junction[:, records.CELL_COUNT].max()))
    fan_in, share = int(net.fan_in.max()), int(net.geometry[:, records.SHARE].max())
    runs = _room_for_runs(net, dtype)
    first_room = room if net.first_counts.any() else 0

    def floats(size: int) -> np.ndarray:
        return np.zeros(size, dtype=dtype)

    def ints(size: int) -> np.ndarray:
        return np.zeros(size, dtype=np.int64)

    return records.Adjoints(
        current=floats(n),
        kept=floats(n),
        counts=floats(n),
        recurrent=floats(n),
        silent=floats(n + units),
        last=floats(n),
        last_step=np.zeros(n, dtype=np.int32),
        after=floats(n),
        slot=floats(cells),
        slot_step=np.zeros(cells, dtype=np.int32),
        slot_after=floats(cells),
        first=floats(cells),
        first_step=np.zeros(cells, dtype=np.int32),
        would_be=floats(cells),
        start=floats(cells),
        early=floats(units),
        extra_neuron=ints(room),
        extra_step=ints(room),
        extra=floats(room),
        rows=floats(room),
        first_rows=floats(first_room),
        previous=np.zeros(first_room, dtype=np.int32),
        holder=np.zeros(units, dtype=np.int32),
        cells=floats(cells),
        start_cells=floats(cells),
        at=ints(2),
        emissions=ints(room),
        emission_start=ints(net.nodes + 3),
        deliveries=ints(room),
        delivery_start=ints(net.nodes + 3),
        sources=np.zeros(max(room, fan_in), dtype=np.int32),
        amplitudes=floats(max(room, fan_in)),
        active=np.zeros(max(1, fan_in), dtype=np.uint8),
        **runs,
        merged=np.zeros((len(runs["runs"]), 2), dtype=np.int64),
        patch=floats(int(net.geometry[:, [records.KERNEL_Y, records.KERNEL_X, records.OUTS]].prod(1).max())),
        chosen=ints(max(1, share)),
        totals=floats(4),
    )


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

    def column(which: int, number: int) -> np.ndarray:
        return np.concatenate([part[which][:, number] for part in parts])

    return EventLog(
        emitted=out.emitted,
        source=column(0, records.SOURCE),
        amplitude=column(1, records.AMPLITUDE),
        step=column(0, records.STEP),
        potential=column(1, records.POTENTIAL),
        cell=column(0, records.CELL),
        delivered_timestep=column(0, records.DELIVERED_TIMESTEP),
        delivered_step=column(0, records.DELIVERED_STEP),
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
