"""Turns: uploads share what may be under way to the coordinator, a window each in turn, so that no one starves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from fedthings.messages import Want
from fedthings.transport.chunks import Assembly

MOST = 32 << 20
"""Bytes that may be asked for and not have come, of all uploads together: it bounds the coordinator's memory."""
SILENT = 10.0
"""Seconds without a chunk after which an upload no longer counts, where others wait."""


class Turns:
    """Who has a window under way, of how many bytes, and who waits for one, in order."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._under_way: dict[str, tuple[int, float]] = {}  # device -> bytes asked for, last heard of; oldest first
        self._bytes = 0
        self._waiting: dict[str, None] = {}

    @property
    def alarm(self) -> float:
        """When a silent upload loses its turn, in seconds; inf where nobody waits for it."""
        if not self._waiting or not self._under_way:
            return inf
        return next(iter(self._under_way.values()))[1] + SILENT

    def note(self, device: str, asked: int, now: float) -> None:
        """Note that `asked` bytes of the device's upload are under way."""
        before = self._under_way.pop(device, (0, 0.0))[0]
        if asked:
            self._under_way[device] = (asked, now)
        self._bytes += asked - before

    def hear(self, device: str, assembly: Assembly, now: float) -> None:
        """Note how much `device` is sending, and that it waits for its turn where more is to be asked for."""
        self.note(device, assembly.asked, now)
        if assembly.hungry:
            self.wait(device)

    def wants(self, now: float, find: Callable[[str], Assembly | None]) -> Iterator[tuple[str, Want]]:
        """Yield what to ask for now, and of whom: those whose turn it is; `find` says what each is sending."""
        for device in self.next(now):
            assembly = find(device)
            if assembly is not None:
                yield from ((device, want) for want in assembly.wants())
                self.note(device, assembly.asked, now)

    def wait(self, device: str) -> None:
        """Put `device` at the end of those who wait, unless it waits already."""
        self._waiting.setdefault(device)

    def drop(self, device: str) -> None:
        """Forget `device`: its upload is whole, or over."""
        self._waiting.pop(device, None)
        self.note(device, 0, 0.0)

    def next(self, now: float) -> Iterator[str]:
        """Yield whose turn it is while there is room; the caller notes what it asks for."""
        if not self._waiting:
            return
        if now >= self.alarm:
            for device, (_, heard) in list(self._under_way.items()):
                if heard + SILENT <= now:
                    self.note(device, 0, now)
        while self._waiting and self._bytes < self.most:
            device = next(iter(self._waiting))
            del self._waiting[device]
            yield device
