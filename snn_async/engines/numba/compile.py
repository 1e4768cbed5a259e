"""The two compiled entry points, cached on disk so that a machine compiles them once."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snn_async.engines.numba.codes import DONE
from snn_async.engines.numba.jit import entry_point
from snn_async.engines.numba.replay import replay_chunk
from snn_async.engines.numba.simulate import simulate_chunk


def _fingerprint() -> int:
    """A number for the source of everything the entry points call."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    # nothing compiled calls into these
    host = {"arrays", "chunks", "compile", "engine", "geometry", "log", "net", "scratch", "sequence"}
    kernels = [path for path in sorted(folder.glob("*.py")) if path.stem not in host]
    for path in (*kernels, folder.parent.parent / "random_keys.py"):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:6], "big")


def _entry_points(fingerprint: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    # numba's cache is keyed by an entry point's own file and closure, not by the files it calls into; with the
    # fingerprint in the closure a changed file is compiled anew instead of an old program being run
    @entry_point
    def simulate(  # type: ignore[no-untyped-def]
        net, rules, tensors, carried, out, work, events, rooms, first_sample, last_sample, keep_log
    ):
        if fingerprint < 0:
            return first_sample, DONE, 0
        return simulate_chunk(
            net, rules, tensors, carried, out, work, events, rooms, first_sample, last_sample, keep_log
        )

    @entry_point
    def replay(  # type: ignore[no-untyped-def]
        net, rules, tensors, log, run, grads, adj, first_sample, last_sample
    ):
        if fingerprint >= 0:
            replay_chunk(net, rules, tensors, log, run, grads, adj, first_sample, last_sample)

    return simulate, replay


simulate, replay = _entry_points(_fingerprint())
