"""Sleepers: devices that link up only when they wake; work waits for them, and they are told when to come back."""

from __future__ import annotations

from math import ceil
from typing import Any

MARGIN = 0.001
"""The part of its period by which a sleeper is told to come back early: clocks and sums are rounded."""
FAR = 100.0
"""Versions after which a sleeper is asked back that is not needed any more: the next phase may want it."""
STRETCH = 1.25
"""How much longer than the shorter of the last two versions the next one is expected to take at the most."""


class Sleepers:
    """Who sleeps, how often it wakes by itself, and when it last said that it woke (seconds)."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[float, float]] = {}  # device -> every so many seconds, when it woke
        self._made = 0.0  # when the last version was made
        self._lasted: list[float] = []  # how long the last two took

    def woke(self, device: str, every: float, now: float) -> None:
        """Note that `device` is there; `every` 0 is one that does not sleep."""
        if every:
            self.seen[device] = (every, now)
        else:
            self.seen.pop(device, None)

    def gone(self, device: str) -> None:
        """Note that `device` will not wake by itself."""
        self.seen.pop(device, None)

    def missing(self, device: str, since: float) -> bool:
        """Return whether `device` sleeps, and has not said hello since `since`."""
        return device in self.seen and self.seen[device][1] < since

    def stepped(self, now: float) -> None:
        """Note that a version is made."""
        self._lasted = [*self._lasted[-1:], now - self._made]
        self._made = now

    def back(self, device: str, now: float, versions: float, latest: float) -> float:
        """Return when `device` is to come back: its first waking once so many more `versions` are made, at least one.

        One takes as long as the longer of the last two did, up to `STRETCH` times the shorter, since to come a moment
        too early is to wake for nothing. It is its last waking before `latest`, where that comes first.
        """
        every, woke = self.seen[device]
        lasts = min(max(self._lasted), STRETCH * min(self._lasted)) if self._lasted else 0.0
        wanted = max(now, self._made + max(1.0, min(FAR, versions)) * lasts)
        turns = max(1, int(min(ceil((wanted - woke) / every), (latest - woke) / every)))
        return woke + (turns - MARGIN) * every

    def longest(self) -> float:
        """Return the longest time in seconds from one waking to the next; 0 where nobody sleeps."""
        return max((every for every, _ in self.seen.values()), default=0.0)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {"seen": {device: list(seen) for device, seen in self.seen.items()}, "made": [self._made, *self._lasted]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self.seen = {device: (every, woke) for device, (every, woke) in state["seen"].items()}
        self._made, *self._lasted = state["made"]
