"""Numbers keyed by a device: for one at a time or for a whole fleet in NumPy, with the same bits (law 5).

Only integer arithmetic and one exact product are used, so that no library's version of a logarithm decides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from fedthings.vector import Array

_GOLDEN, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def key(seed: int, name: str) -> int:
    """Return the 64 bits of the device `name` under `seed`."""
    return int.from_bytes(blake2b(b"%d/%b" % (seed, name.encode()), digest_size=8).digest(), "little")


def keys(seed: int, names: Sequence[str]) -> Array:
    """Return `key` of each of `names`, uint64 `(n,)`."""
    prefix = b"%d/" % seed
    digests = b"".join([blake2b(prefix + name.encode(), digest_size=8).digest() for name in names])
    return np.frombuffer(digests, "<u8")


def uniform(key: int, number: int) -> float:
    """Return draw `number` of `key`, from 0 to below 1: SplitMix64 as a counter (Steele, Lea & Flood 2014)."""
    bits = (key + (number + 1) * _GOLDEN) & _MASK
    bits = ((bits ^ (bits >> 30)) * _FIRST) & _MASK
    bits = ((bits ^ (bits >> 27)) * _SECOND) & _MASK
    return ((bits ^ (bits >> 31)) >> 11) * 2.0**-53


def uniforms(keys: Array, number: int | Array) -> Array:
    """Return draw `number` (one, or one for each) of each of `keys`, float64 `(n,)`."""
    if isinstance(number, int):
        bits = keys + np.uint64((number + 1) * _GOLDEN & _MASK)
    else:
        bits = keys + (number.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(_FIRST)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(_SECOND)
    bits ^= bits >> np.uint64(31)
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)
