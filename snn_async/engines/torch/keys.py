"""The numbers of `snn_async.random_keys` for many samples at once, as torch operations on any device.

torch has no unsigned 64 bit arithmetic, but that of int64 wraps around and gives the same bits; only right shifts
need their sign bits cleared.
"""

import torch
from torch import Tensor

from snn_async import random_keys


def uniform(seed: int, sample: Tensor, timestep: int, purpose: int, step: Tensor, neuron: Tensor) -> Tensor:
    """Return numbers in [0, 1), float64, of the shape that the arguments broadcast to.

    Args:
        sample, step, neuron: int64, the sample's id, its forward step and the source index.
    """
    state: Tensor = torch.full_like(sample, _signed(random_keys.mix(0, seed)))
    for value in (sample, timestep, purpose, step, neuron):
        state = _mix(state, value)
    return _shift(state, 11).double() * 2.0**-53


def _mix(state: Tensor, value: Tensor | int) -> Tensor:
    """`random_keys.mix`, elementwise."""
    if isinstance(value, Tensor):
        z = state + _signed(random_keys.GOLDEN) * (value + 1)
    else:
        z = state + _signed(random_keys.GOLDEN * (value + 1) & random_keys.MASK)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


def momentum_key(potential: Tensor) -> Tensor:
    """`snn_async.schedulers.momentum_key`, on any device."""
    bits = potential.view(torch.int64)
    return ((bits + (1 << 32)) & ~((1 << 33) - 1)).view(torch.float64)
