"""The order in which a device goes through its samples: sorted by numbers that depend on its key alone.

Philox 4x32-10 (Salmon et al. 2011, section 3.3) is counter-based, so whole cohorts are drawn at once, and
compiled code draws the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def orders(words: NDArray[np.uint64], epoch: int, n: int) -> NDArray[np.int64]:
    """Return for each key of 64 bits `words` `(K,)` an order of n samples, `(K, n)`.

    Sample j's number is word j % 4 of the block with the counter (j // 4, epoch, 0, 0); equal numbers are in
    the order of the samples.
    """
    draws = philox(words, epoch, -(-n // 4))[:, :n]
    draws <<= HALF
    draws |= np.arange(n, dtype=np.uint64)
    draws.sort(-1)
    draws &= LOW
    return draws.view(np.int64)


def philox(words: NDArray[np.uint64], epoch: int, blocks: int) -> NDArray[np.uint64]:
    """Return the numbers below 2**32 of counters (0..blocks, epoch, 0, 0) `(K, 4 * blocks)`."""
    first, second = (words & LOW)[:, None], (words >> HALF)[:, None]
    shape = (len(words), blocks)
    a = np.broadcast_to(np.arange(blocks, dtype=np.uint64), shape)
    b = np.full(shape, epoch, np.uint64)
    c = d = np.zeros(shape, np.uint64)
    for _ in range(10):
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (right >> HALF) ^ b ^ first, right & LOW, (left >> HALF) ^ d ^ second, left & LOW
        first, second = (first + WEYL[0]) & LOW, (second + WEYL[1]) & LOW
    return np.stack([a, b, c, d], -1).reshape(len(words), -1)
