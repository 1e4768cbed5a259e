"""A graph as the compiled functions' record."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from snn_async.engines.contract import Execution
from snn_async.engines.numba import codes, records
from snn_async.engines.numba.geometry import block_of, geometry_of, starts_of, windows_of
from snn_async.graph import Graph, Junction
from snn_async.graph.layout import layout_of

RESETS = {
    None: codes.NO_RESET,
    "none": codes.NO_RESET,
    "subtract": codes.SUBTRACT,
    "value": codes.VALUE,
    "swallow": codes.SWALLOW,
}
JUNCTIONS = {"sum": codes.SUM, "max": codes.MAX, "and": codes.AND, "iand": codes.IAND}
REFRACTORY = {"off": codes.OFF, "discard": codes.DISCARD, "integrate": codes.INTEGRATE}


_NETS: WeakKeyDictionary[Graph, dict[tuple[Execution, bool], records.Net]] = WeakKeyDictionary()


def net_of(graph: Graph, execution: Execution, linear: bool) -> records.Net:
    """Return the graph's record; it depends on nothing that changes, so it is computed once.

    Args:
        linear: whether timesteps begin and end as those of `LinearNeuron`, or with a given base.
    """
    nets = _NETS.setdefault(graph, {})
    if (execution, linear) not in nets:
        nets[execution, linear] = _compute_net(graph, execution, linear)
    return nets[execution, linear]


def _compute_net(graph: Graph, execution: Execution, linear: bool) -> records.Net:
    layout = layout_of(graph)
    neurons: list[Any] = [population.neuron for population in graph.populations]
    nodes = len(layout.turn)
    blocks = [block_of(graph, name) for name in graph.nodes]
    levels = {
        turn for turn, j in zip(layout.turn[layout.populations :], graph.junctions, strict=True) if j.waits
    }
    rows, *tables = geometry_of(graph)
    windows, kernel = windows_of(graph), rows[:, [codes.KERNEL_Y, codes.KERNEL_X]].prod(1)
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
            [codes.POPULATION] * layout.populations + [JUNCTIONS[j.kind] for j in graph.junctions]
        ),
        node_of=np.repeat(np.arange(nodes + 1), [layout.inputs, *layout.size]).astype(np.int32),
        size=layout.size,
        first_unit=layout.first_unit,
        first_receiver=layout.first_receiver,
        block=np.array([size for size, _ in blocks], dtype=np.int64),
        block_start=starts_of([count for _, count in blocks]),
        **windows,
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
        detach=np.array([n.detach_reset for n in neurons]),
        inclusive=np.array([n.inclusive for n in neurons]),
        spiking=np.array([n.spiking for n in neurons]),
        delayed=np.array([RESETS[n.delayed_reset if linear else None] for n in neurons]),
        retest=np.array([linear and n.retest_residual for n in neurons]),
        refractory=np.array([REFRACTORY[mode] for mode in execution.refractory]),
        refractory_dropout=np.array(execution.refractory_dropout, dtype=np.float64),
        most_runs=max(1, int(kernel.max()), int(np.diff(tables[0], prepend=0).max(initial=0))),
        most_patch=int((np.maximum(1, kernel) * rows[:, codes.OUTS]).max()),
        most_sources=max(int(layout.fan_in.max()), layout.inputs),
        most_cells=int(max(layout.size.max(), windows["junction"][:, codes.CELL_COUNT].max())),
    )


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
            near[name] = any(p.source in graph.input_grids or near[p.source] for p in graph.into(name))
    return np.array(list(near.values()))
