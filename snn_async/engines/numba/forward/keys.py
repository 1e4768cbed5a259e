"""The counter-based generator of `snn_async.random_keys`, compiled."""

import numpy as np

from snn_async import random_keys
from snn_async.engines.numba.codes import NEXT_STEP, B, T
from snn_async.engines.numba.jit import inlined, open_inlined

_GOLDEN = np.uint64(random_keys.GOLDEN)
_MUL1, _MUL2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)
_ONE = np.uint64(1)


@open_inlined
def mix(state, value):
    z = state + _GOLDEN * (np.uint64(value) + _ONE)
    z = (z ^ (z >> _S30)) * _MUL1
    z = (z ^ (z >> _S27)) * _MUL2
    return z ^ (z >> _S31)


@inlined
def step_state(rules, tensors, work, purpose):
    state = mix(np.uint64(0), rules.seed)
    state = mix(state, tensors.sample_ids[work.now[B]])
    state = mix(state, rules.timestep + work.now[T])
    state = mix(state, purpose)
    return mix(state, work.now[NEXT_STEP])


@open_inlined
def uniform(state, source):
    return float(mix(state, source) >> _S11) * 2.0**-53
