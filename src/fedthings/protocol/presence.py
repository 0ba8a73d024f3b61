"""Presence: which devices are there, and who of them may be asked now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedthings.protocol.attendance import Attendance
from fedthings.protocol.limits import Limits
from fedthings.protocol.pace import Pace
from fedthings.protocol.roster import Roster
from fedthings.protocol.sleepers import Sleepers
from fedthings.protocol.tasks import Tasks


class Presence:
    """Each of the `present` is at work on one of the `tasks`, or `idle`, or `spent`, or `out`.

    Where the fleet is `shared` with other federations, it is `elsewhere` until it is granted.
    """

    def __init__(self, tasks: Tasks, forecasts: bool, shared: bool) -> None:
        self.present: set[str] = set()
        self.idle = Roster()  # may be drawn
        self.granted: set[str] = set()  # shared: those that are idle
        self.elsewhere: set[str] = set()  # shared: may be drawn once they are granted
        self.spent: set[str] = set()  # not asked again before the next version
        self.out: set[str] = set()  # sitting out by the pace's cap or separation
        self.reported: set[str] = set()  # whose report is kept toward the version being made
        self.sleepers = Sleepers()
        self.attendance = Attendance()
        self.limits = Limits()
        self._tasks = tasks
        self._forecasts = forecasts
        self._shared = shared
        self._pace = Pace()
        self.limited = False  # whether devices may have to sit out

    def enter(self, pace: Pace, version: int) -> None:
        """Begin a phase at `pace`: what its devices have given before counts no more."""
        before, self._pace = self.limited, pace
        self.limited = bool(pace.cap or pace.separation)
        if before:
            self.limits.clear()
            self.out.clear()
            for device in self.present:
                self.release(device, version)

    def came(self, device: str, every: float, now: float) -> None:
        """Note that `device` is there; one that sleeps wakes `every` so many seconds."""
        self.present.add(device)
        self.sleepers.woke(device, every, now)
        if self._forecasts:
            self.attendance.came(device, now)

    def left(self, device: str, now: float) -> None:
        """Note that `device` is gone."""
        self.present.discard(device)
        self.out.discard(device)
        self.idle.discard(device)
        self.granted.discard(device)
        self.elsewhere.discard(device)
        self.sleepers.gone(device)
        if self._forecasts:
            self.attendance.left(device, now)

    def kept(self, device: str, version: int) -> None:
        """Note that a report of `device` counts toward `version`."""
        self.limits.kept(device, version, self._pace)

    def release(self, device: str, version: int) -> None:
        """Let `device` be drawn, if it is there and free; who has reported waits for the next version."""
        if device not in self.present or device in self._tasks or device in self.spent:
            return
        if device in self.reported:
            self.spent.add(device)
        elif self.limited and self.sits_out(device, version):
            self.out.add(device)
        elif self._shared:
            self.elsewhere.update({device} - self.granted)
        else:
            self.idle.add(device)

    def renew(self, version: int) -> None:
        """Let those be asked again who declined or were late."""
        free = {device for device in self.spent if device not in self._tasks and device not in self.reported}
        free &= self.present
        self.spent = self.spent & self.reported & self.present
        if self.limited:
            out = {device for device in free if self.sits_out(device, version)}
            self.out |= out
            free -= out
        if self._shared:
            self.elsewhere |= free
        else:
            self.idle.extend(free)
        for device in self.limits.again(version):
            self.out.discard(device)
            self.release(device, version)

    @property
    def free(self) -> int:
        """How many may be drawn, now or once they are granted."""
        return len(self.idle) + len(self.elsewhere)

    def grant(self, devices: Iterable[str]) -> None:
        """Let these be drawn, which were elsewhere."""
        found = self.elsewhere.intersection(devices)
        self.elsewhere -= found
        self.granted |= found
        self.idle.extend(found)

    def withdraw(self, devices: Iterable[str]) -> None:
        """Let these not be drawn any more: they are elsewhere."""
        found = self.granted.intersection(devices)
        self.granted -= found
        self.elsewhere |= found
        for device in found:
            self.idle.discard(device)

    def sits_out(self, device: str, version: int) -> float:
        """Return for how many versions after `version` `device` may not be asked; inf is for ever."""
        return self.limits.sits_out(device, version, self._pace)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {
            "present": sorted(self.present),
            "spent": sorted(self.spent),
            "reported": sorted(self.reported),
            "granted": sorted(self.granted),
            "sleepers": self.sleepers.snapshot(),
            "limits": self.limits.snapshot(),
            "attendance": self.attendance.snapshot(),
        }

    def restore(self, state: dict[str, Any], version: int) -> None:
        """Take up the state that `snapshot` returned, with the phase entered and the tasks restored."""
        self.present.clear()
        self.present.update(state["present"])
        self.spent = set(state["spent"])
        self.reported = set(state["reported"])
        self.sleepers.restore(state["sleepers"])
        self.limits.restore(state["limits"])
        self.attendance.restore(state["attendance"])
        self.idle, self.out = Roster(), set()
        self.elsewhere.clear()
        self.granted.clear()
        for device in state["present"]:
            self.release(device, version)
        self.grant(state["granted"])
