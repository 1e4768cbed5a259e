"""Where the synapses of a graph lead, as arrays: convolutions, wiring tables, windows of "max" junctions."""

import numpy as np

from snn_async.engines.numba import codes
from snn_async.graph import Graph, Junction
from snn_async.graph.grids import size_of
from snn_async.graph.layout import Indices
from snn_async.graph.synapses import Convolution, Dense, OneToOne, Wiring

SYNAPSES: dict[type, int] = {
    Dense: codes.DENSE,
    Convolution: codes.CONVOLUTION,
    OneToOne: codes.ONE_TO_ONE,
    Wiring: codes.WIRING,
}


def starts_of(sizes: list[int]) -> Indices:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def _joined(parts: list[Indices]) -> Indices:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def block_of(graph: Graph, name: str) -> tuple[int, int]:
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


def geometry_of(graph: Graph) -> tuple[Indices, Indices, Indices, np.ndarray]:
    """Return the columns of `Net.geometry` and the tables of all Wirings, offsets absolute."""
    rows = np.zeros((len(graph.projections), codes.COLUMNS), dtype=np.int64)
    offsets: list[Indices] = []
    positions: list[Indices] = []
    values: list[np.ndarray] = []
    filled = entries = 0
    for row, projection in zip(rows, graph.projections, strict=True):
        synapses = projection.synapses
        row[codes.KIND] = SYNAPSES[type(synapses)]
        row[codes.SHARE] = 1
        if isinstance(synapses, Dense):
            row[codes.OUTS] = row[codes.SHIFT] = synapses.fan_out
            row[codes.SHARE] = synapses.fan_in
        elif isinstance(synapses, Convolution):
            (channels, _, width), (outs, out_height, out_width) = synapses.source, synapses.target
            ins, outs_each = channels // synapses.groups, outs // synapses.groups
            row[1 : codes.TABLE] = (
                *(channels, width, outs, out_height, out_width),
                *(*synapses.kernel, *synapses.stride, *synapses.dilation),
                *(synapses.padding[0], synapses.padding[2]),
                *(ins, outs_each, ins, synapses.kernel[0] * synapses.kernel[1] * outs_each),
            )
        elif isinstance(synapses, OneToOne):
            row[codes.CHANNELS] = max(1, synapses.weight_count)
        elif isinstance(synapses, Wiring):
            row[codes.CHANNELS], row[codes.TABLE] = synapses.channels, filled
            offsets.append(synapses.offsets + entries)
            positions.append(synapses.positions)
            values.append(synapses.values)
            filled += len(synapses.offsets)
            entries += len(synapses.positions)
    return rows, _joined(offsets), _joined(positions), np.concatenate([np.zeros(0), *values])


def windows_of(graph: Graph) -> dict[str, np.ndarray]:
    """Return the junctions' columns, the windows of all "max" junctions and, for every cell position, its windows."""
    columns = np.zeros((len(graph.nodes), codes.CELL_COUNT + 1), dtype=np.int64)
    parts: list[list[Indices]] = [[], [], [], []]
    filled = entries = cells = 0
    for junction in graph.junctions:
        row = columns[graph.node_index[junction.name]]
        row[codes.CELL_CHANNELS], row[codes.CELL_COUNT] = junction.cells[0], junction.cell_count
        if junction.windows is None:
            continue
        offsets, positions = junction.windows.offsets, junction.windows.positions
        row[codes.WINDOWS], row[codes.INVERSE] = filled, cells
        window = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        count = np.bincount(positions, minlength=junction.cells[1] * junction.cells[2])
        found = (
            offsets + entries,
            positions,
            starts_of(count.tolist()) + entries,
            window[np.argsort(positions, kind="stable")],
        )
        for part, values in zip(parts, found, strict=True):
            part.append(values)
        filled, entries, cells = filled + len(offsets), entries + len(positions), cells + len(count) + 1
    names = ("window_offsets", "window_positions", "inverse_offsets", "inverse_windows")
    return {"junction": columns} | {name: _joined(part) for name, part in zip(names, parts, strict=True)}
