"""The roster: devices that are free, in the order of their hashes, so that who joined first decides nothing.

Adding, removing and drawing cost O(log n): sorted buckets by hash prefix and a Fenwick tree of their sizes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from hashlib import blake2b

BITS = 10
"""1,024 buckets: a bucket of a million devices holds about 1,000."""


def place(device: str) -> int:
    """Return the 64-bit place of `device` on the roster."""
    return int.from_bytes(blake2b(device.encode(), digest_size=8).digest(), "big")


class Roster:
    """A set of devices with a uniform draw that depends on the set alone."""

    def __init__(self) -> None:
        self._buckets: list[list[tuple[int, str]]] = [[] for _ in range(1 << BITS)]
        self._tree = [0] * ((1 << BITS) + 1)  # Fenwick (1994): prefix sums of the bucket sizes
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, device: str) -> bool:
        return device in self._places

    def __iter__(self) -> Iterator[str]:
        """Iterate over the devices in roster order."""
        for bucket in self._buckets:
            for _, device in bucket:
                yield device

    def add(self, device: str) -> None:
        """Add `device`; nothing changes where it is in already."""
        if device in self._places:
            return
        at = self._places[device] = place(device)
        insort(self._buckets[at >> (64 - BITS)], (at, device))
        self._count(at >> (64 - BITS), 1)

    def discard(self, device: str) -> None:
        """Take `device` out; nothing changes where it is not in."""
        at = self._places.pop(device, None)
        if at is None:
            return
        bucket = self._buckets[at >> (64 - BITS)]
        del bucket[bisect_left(bucket, (at, device))]
        self._count(at >> (64 - BITS), -1)

    def draw(self, number: int) -> str:
        """Take out and return the device that the random `number` falls on."""
        rank = number % len(self._places)
        index = 0
        for step in (1 << bit for bit in range(BITS, -1, -1)):
            if index + step <= 1 << BITS and self._tree[index + step] <= rank:
                index += step
                rank -= self._tree[index]
        device = self._buckets[index][rank][1]
        self.discard(device)
        return device

    def _count(self, bucket: int, change: int) -> None:
        index = bucket + 1
        while index <= 1 << BITS:
            self._tree[index] += change
            index += index & -index
