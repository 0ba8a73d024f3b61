"""How long chunks are on a link that breaks, and how fast bytes may go. Pure numbers, no clock."""

from __future__ import annotations

from math import inf

from fedthings.transport.chunks import CHUNK, GRAIN

SHARE = 16
"""A chunk is at most this part of what came through before the link broke: so much is sent in vain each time."""
STANDS = 64
"""Chunks that must come through on one link before they grow: well above SHARE, so that length does not swing."""


class Pacing:
    """The `length` of chunks in bytes, between 512 and `most`: a cut costs what was under way of one.

    It is a `SHARE` of what the last link carried before it broke, and doubles while a link carries `STANDS` chunks.
    """

    def __init__(self, most: int = CHUNK) -> None:
        self.most = self.length = most

    def broke(self, carried: int) -> None:
        """The link was lost amid a transfer, of which it had brought `carried` bytes through."""
        fit = carried // SHARE if carried else self.length // SHARE
        self.length = min(self.most, max(GRAIN, _power(fit)))

    def flows(self, carried: int) -> None:
        """The link stands, and has brought `carried` bytes through so far."""
        if carried >= STANDS * self.length:
            self.length = min(self.most, 2 * self.length)


class Rate:
    """At most `limit` bytes a second, in the mean: what goes now pushes back `free`, when the next may go."""

    def __init__(self, limit: float = inf) -> None:
        self.limit = limit
        self.free = 0.0

    def took(self, size: int, now: float) -> None:
        """Note that `size` bytes go at `now` seconds."""
        self.free = max(self.free, now) + size / self.limit

    def piece(self, length: int) -> int:
        """Return how long a chunk may be, at most `length`: what goes within a quarter of a second."""
        return length if self.limit == inf else min(length, max(GRAIN, _power(int(self.limit / 4))))


def _power(n: int) -> int:
    """Return the largest power of two that is at most n, or 0."""
    return 1 << (n.bit_length() - 1) if n > 0 else 0
