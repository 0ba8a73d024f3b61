"""Lending: several coordinators share one fleet, and each device works for one of them at a time.

A device that is free goes to the coordinator that has wanted one for the longest, and is kept for it until it has what
it needs to start: so neither starves, and two that both need the same devices never hold a part each. What is lent
follows from the states of the coordinators alone, so a restart lends as before (law 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from math import inf

from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import (
    Assign,
    CheckedIn,
    Command,
    Discard,
    Event,
    Granted,
    Joined,
    Keep,
    Withdrawn,
)
from fedthings.protocol.pace import Wait


class Lending:
    """`note` what a coordinator did; then `due` says what to tell which one, until nothing is due.

    The coordinators are told apart by their place in the sequence, and are `shared`. Each has a time of its own, in
    seconds: `times` holds them all.
    """

    def __init__(self, coordinators: Sequence[Coordinator]) -> None:
        self._coordinators = tuple(coordinators)
        self._work = {device: place for place, c in enumerate(self._coordinators) for device in c.tasks}
        self._free = {device for c in self._coordinators for device in c.present} - self._work.keys()
        self._taken = set(self._work)  # given work, and perhaps still granted to others

    def note(self, place: int, event: Event, commands: Sequence[Command]) -> None:
        """Take in what the coordinator at `place` answered to `event`."""
        if isinstance(event, Joined | CheckedIn) and event.device not in self._work:
            self._free.add(event.device)
        tasks = self._coordinators[place].tasks
        for command in commands:
            match command:
                case Assign(ticket=ticket):
                    self._work[ticket.device] = place
                    self._free.discard(ticket.device)
                    self._taken.add(ticket.device)
                case Keep(ticket=ticket) | Discard(ticket=ticket):
                    device = ticket.device
                    if device not in tasks and self._work.get(device) == place:
                        del self._work[device]
                        self._free.add(device)

    def due(self, times: Sequence[float]) -> tuple[int, Event] | None:
        """Return which coordinator is to be told what next, or None where each device is where it belongs."""
        if self._taken:
            for place, coordinator in enumerate(self._coordinators):
                lost = {d for d in coordinator.granted & self._taken if self._work.get(d) != place}
                if lost:
                    return place, Withdrawn(tuple(sorted(lost)))
            self._taken.clear()
        ahead: list[int] = []  # those that have waited longer, and keep what they have
        for place in self._order(times):
            waiting = self._coordinators[place]
            found = self._free & waiting.elsewhere
            for other in ahead:
                found = found - self._coordinators[other].granted
            if found or waiting.asking:
                return place, Granted(tuple(sorted(found)))
            for other, coordinator in enumerate(self._coordinators):
                both = coordinator.granted & waiting.granted
                if both and other != place and other not in ahead:  # it must not take them meanwhile
                    return other, Withdrawn(tuple(sorted(both)))
            ahead.append(place)
        return None

    def waits(self, place: int, times: Sequence[float], names: Sequence[str]) -> list[Wait]:
        """Return for whom the devices work, or are kept, that the coordinator at `place` could do with."""
        waiting = self._coordinators[place]
        found = []
        for other, coordinator in enumerate(self._coordinators):
            if other == place or waiting.wanting == inf:
                continue
            working = {device for device in waiting.elsewhere if self._work.get(device) == other}
            kept = waiting.elsewhere & coordinator.granted
            if working:
                left = self._left(working, times)
                found.append(Wait(f"{names[other]}: {len(working)} devices at work there", times[place] + left))
            if kept and coordinator.wanting < inf:
                left = self._left(coordinator.elsewhere, times)
                what = f"{names[other]}, which has waited longer: {len(kept)} devices are kept for it"
                found.append(Wait(what, times[place] + left))
        return found

    def _left(self, devices: AbstractSet[str], times: Sequence[float]) -> float:
        """Return for how many seconds the longest task of `devices` may still take."""
        left = 0.0
        for device in devices:
            place = self._work.get(device)
            if place is not None:
                left = max(left, self._coordinators[place].tasks[device][1] - times[place])
        return left

    def _order(self, times: Sequence[float]) -> list[int]:
        """Return the coordinators that want devices, the one that has waited longest first."""
        wanting = [(c.wanting - times[place], place) for place, c in enumerate(self._coordinators) if c.wanting < inf]
        return [place for _, place in sorted(wanting)]
