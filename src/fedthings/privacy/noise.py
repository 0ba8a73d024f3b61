"""Gaussian noise that a computer can draw exactly: whole numbers, from a cryptographic generator, many at once.

A discrete Gaussian (Canonne, Kamath, Steinke 2020) has no floating point in which the data's low bits could show
(Mironov 2012). One of deviation `SIGMA` is made of four of deviation 256, by convolution (Micciancio, Walter 2017,
section 4; Pöppelmann, Ducas, Güneysu 2014, lemma 2: each factor is below 1 / 1.9 of the deviation that it widens, so
the result is a discrete Gaussian up to a factor of 1 + 2^-190); smaller factors make smaller ones. Those of 256 come
from an alias table (Walker 1977) that is exact to 2^-128. What else noise is scaled to is the unit's matter,
never the sampler's.
"""

from __future__ import annotations

import secrets
from decimal import Decimal, localcontext
from functools import cache
from hashlib import blake2b
from math import hypot
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

SMALL = 256
"""Deviation of the Gaussians in the table; its 8,192 numbers end at 16 deviations, beyond which lies 2^-180."""
Factors: TypeAlias = "tuple[int, int]"
"""Those of the two convolutions, 0 for none."""
WIDEST: Factors = (96, 9216)


def deviation(factors: Factors) -> float:
    """Return the deviation of what `draw` gives with these factors."""
    return SMALL * hypot(1, factors[0]) * hypot(1, factors[1])


SIGMA = deviation(WIDEST)
"""The largest, 2.27e8."""
SIZES: tuple[Factors, ...] = (
    WIDEST,
    *((96, 1 << i) for i in range(13, -1, -1)),
    *((1 << i, 0) for i in range(6, -1, -1)),
    (0, 0),
)
"""Factors of deviations from `SIGMA` to `SMALL`, each about half of the one before."""
KEY = 32
"""Bytes of a key."""
_BITS = 13
_SIZE = 1 << _BITS
_WORD = 64 - _BITS  # bits of a first word that decide between a number and its alias; 64 more where they do not
_BLOCK = 1 << 14  # numbers drawn at once, so that what they need stays in the cache


def fresh() -> bytes:
    """Return a new key from the system's cryptographic generator."""
    return secrets.token_bytes(KEY)


def known(seed: int, whose: bytes = b"") -> bytes:
    """Return the key of a simulation: who knows `seed` knows the noise (law 5). `whose`: of two servers."""
    return blake2b(b"%d%b" % (seed, whose), digest_size=KEY, person=b"simulated noise").digest()


def ratchet(key: bytes) -> tuple[bytes, bytes]:
    """Return the key of this version's noise and that of all later versions, which do not tell it."""
    this, later = (
        blake2b(key=key, digest_size=KEY, person=person).digest() for person in (b"this version", b"later versions")
    )
    return this, later


def draw(key: bytes, count: int, factors: Factors = WIDEST) -> NDArray[np.int64]:
    """Return `count` numbers `(count,)` of a discrete Gaussian of `deviation(factors)`; a key is for one call only."""
    first, second = factors
    words, more = _stream(key, 0), _stream(key, 1)
    out = np.empty(count, np.int64)
    for start in range(0, count, _BLOCK):
        block = out[start : start + _BLOCK]
        small = _small(words, more, 4 * len(block)).reshape(4, -1)
        small[0] += first * small[1]
        small[2] += first * small[3]
        np.multiply(small[2], second, out=block)
        block += small[0]
    return out


def _stream(key: bytes, which: int) -> CipherContext:
    """Return AES-256 in counter mode (NIST SP 800-38A), whose output for zeros is the stream."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(key), modes.CTR(which.to_bytes(16, "little"))).encryptor()


def _words(stream: CipherContext, count: int) -> NDArray[np.uint64]:
    return np.frombuffer(stream.update(bytes(8 * count)), "<u8")


def _small(words: CipherContext, more: CipherContext, count: int) -> NDArray[np.int64]:
    """Return `count` numbers of deviation `SMALL`."""
    table = _table()
    word = _words(words, count)
    at = (word & np.uint64(_SIZE - 1)).astype(np.int64)
    word = word >> np.uint64(_BITS)
    high = table.high[at]
    other = word >= high
    if (open_ := np.flatnonzero(word == high)).size:  # one in 2^51: 64 more bits decide
        other[open_] = _words(more, len(open_)) >= table.low[at[open_]]
    return np.where(other, table.alias[at], at) - np.int64(_SIZE // 2)


class _Table(NamedTuple):
    """For each of 8,192 places a threshold of 51 + 64 bits: below it the place itself is drawn, else its alias."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    alias: NDArray[np.int64]


@cache
def _table() -> _Table:
    """Return the alias table of exp(-k^2 / 2 / 256^2), k from -4,096 to 4,095 (Vose 1991, in whole numbers)."""
    one = 1 << (_WORD + 64)
    half = _half()
    weights = [half[abs(k - _SIZE // 2)] for k in range(_SIZE)]
    total = sum(weights)
    shares = [weight * _SIZE * one // total for weight in weights]
    shares[_SIZE // 2] += _SIZE * one - sum(shares)  # what rounding has lost, below 2^-115
    alias = list(range(_SIZE))
    short = [i for i, share in enumerate(shares) if share < one]
    long = [i for i, share in enumerate(shares) if share >= one]
    while short and long:
        little, much = short.pop(), long[-1]
        alias[little] = much
        shares[much] -= one - shares[little]
        if shares[much] < one:
            short.append(long.pop())
    for i in short + long:
        shares[i] = one
    return _Table(
        np.array([share >> 64 for share in shares], np.uint64),
        np.array([share & (2**64 - 1) for share in shares], np.uint64),
        np.array(alias, np.int64),
    )


def _half() -> list[int]:
    """Return exp(-k^2 / 2 / 256^2) for k from 0 to 4,096, times 2^400, by its ratios in 140 digits."""
    with localcontext() as context:
        context.prec = 140
        ratio = (Decimal(-1) / (2 * SMALL * SMALL)).exp()  # of the first two; each next one is `square` times smaller
        square, value, out = ratio * ratio, Decimal(1 << 400), []
        for _ in range(_SIZE // 2 + 1):
            out.append(int(value))
            value *= ratio
            ratio *= square
    return out
