"""The roster: devices that are free, in the order of their hashes, so that who joined first decides nothing.

Sorted buckets by hash prefix, and how many devices are in 16 and in 256 of them: to add or to take out changes three
numbers, and a draw looks at 48 at the most.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator
from hashlib import blake2b
from itertools import chain

BITS = 12
"""4,096 buckets: a bucket of a million devices holds about 250."""
SHIFT = 64 - BITS
MANY = 1024
"""Devices that are cheaper to add or take out together than one by one."""


def place(device: str) -> int:
    """Return the 64-bit place of `device` on the roster."""
    return int.from_bytes(blake2b(device.encode(), digest_size=8).digest(), "big")


class Roster:
    """A set of devices with a uniform draw that depends on the set alone."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}  # of all that were ever inside: they will be again
        self._fill([])

    def __len__(self) -> int:
        return self._size

    def __contains__(self, device: str) -> bool:
        at = self._places.get(device)
        return at is not None and self._find(at, device)[1]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the devices in roster order."""
        return chain.from_iterable(self._devices)

    def add(self, device: str) -> None:
        """Add `device`; nothing changes where it is in already."""
        at = self._places.get(device) or self._place(device)
        index, inside = self._find(at, device)
        if not inside:
            bucket = at >> SHIFT
            self._buckets[bucket].insert(index, at)
            self._devices[bucket].insert(index, device)
            self._count(bucket, 1)

    def extend(self, devices: Collection[str]) -> None:
        """Add `devices`; many at once are sorted together."""
        if len(devices) < MANY or len(devices) * 8 < self._size:
            for device in devices:
                self.add(device)
        else:
            self._fill(sorted({*self, *devices}, key=lambda device: (self._place(device), device)))

    def discard(self, device: str) -> None:
        """Take `device` out; nothing changes where it is not in."""
        at = self._places.get(device)
        if at is None:
            return
        index, inside = self._find(at, device)
        if inside:
            self._take(at >> SHIFT, index)

    def draw(self, number: int) -> str:
        """Take out and return the device that the random `number` falls on."""
        rank = number % self._size
        large = small = 0
        for size in self._large:
            if rank < size:
                break
            rank -= size
            large += 16
        for size in self._small[large : large + 16]:
            if rank < size:
                break
            rank -= size
            small += 1
        bucket = (large + small) * 16
        while rank >= (size := len(self._devices[bucket])):
            rank -= size
            bucket += 1
        return self._take(bucket, rank)

    def drain(self) -> list[str]:
        """Take out and return all devices, in roster order."""
        if self._size < MANY:
            return [self.draw(0) for _ in range(self._size)]
        devices = list(self)
        self._fill([])
        return devices

    def _place(self, device: str) -> int:
        """Return the place of `device`, and remember it."""
        return self._places.get(device) or self._places.setdefault(device, place(device))

    def _find(self, at: int, device: str) -> tuple[int, bool]:
        """Return where in its bucket `device` is or would be, and whether it is inside."""
        bucket, devices = self._buckets[at >> SHIFT], self._devices[at >> SHIFT]
        index = bisect_left(bucket, at)
        while index < len(bucket) and bucket[index] == at:  # two of one place, in 10**8 cases: by name
            if devices[index] >= device:
                return index, devices[index] == device
            index += 1
        return index, False

    def _take(self, bucket: int, index: int) -> str:
        del self._buckets[bucket][index]
        self._count(bucket, -1)
        return self._devices[bucket].pop(index)

    def _fill(self, devices: list[str]) -> None:
        """Begin anew with `devices`, sorted."""
        places = [self._places[device] for device in devices]
        # Places lie side by side, so that a search stays in the cache; whose they are, beside them.
        self._buckets: list[array[int]] = []
        self._devices: list[list[str]] = []
        self._size = len(devices)
        start = 0
        for bucket in range(1 << BITS):
            stop = bisect_left(places, (bucket + 1) << SHIFT, start)
            self._buckets.append(array("Q", places[start:stop]))
            self._devices.append(devices[start:stop])
            start = stop
        sizes = [len(bucket) for bucket in self._devices]
        self._small = [sum(sizes[first : first + 16]) for first in range(0, 1 << BITS, 16)]
        self._large = [sum(self._small[first : first + 16]) for first in range(0, len(self._small), 16)]

    def _count(self, bucket: int, change: int) -> None:
        self._size += change
        self._small[bucket >> 4] += change
        self._large[bucket >> 8] += change
