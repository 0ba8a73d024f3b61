"""The roster: devices that are free, in the order of their hashes, so that who joined first decides nothing.

Adding, removing and drawing cost O(log n): sorted buckets by hash prefix and a Fenwick tree of their sizes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from hashlib import blake2b

BITS = 12
"""4,096 buckets: a bucket of a million devices holds about 250."""
STEPS = tuple(1 << bit for bit in range(BITS - 1, -1, -1))
SHIFT = 64 - BITS
MANY = 1024
"""Devices that are cheaper to add or take out together than one by one."""


def place(device: str) -> int:
    """Return the 64-bit place of `device` on the roster."""
    return int.from_bytes(blake2b(device.encode(), digest_size=8).digest(), "big")


class Roster:
    """A set of devices with a uniform draw that depends on the set alone."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(1 << BITS)]  # places: compact, so that a search stays in the cache
        self._tree = [0] * ((1 << BITS) + 1)  # Fenwick (1994): prefix sums of the bucket sizes
        self._inside: set[str] = set()
        self._places: dict[str, int] = {}  # of all that were ever inside: they will be again
        self._devices: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._inside)

    def __contains__(self, device: str) -> bool:
        return device in self._inside

    def __iter__(self) -> Iterator[str]:
        """Iterate over the devices in roster order."""
        for bucket in self._buckets:
            for at in bucket:
                yield self._devices[at]

    def add(self, device: str) -> None:
        """Add `device`; nothing changes where it is in already."""
        if device in self._inside:
            return
        self._inside.add(device)
        at = self._places.get(device) or self._place(device)
        insort(self._buckets[at >> SHIFT], at)
        self._count(at >> SHIFT, 1)

    def extend(self, devices: Collection[str]) -> None:
        """Add `devices`; many at once are sorted together."""
        if len(devices) < MANY or len(devices) * 8 < len(self._inside):
            for device in devices:
                self.add(device)
            return
        self._inside.update(devices)
        self._fill(sorted(self._places.get(device) or self._place(device) for device in self._inside))

    def discard(self, device: str) -> None:
        """Take `device` out; nothing changes where it is not in."""
        if device not in self._inside:
            return
        self._inside.remove(device)
        at = self._places[device]
        bucket = self._buckets[at >> SHIFT]
        del bucket[bisect_left(bucket, at)]
        self._count(at >> SHIFT, -1)

    def draw(self, number: int) -> str:
        """Take out and return the device that the random `number` falls on."""
        rank = number % len(self._inside)
        index, tree = 0, self._tree
        for step in STEPS:
            if tree[index + step] <= rank:
                index += step
                rank -= tree[index]
        device = self._devices[self._buckets[index].pop(rank)]
        self._inside.remove(device)
        self._count(index, -1)
        return device

    def drain(self) -> list[str]:
        """Take out and return all devices, in roster order."""
        if len(self._inside) < MANY:
            devices = sorted(self._inside, key=self._places.__getitem__)
            for device in devices:
                self.discard(device)
            return devices
        devices = list(self)
        self._inside.clear()
        self._fill([])
        return devices

    def _place(self, device: str) -> int:
        """Return the place of a device that was never inside."""
        at = place(device)
        while self._devices.setdefault(at, device) != device:  # of a million devices, two in 10**8 cases
            at += 1
        self._places[device] = at
        return at

    def _fill(self, places: list[int]) -> None:
        """Begin anew with the sorted `places`."""
        start = 0
        for index in range(1 << BITS):
            stop = bisect_left(places, (index + 1) << SHIFT, start)
            self._buckets[index] = array("Q", places[start:stop])
            start = stop
        tree = self._tree = [0, *map(len, self._buckets)]
        for index in range(1, len(tree)):
            above = index + (index & -index)
            if above < len(tree):
                tree[above] += tree[index]

    def _count(self, bucket: int, change: int) -> None:
        tree, index = self._tree, bucket + 1
        while index <= 1 << BITS:
            tree[index] += change
            index += index & -index
