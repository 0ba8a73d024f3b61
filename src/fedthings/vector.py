"""Flat rows of parameters, the names inside them, and randomness by key.

A device is a row `(dim,)`, a cohort is a matrix `(n, dim)`; everything acts on the last axis.
Nothing here knows what a model is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Vector: TypeAlias = NDArray[np.float32]
"""`(..., dim)` float32."""
Payload: TypeAlias = Mapping[str, Array]
"""Named arrays, each `(..., dim)`: what a report or a model is made of."""


class Part(NamedTuple):
    """One named array inside a row."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Layout:
    """Where named arrays lie in a flat row of `dim` numbers."""

    def __init__(self, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        parts: list[Part] = []
        start = 0
        for name, shape in shapes:
            parts.append(Part(name, shape, start, start + prod(shape)))
            start = parts[-1].stop
        self.parts = tuple(parts)
        self.dim = start

    def views(self, row: Array) -> dict[str, Array]:
        """Return each named array of `row` `(..., dim)` as a view `(..., *shape)`."""
        return {p.name: row[..., p.start : p.stop].reshape((*row.shape[:-1], *p.shape)) for p in self.parts}


class Key(NamedTuple):
    """What randomness depends on, with a purpose: nothing is drawn from a global generator (law 5)."""

    seed: int
    device: str
    version: int
    attempt: int

    def rng(self, purpose: str) -> np.random.Generator:
        """Return the counter-based generator (Philox) of this key and `purpose`."""
        return keyed(self.seed, self.device, self.version, self.attempt, purpose)

    def word(self, purpose: str) -> int:
        """Return 64 bits of this key and `purpose`, for a counter-based generator that is not NumPy's."""
        return digest(self.seed, self.device, self.version, self.attempt, purpose) & (2**64 - 1)


def keyed(*key: int | str) -> np.random.Generator:
    """Return the counter-based generator (Philox) of `key`; equal keys give equal draws everywhere."""
    from fedthings.philox import generator  # numpy.random is 6 MB that an idle device does not need

    return generator(digest(*key))


def digest(*key: int | str) -> int:
    """Return 128 bits of BLAKE2b over `key`, as an integer."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=16).digest(), "little")


def mark(*arrays: Array | None) -> str:
    """Return what tells `arrays` from others, "" where there is none."""
    there = [np.ascontiguousarray(array) for array in arrays if array is not None]
    found = blake2b(digest_size=6)
    for array in there:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.reshape(-1).data)
    return found.hexdigest() if there else ""
