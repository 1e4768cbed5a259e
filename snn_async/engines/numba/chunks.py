"""A batch in chunks of samples, on threads; bit-identical on any number of them.

Chunks depend on the batch and the model only, and their gradients are summed in a fixed order. Threads are torch's own
number, from a pool that lives for one call: nothing is left behind that a forked DataLoader worker could trip over.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_async.engines.numba import codes, records
from snn_async.engines.numba.compile import replay, simulate
from snn_async.engines.numba.scratch import adjoints_of, enlarged, rooms_of, work_of

CHUNKS = 16
GRADIENT_BYTES = 1 << 26  # at most this much memory for the chunks' weight gradients, but always two chunks
Floats = NDArray[np.floating]
Bounds = list[tuple[int, int]]


class Part(NamedTuple):
    """What a chunk logged, and where it stopped: the first sample that was not run, why, and in which timestep."""

    ints: Any
    floats: Any
    deliveries: Any
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
    bounds = _chunks(tensors.x.shape[1], CHUNKS)

    def chunk(samples: tuple[int, int]) -> Part:
        return _run_chunk(net, rules, tensors, carried, out, samples, keep_log)

    return _in_threads(chunk, bounds), bounds


def _run_chunk(
    net: records.Net,
    rules: records.Rules,
    tensors: records.Tensors,
    carried: records.Carried,
    out: records.Out,
    samples: tuple[int, int],
    keep_log: bool,
) -> Part:
    """Run a chunk, with more room each time its events do not fit."""
    sample, last = samples
    work = work_of(net, tensors)
    frames = len(tensors.x) * (last - sample)
    events, rooms = rooms_of(net, rules, tensors.x.dtype, frames, keep_log)
    while True:
        sample, status, t = simulate(
            net, rules, tensors, carried, out, work, events, rooms, sample, last, keep_log
        )
        if status != codes.NO_ROOM:
            break
        events, rooms = enlarged(events, rooms)
    now = work.now
    return Part(
        events.ints[: now[codes.EVENTS]],
        events.floats[: now[codes.EVENTS]],
        events.deliveries[: now[codes.DELIVERIES]],
        rooms.input_source[: now[codes.INPUTS]],
        rooms.input_amplitude[: now[codes.INPUTS]],
        rooms.left[: now[codes.LEFT]],
        (sample, status, t),
    )


def replay_chunks(
    net: records.Net,
    rules: records.Rules,
    tensors: records.Tensors,
    log: records.Log,
    run: records.Run,
    own: dict[str, Floats],
    summed: tuple[str, ...],
) -> dict[str, Tensor]:
    """Return the gradients of all samples.

    Args:
        own: zeros for the gradients in which every sample has its own place.
        summed: names of those that are sums over samples, of their values' shapes.
    """
    most = max(2, min(CHUNKS, GRADIENT_BYTES // max(1, tensors.weights.nbytes)))
    bounds = _chunks(tensors.x.shape[1], most)
    sums = [{name: np.zeros_like(getattr(tensors, name)) for name in summed} for _ in bounds]

    def chunk(task: tuple[tuple[int, int], dict[str, Floats]]) -> None:
        (first, last), own_sums = task
        adjoints = adjoints_of(net, log, tensors.x.dtype, first, last)
        replay(net, rules, tensors, log, run, records.Grads(**own, **own_sums), adjoints, first, last)

    _in_threads(chunk, list(zip(bounds, sums, strict=True)))
    total = sums[0]
    for part in sums[1:]:
        for name in summed:
            total[name] += part[name]
    return {name: torch.from_numpy(gradient) for name, gradient in (own | total).items()}


def _in_threads(function: Callable[[Any], Any], tasks: list[Any]) -> list[Any]:
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        return [function(task) for task in tasks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, tasks))


def _chunks(samples: int, most: int) -> Bounds:
    edges = np.linspace(0, samples, min(samples, most) + 1).astype(int).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))
