"""Draws: random numbers keyed by seed, phase, version, and how many were drawn before (law 1)."""

from __future__ import annotations

from hashlib import blake2b
from struct import unpack


class Draws:
    """Called, it gives the next 64 bits of the version that `begin` named."""

    def __init__(self, seed: int) -> None:
        self.count = 0
        self._seed = seed
        self._version = (0, 0)
        self._block: tuple[int, ...] = ()  # the numbers that `count` is in the middle of

    def begin(self, phase: int, version: int, count: int = 0) -> None:
        """Begin a version, of which `count` numbers were drawn already."""
        self._version, self.count, self._block = (phase, version), count, ()

    def __call__(self) -> int:
        block, place = divmod(self.count, 8)
        if place == 0 or not self._block:
            self._block = unpack("<8Q", blake2b(b"%d/%d/%d/%d" % (self._seed, *self._version, block)).digest())
        self.count += 1
        return self._block[place]
