"""The counter-based generator: the same uniform numbers in every engine and batch (docs/design.md, section 3).

A key is a chain of splitmix64 finalizers (Steele, Lea & Flood, OOPSLA 2014) over
(seed, sample, timestep, purpose, step, neuron).
"""

import numpy as np
from numpy.typing import NDArray

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
ORDER, REFRACTORY_DROPOUT = 1, 2  # purposes


def mix(state: int, value: int) -> int:
    """Return the next state of the chain after `value`."""
    z = (state + GOLDEN * (value + 1)) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniform(
    seed: int, sample: int, timestep: int, purpose: int, step: int, neurons: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return one number in [0, 1) per neuron (source index), with 53 random bits."""
    state = 0
    for value in (seed, sample, timestep, purpose, step):
        state = mix(state, value)
    return np.array([(mix(state, int(n)) >> 11) * 2.0**-53 for n in neurons], dtype=np.float64)
