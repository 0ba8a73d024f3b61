"""Sleepers: devices that link up only when they wake; work waits for them, and they are told when to come back."""

from __future__ import annotations

from math import ceil
from typing import Any

MARGIN = 0.001
"""The part of its period by which a sleeper is told to come back early: clocks and sums are rounded."""
FAR = 100.0
"""Versions after which a sleeper is asked back that is not needed any more: the next phase may want it."""


class Sleepers:
    """Who sleeps, how often it wakes by itself, and when it was last there (seconds)."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[float, float]] = {}  # device -> every so many seconds, when last there
        self._made = self._lasted = 0.0  # when the last version was made, and how long it took

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
        """Return whether `device` sleeps, and has not been there since `since`."""
        return device in self.seen and self.seen[device][1] < since

    def stepped(self, now: float) -> None:
        """Note that a version is made."""
        self._made, self._lasted = now, now - self._made

    def back(self, device: str, now: float, versions: float, latest: float) -> float:
        """Return when `device` is to come back: its first waking once so many more `versions` are made, at least one.

        How long they take is taken from the last one. It is its last waking before `latest`, where that comes first.
        """
        every, seen = self.seen[device]
        wanted = max(now, self._made + max(1.0, min(FAR, versions)) * self._lasted)
        turns = max(1, int(min(ceil((wanted - seen) / every), (latest - seen) / every)))
        return seen + (turns - MARGIN) * every

    def longest(self) -> float:
        """Return the longest time in seconds from one waking to the next; 0 where nobody sleeps."""
        return max((every for every, _ in self.seen.values()), default=0.0)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {"seen": {device: list(seen) for device, seen in self.seen.items()}, "made": [self._made, self._lasted]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self.seen = {device: (every, seen) for device, (every, seen) in state["seen"].items()}
        self._made, self._lasted = state["made"]
