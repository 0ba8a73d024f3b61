"""Masks: seeds become rows of noise, which are added to the rows of a report, or taken away, where these lie."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from fedthings.aggregate.ring import EXACT, X
from fedthings.vector import Payload

BLOCK = 1 << 16
"""Bytes of mask made at once, while a core has them near."""
AT_ONCE = 256
"""Key streams that are open at once."""


def apply(arrays: Payload, seeds: Iterable[tuple[bytes, np.ufunc]]) -> None:
    """Add (np.add) to the rows of `arrays`, or subtract from them, the mask of each of `seeds`, in place.

    A mask is the key stream of AES-128 in counter mode from 0 (NIST SP 800-38A, section 6.5), little-endian, first over
    "x", then over "exact". Many are applied to a block before the next, so that a long row is gone through seldom.
    """
    left = iter(seeds)
    while some := list(islice(left, AT_ONCE)):
        _apply(arrays, some)


def _apply(arrays: Payload, seeds: list[tuple[bytes, np.ufunc]]) -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    streams = [(Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor(), how) for seed, how in seeds]
    nothing, made = bytes(BLOCK), np.empty(BLOCK + 16, np.uint8)
    for name in (X, EXACT):
        if name not in arrays:
            continue
        row = arrays[name]
        step = BLOCK // row.itemsize
        for start in range(0, len(row), step):
            part = row[start : start + step]
            zeros = nothing if part.nbytes == BLOCK else nothing[: part.nbytes]
            noise = made[: part.nbytes].view(row.dtype.newbyteorder("<"))
            for stream, how in streams:
                stream.update_into(zeros, made)  # type: ignore[arg-type]
                how(part, noise, out=part)
