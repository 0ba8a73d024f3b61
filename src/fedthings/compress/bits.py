"""Small whole numbers as bits, a plane for each bit: nothing is wasted but the rest of the last byte."""

from __future__ import annotations

import numpy as np

from fedthings.vector import Array


def packed(codes: Array, bits: int) -> Array:
    """Return `codes` uint8 `(n, dim)`, each below 2**bits, as bytes `(n, bits * ceil(dim / 8))`."""
    if bits == 8:
        return codes
    planes = [np.packbits(codes & np.uint8(1 << bit), axis=-1, bitorder="little") for bit in range(bits)]
    return np.concatenate(planes, axis=-1)


def unpacked(data: Array, bits: int, dim: int) -> Array:
    """Return the codes `(n, dim)` uint8 that `packed` made `data` of."""
    if bits == 8:
        return data
    width = -(-dim // 8)
    codes = np.unpackbits(data[..., :width], axis=-1, count=dim, bitorder="little")
    for bit in range(1, bits):
        plane = data[..., bit * width : (bit + 1) * width]
        codes |= np.unpackbits(plane, axis=-1, count=dim, bitorder="little") << np.uint8(bit)
    return codes
