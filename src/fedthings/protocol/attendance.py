"""Attendance: how long each device has stayed, from its coming and going, and how likely it stays on."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

LAST = 16
"""Stays remembered of a device."""


class Attendance:
    """The stays of each device, from `came` and `left` alone."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._stays: dict[str, list[float]] = {}  # the last that ended

    def came(self, device: str, now: float) -> None:
        """Note that `device` is there; nothing changes where it was."""
        self._since.setdefault(device, now)

    def left(self, device: str, now: float) -> None:
        """Note that `device` is gone."""
        since = self._since.pop(device, None)
        if since is not None:
            stays = self._stays.setdefault(device, [])
            stays.append(now - since)
            del stays[:-LAST]

    def forecast(self, device: str, now: float, seconds: float) -> float:
        """Return the probability that `device` stays for `seconds` more, 0.5 where nothing is known.

        Of its stays that lasted as long as this one already, the share that lasted `seconds` longer, by Laplace's
        rule of succession: (longer + 1) / (as long + 2).
        """
        stays = sorted(self._stays.get(device, ()))
        age = now - self._since.get(device, now)
        as_long = len(stays) - bisect_left(stays, age)
        longer = len(stays) - bisect_left(stays, age + seconds)
        return (longer + 1) / (as_long + 2)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {"since": dict(self._since), "stays": {device: list(stays) for device, stays in self._stays.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self._since = dict(state["since"])
        self._stays = {device: list(stays) for device, stays in state["stays"].items()}
