"""Shamir's secret sharing over the prime 2^31 - 1: a secret of 32 bytes, as 16 limbs that are shared side by side.

Any `threshold` shares give the secret, fewer say nothing of it (Shamir 1979).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedthings.errors import WireError

PRIME = (1 << 31) - 1
SECRET, LIMBS = 32, 16
"""Bytes of a secret, and its limbs of 16 bits."""
SHARE = 4 * LIMBS
"""Bytes of a share."""

Draw = Callable[[int], bytes]


def split(secret: bytes, threshold: int, holders: int, draw: Draw = os.urandom) -> list[bytes]:
    """Return a share of `secret` for each of `holders`; that of number h is the polynomial at h + 1."""
    limbs = np.frombuffer(secret, "<u2").astype(np.uint64)
    coefficients = [limbs, *_field(threshold - 1, draw)]
    at = np.arange(1, holders + 1, dtype=np.uint64)[:, None]
    value = np.zeros((holders, LIMBS), np.uint64)
    for coefficient in reversed(coefficients):  # Horner's rule; below 2^62, so nothing wraps
        value *= at
        value += coefficient
        value %= PRIME
    return [row.tobytes() for row in value.astype("<u4")]


def join(shares: Sequence[bytes], holders: Sequence[int]) -> bytes:
    """Return the secret of which the holders with these numbers have `shares`; there are as many as the threshold.

    Raises WireError where they cannot be shares of one.
    """
    if any(len(share) != SHARE for share in shares):
        raise WireError("malformed", f"a share of a secret has {SHARE} bytes")
    values = np.frombuffer(b"".join(shares), "<u4").reshape(-1, LIMBS).astype(np.uint64)
    limbs = (values % PRIME * _weights(tuple(holders))[:, None] % PRIME).sum(axis=0) % PRIME
    if (limbs >> np.uint64(16)).any():
        raise WireError("wrong shares", "the shares given are not of one secret")
    secret: bytes = limbs.astype("<u2").tobytes()
    return secret


@lru_cache(maxsize=1024)
def _weights(holders: tuple[int, ...]) -> NDArray[np.uint64]:
    """Return what each holder's value counts for at 0 (Lagrange), `(t,)`."""
    at = np.array(holders, np.uint64) + np.uint64(1)
    over, under = np.ones_like(at), np.ones_like(at)
    for i, x in enumerate(at):
        others = np.arange(len(at)) != i
        over = np.where(others, over * x % PRIME, over)
        under = np.where(others, under * ((x + np.uint64(PRIME) - at) % PRIME) % PRIME, under)
    return over * _inverse(under) % PRIME


def _inverse(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the inverse of each value: its power PRIME - 2 (Fermat)."""
    found, power, exponent = np.ones_like(values), values, PRIME - 2
    while exponent:
        if exponent & 1:
            found = found * power % PRIME
        power = power * power % PRIME
        exponent >>= 1
    return found


def _field(rows: int, draw: Draw) -> NDArray[np.uint64]:
    """Return `(rows, LIMBS)` numbers, each of the field with the same probability."""
    found = np.frombuffer(draw(4 * rows * LIMBS), "<u4") & np.uint32(PRIME)
    while (out := found == PRIME).any():  # 1 of 2^31 is drawn again
        found = found.copy()
        found[out] = np.frombuffer(draw(4 * int(out.sum())), "<u4") & np.uint32(PRIME)
    return found.astype(np.uint64).reshape(rows, LIMBS)
