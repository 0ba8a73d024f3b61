"""What a coordinator waits for, in words, each with its deadline (law 11)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from fedthings.protocol.filling import enough
from fedthings.protocol.pace import Wait

if TYPE_CHECKING:
    from fedthings.protocol.coordinator import Coordinator


def waits(coordinator: Coordinator) -> list[Wait]:
    """Return everything that is waited for; nothing once it is done."""
    if coordinator.done:
        return []
    found = [Wait("the operator: the federation is paused", inf)] if coordinator.paused else []
    tasks = coordinator.tasks
    if tasks:
        gone = sum(device not in coordinator.present for device in tasks)
        work = f"{len(tasks)} device{'s' if len(tasks) > 1 else ''} at work"
        text = f"reports: {coordinator.kept} of {coordinator.goal} are in, {work}"
        text += f", {gone} of them gone" if gone else ""
        found.append(Wait(text, max(deadline for _, deadline in tasks.values())))
    if coordinator.waiting < inf:
        found.append(Wait(_lack(coordinator), coordinator.waiting + coordinator.plan.pace.patience))
    return found or [Wait(_lack(coordinator), inf)]


def _lack(coordinator: Coordinator) -> str:
    """Say which devices are waited for."""
    presence = coordinator.presence
    text = f"devices: {len(presence.idle)} of {enough(coordinator)} are there"
    text += f", {len(presence.elsewhere)} with other federations" if presence.elsewhere else ""
    return text + (f", {len(presence.out)} sit out (pace.cap, pace.separation)" if presence.out else "")
