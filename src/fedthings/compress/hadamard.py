"""The fast Walsh-Hadamard transform, by matrix products of at most 32 x 32 that a BLAS makes quickly."""

from __future__ import annotations

from functools import cache

import numpy as np

from fedthings.vector import Array

RADIX = 32


@cache
def _matrix(size: int) -> Array:
    """Return the Hadamard matrix of `size`, a power of two (Sylvester's construction), float32."""
    made = np.ones((1, 1), np.float32)
    while len(made) < size:
        made = np.block([[made, made], [made, -made]])
    return made


def transformed(rows: Array) -> Array:
    """Return the transforms of `rows` `(n, 2**k)` float32, orthonormal and so their own inverse.

    log32(size) products: each row by itself, so that many are a stack of one, bit for bit (law 3).
    """
    n, size = rows.shape
    left, inner = size, 1
    while left > 1:
        radix = min(RADIX, left)
        left //= radix
        if inner == 1:
            rows = np.matmul(rows.reshape(n, left, radix), _matrix(radix))
        else:
            rows = np.matmul(_matrix(radix), rows.reshape(n, left, radix, inner))
        inner *= radix
    rows = rows.reshape(n, size)
    rows *= np.float32(size**-0.5)
    return rows


def overlapping(dim: int) -> tuple[slice, ...]:
    """Return where the first and the last 2**k of `dim` coordinates lie, as many as fit; one of a power of two.

    Transforms of one after the other reach all of `dim`, and nothing has to be filled up.
    """
    size = 1 << (dim.bit_length() - 1)
    return (slice(0, size), slice(dim - size, dim))[: 1 if size == dim else 2]
