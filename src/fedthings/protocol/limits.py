"""Limits: how often a device's reports count, and how many versions it sits out after one."""

from __future__ import annotations

from math import inf
from typing import Any

from fedthings.protocol.pace import Pace


class Limits:
    """`pace.cap` and `pace.separation` for each device; who sits out is found by version, not by looking at all."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[int, int]] = {}  # device -> reports that counted, version it may next be asked at
        self._waiting: dict[int, list[str]] = {}  # version -> devices that may be asked again from it on

    def kept(self, device: str, version: int, pace: Pace) -> None:
        """Note that a report of `device` counts toward `version`."""
        if not pace.cap and not pace.separation:
            return
        count, after = self._given.get(device, (0, 0))[0] + 1, version + pace.separation
        self._given[device] = (count, after)
        if pace.separation and not (pace.cap and count >= pace.cap):
            self._waiting.setdefault(after, []).append(device)

    def sits_out(self, device: str, version: int, pace: Pace) -> float:
        """Return for how many versions `device` may not be asked once `version` is made: 0 is none, inf is for ever."""
        count, after = self._given.get(device, (0, 0))
        if pace.cap and count >= pace.cap:
            return inf
        return max(0, after - version) if pace.separation else 0

    def again(self, version: int) -> list[str]:
        """Return those who may be asked again now that `version` is made."""
        return self._waiting.pop(version, [])

    def clear(self) -> None:
        """Forget all: another phase begins."""
        self._given, self._waiting = {}, {}

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {
            "given": {device: list(given) for device, given in self._given.items()},
            "waiting": [[version, list(devices)] for version, devices in self._waiting.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self._given = {device: (count, after) for device, (count, after) in state["given"].items()}
        self._waiting = {version: list(devices) for version, devices in state["waiting"]}
