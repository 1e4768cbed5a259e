"""A batch in chunks of samples, on threads; bit-identical on any number of them.

Chunks depend on the batch and the model only, and their gradients are summed in a fixed order. Threads are torch's own
number, from a pool that lives for one call: nothing is left behind that a forked DataLoader worker could trip over.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import types
from numpy.typing import NDArray
from torch import Tensor

from snn_async.engines.numba import codes, records
from snn_async.engines.numba.backward.cells import PREPARE_JUNCTION
from snn_async.engines.numba.backward.projections import BACK_DENSE, BACK_OTHER
from snn_async.engines.numba.backward.replay import REPLAY
from snn_async.engines.numba.forward.junctions import BEGIN_JUNCTIONS, PASS_ON, RELEASE
from snn_async.engines.numba.forward.scheduling import BY_FRESH_KEYS, BY_MOMENTUM, OLDEST_FIRST
from snn_async.engines.numba.forward.simulate import BEHIND_BARRIER, IN_STEPS, SIMULATE
from snn_async.engines.numba.forward.steps import EVALUATE
from snn_async.engines.numba.forward.synapses import ADD_DENSE, ADD_SPARSE
from snn_async.engines.numba.jit import Packed, array_type
from snn_async.engines.numba.scratch import adjoints_of, enlarged, rooms_of, work_of

CHUNKS = 8
FRAMES = 64  # a chunk has at least these, if there are two: it costs about a millisecond of Python
GRADIENT_BYTES = 1 << 26  # at most this much memory for the chunks' weight gradients, but always two chunks
Floats = NDArray[np.floating]
Bounds = list[tuple[int, int]]


class Part(NamedTuple):
    """What a chunk logged, and where it stopped: the first sample that was not run, why, and in which timestep."""

    events: records.Events
    input_source: Any
    input_amplitude: Any
    left: Any
    stopped: tuple[int, int, int]


def run_chunks(
    net: records.Net,
    rules: records.Rules,
    tensors: records.Tensors,
    carried: records.Carried,
    out: records.Out,
    keep_log: bool,
) -> tuple[list[Part], Bounds]:
    """Run all samples; results go to `out`."""
    most = max(2, min(CHUNKS, GRADIENT_BYTES // max(1, tensors.weights.nbytes))) if keep_log else CHUNKS
    most = min(most, max(2, len(tensors.x) * tensors.x.shape[1] // FRAMES))
    bounds = _chunks(tensors.x.shape[1], most)
    packed = tuple(Packed(record) for record in (net, rules, tensors, carried, out))

    def chunk(samples: tuple[int, int]) -> Part:
        return _run_chunk(packed, samples, keep_log)

    return _in_threads(chunk, bounds), bounds


def _run_chunk(packed: tuple[Packed, ...], samples: tuple[int, int], keep_log: bool) -> Part:
    """Run a chunk, with more room each time its events do not fit."""
    (sample, last), (net, rules, tensors) = samples, (one.record for one in packed[:3])
    frames = len(tensors.x) * (last - sample)
    events, rooms = rooms_of(net, rules, tensors.x.dtype, frames, keep_log)
    work = work_of(net, tensors, len(events.source))
    now = work.now
    while True:
        own = tuple(Packed(record) for record in (work, events, rooms))
        SIMULATE(*packed, *own, Packed(_kernels(*packed, *own)), sample, last, keep_log)
        sample = int(now[codes.B])
        if now[codes.STATUS] != codes.NO_ROOM:
            break
        work, events, rooms = enlarged(work, events, rooms)
    rows, deliveries = now[codes.EVENTS], now[codes.DELIVERIES]
    log = {name: getattr(events, name)[:rows] for name in events._fields}
    return Part(
        events._replace(**log | {"deliveries": events.deliveries[:deliveries]}),
        rooms.input_source[: now[codes.INPUTS]],
        rooms.input_amplitude[: now[codes.INPUTS]],
        np.sort(rooms.left[: now[codes.LEFT]]),
        (sample, int(now[codes.STATUS]), int(now[codes.T])),
    )


def _kernels(
    net: Packed,
    rules: Packed,
    tensors: Packed,
    carried: Packed,
    out: Packed,
    work: Packed,
    events: Packed,
    rooms: Packed,
) -> records.Kernels:
    """Return where the kernels lie that these records need; the others are not compiled."""
    found = records.Kernels(_adding(net, tensors, work), 0, 0, 0, 0, 0, 0, 0)
    kernels = Packed(found).type
    picking = (net.type, rules.type, tensors.type, work.type, events.type, types.int64)
    evaluate = EVALUATE.address(net.type, rules.type, tensors.type, out.type, work.type, events.type, kernels)
    stepping = (net, rules, tensors, out, work, events, rooms)
    layered = rules.record.scheduler == codes.LAYERED
    found = found._replace(
        evaluate=evaluate,
        timestep=(BEHIND_BARRIER if layered else IN_STEPS).address(
            *(one.type for one in stepping), kernels, types.int64
        ),
    )
    if not layered:
        pick = OLDEST_FIRST
        if rules.record.scheduler != codes.FIFO:
            fixed = rules.record.by_potential and rules.record.noise == 0
            pick = BY_MOMENTUM if fixed else BY_FRESH_KEYS
        found = found._replace(oldest=OLDEST_FIRST.address(*picking), pick=pick.address(*picking))
    if net.record.nodes > net.record.populations:
        passing = (net.type, work.type, events.type, types.int64)
        found = found._replace(
            begin_junctions=BEGIN_JUNCTIONS.address(net.type, work.type),
            pass_on=PASS_ON.address(*passing),
            release=RELEASE.address(*passing),
        )
    return found


def replay_chunks(
    net: records.Net,
    rules: records.Rules,
    tensors: records.Tensors,
    logs: list[tuple[records.Log, tuple[int, int]]],
    run: records.Run,
    own: dict[str, Floats],
    summed: tuple[str, ...],
) -> dict[str, Tensor] | None:
    """Return the gradients of all samples, None if a slope is not finite.

    Args:
        run: `slope` with those of all events, or none.
        own: zeros for the gradients in which every sample has its own place.
        summed: names of those that are sums over samples, of their values' shapes.
    """
    slopes = (
        np.split(run.slope, np.cumsum([len(log.source) for log, _ in logs])[:-1]) if len(run.slope) else None
    )
    packed = tuple(Packed(record) for record in (net, rules, tensors))

    def chunk(c: int) -> tuple[bool, dict[str, Floats]]:
        log, (first, last) = logs[c]
        sums = {name: np.zeros_like(getattr(tensors, name)) for name in summed}
        adjoints = adjoints_of(net, log, tensors.x.dtype, first, last)
        work = work_of(net, tensors, len(adjoints.sources))
        own_run = run if slopes is None else run._replace(slope=slopes[c])
        given = (log, own_run, records.Grads(**own, **sums), adjoints, work)
        rest = tuple(Packed(record) for record in given)
        REPLAY(*packed, *rest, Packed(_back_kernels(*packed, *rest)), first, last)
        return work.now[codes.STATUS] == codes.DONE, sums

    done = _in_threads(chunk, list(range(len(logs))))
    total = done[0][1]
    for _, part in done[1:]:
        for name in summed:
            total[name] += part[name]
    if not all(finite for finite, _ in done):
        return None
    return {name: torch.from_numpy(gradient) for name, gradient in (own | total).items()}


def _back_kernels(
    net: Packed,
    rules: Packed,
    tensors: Packed,
    log: Packed,
    run: Packed,
    grads: Packed,
    adj: Packed,
    work: Packed,
) -> records.BackKernels:
    """Return where the kernels lie that these records need; the others are not compiled."""
    own, whole = net.record, types.int64
    dense = own.geometry[:, codes.KIND] == codes.DENSE
    simple = dense & (own.source < own.populations) & (own.target < own.populations)
    types_ = tuple(one.type for one in (net, rules, tensors, log, run, grads, adj, work))
    back = [
        (BACK_DENSE if one else BACK_OTHER).address(*types_, whole, whole, whole, whole) for one in simple
    ]
    found = records.BackKernels(np.zeros(0, dtype=np.int64), np.array(back, dtype=np.int64), 0)
    if own.nodes == own.populations:
        return found
    found = found._replace(add=_adding(net, tensors, work))
    preparing = (net, rules, tensors, log, adj, work, Packed(found))
    return found._replace(
        prepare_junction=PREPARE_JUNCTION.address(*(one.type for one in preparing), whole, whole, whole)
    )


def _adding(net: Packed, tensors: Packed, work: Packed) -> NDArray[np.int64]:
    floats, sources = array_type(work.record.current), array_type(work.record.own)
    adding = (net.type, tensors.type, work.type, types.int64, floats, sources, floats)
    dense = net.record.geometry[:, codes.KIND] == codes.DENSE
    return np.array([(ADD_DENSE if one else ADD_SPARSE).address(*adding) for one in dense], dtype=np.int64)


def _in_threads(function: Callable[[Any], Any], tasks: list[Any]) -> list[Any]:
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        return [function(task) for task in tasks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, tasks))


def _chunks(samples: int, most: int) -> Bounds:
    edges = np.linspace(0, samples, min(samples, most) + 1).astype(int).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))
