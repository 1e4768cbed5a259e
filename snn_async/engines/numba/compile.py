"""The two compiled entry points, cached on disk so that a machine compiles them once."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snn_async.engines.numba.backward.replay import replay_chunk
from snn_async.engines.numba.codes import DONE
from snn_async.engines.numba.forward.simulate import simulate_chunk
from snn_async.engines.numba.jit import entry_point


def _fingerprint() -> int:
    """A number for the source of everything the entry points call."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in (*sorted(folder.rglob("*.py")), folder.parent.parent / "random_keys.py"):
        source = path.read_bytes()
        if (
            path.stem in ("codes", "jit", "records", "random_keys")
            or b"snn_async.engines.numba.jit" in source
        ):
            digest.update(source)
    return int.from_bytes(digest.digest()[:6], "big")


def _entry_points(fingerprint: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    # numba's cache is keyed by an entry point's own file and closure, not by the files it calls into; with the
    # fingerprint in the closure a changed file is compiled anew instead of an old program being run
    @entry_point
    def simulate(net, rules, tensors, carried, out, work, events, rooms, first_sample, last_sample, keep_log):
        if fingerprint < 0:
            return first_sample, DONE, 0
        return simulate_chunk(
            net, rules, tensors, carried, out, work, events, rooms, first_sample, last_sample, keep_log
        )

    @entry_point
    def replay(net, rules, tensors, log, run, grads, adj, first_sample, last_sample):
        if fingerprint >= 0:
            replay_chunk(net, rules, tensors, log, run, grads, adj, first_sample, last_sample)

    return simulate, replay


simulate, replay = _entry_points(_fingerprint())
