"""A coordinator by itself, without services and devices: begun, and what it says."""

from __future__ import annotations

from fedthings.protocol.coordinator import Coordinator
from fedthings.protocol.events import Assign, Joined, Ticket
from fedthings.protocol.pace import Pace, Plan


def started(pace: Pace, devices: int, versions: int = 3, **more) -> tuple[Coordinator, list]:
    coordinator = Coordinator([Plan(pace, versions)], **more)
    out = []
    for i in range(devices):
        out += coordinator.on(Joined(f"d{i}"), 0.0)
    return coordinator, out


def tickets(commands: list) -> list[Ticket]:
    return [c.ticket for c in commands if isinstance(c, Assign)]
