"""The norm check: how long a report is that nobody can see, from what both servers see of 1,024 projections of it.

Each server sums the coordinates of its share, with random signs, in random buckets: the count sketch of Charikar, Chen
& Farach-Colton 2002, section 3.2. The two sketches add up to that of the report, whose length is its own to a few per
cent (Thorup & Zhang 2012, Theorem 1). The signs and buckets are drawn once the set is fixed, so no device can have
known them.
"""

from __future__ import annotations

from hashlib import sha256
from math import sqrt

import numpy as np

from fedthings.vector import Array

PROJECTIONS = 1024
"""Buckets: the estimate of a norm errs by 1 / sqrt(2 * 1024), 2.2 %, as root mean square."""
SLACK = 1.15
"""A report is left out when it seems so many times longer than it may be; an honest one is, in 1 of 10**10 cases."""
LEAST = 1 << 16
"""Numbers of the smallest update that is checked: of a smaller one the projections would say too much."""
SEED = 16
"""Bytes of what each server adds to the draw."""


def joint(leader: bytes, helper: bytes, batch: bytes) -> bytes:
    """Return the seed of the draw for the set `batch`, from what each of the servers has drawn."""
    return sha256(b"fedthings norms 1" + leader + helper + batch).digest()[:SEED]


def buckets(seed: bytes, dim: int) -> Array:
    """Return the bucket of each coordinate `(dim,)`, 1,024 higher where its sign is turned."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(2 * dim))
    return np.frombuffer(stream, "<u2").astype(np.intp) & (2 * PROJECTIONS - 1)


def sketch(share: Array, buckets: Array) -> Array:
    """Return the projections `(1024,)` of `share` `(dim,)`, in its ring."""
    sums = np.bincount(buckets, weights=share, minlength=2 * PROJECTIONS)  # far below 2**53, so exact in float64
    return (sums[:PROJECTIONS] - sums[PROJECTIONS:]).astype(np.int64).astype(share.dtype)


def norm(sketched: Array) -> float:
    """Return the L2 norm, in steps, of the report with the projections `sketched`, those of both shares added up."""
    signed = sketched.view(f"i{sketched.itemsize}").astype(np.float64)
    return sqrt(float(signed @ signed))


def widest(bits: int) -> float:
    """Return how long a report may be, in steps, so that its projections do not wrap: they are 6 sigma wide."""
    return float(2 ** (bits - 1)) * sqrt(PROJECTIONS) / 6 / SLACK
