"""Filling: which free devices are given work, and since when too few are there."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from fedthings.protocol.events import Assign, Command, Ticket
from fedthings.protocol.selection import Known, choose

if TYPE_CHECKING:
    from fedthings.protocol.coordinator import Coordinator


def fill(coordinator: Coordinator, now: float, out: list[Command], granted: bool = False) -> None:
    """Give work to free devices, as many as the pace lets work at once.

    A synchronous version starts when enough devices are free, so that a race of joins decides nothing;
    when the patience is over it starts with those there are, and later ones do not wait again.
    A shared fleet is asked for first, so that the choice is among all devices that are free.
    """
    if coordinator.stepping or coordinator.paused:
        return
    if coordinator.plan.closed and coordinator.goal:
        miss(coordinator, now)
        return
    if coordinator.shared and not granted:
        _ask(coordinator, now)
        return
    plan, idle, tasks = coordinator.plan, coordinator.presence.idle, coordinator.tasks
    pace = plan.pace
    if pace.staleness == 0 and not coordinator.goal and len(idle) + coordinator.kept < enough(coordinator):
        coordinator.short = min(coordinator.short, now)
        miss(coordinator, now)
        return
    if not coordinator.goal:
        coordinator.goal = min(len(idle), plan.most) + coordinator.kept if plan.everyone else pace.goal
        coordinator.ends = now + pace.period if pace.period else inf
    before, lacking = len(tasks), _lacking(coordinator)
    if lacking >= len(idle):  # nothing is left to chance
        for device in idle.drain():
            _assign(coordinator, device, now, out)
    elif lacking == 1 and coordinator.uniform:  # one for one, as in asynchronous training
        _assign(coordinator, idle.draw(coordinator.draws()), now, out)
    elif lacking > 0:
        for device in _choose(coordinator, lacking, now):
            _assign(coordinator, device, now, out)
    given = len(tasks) - before
    since = now if given else min(coordinator.short, now)  # who was given one has its turn again after the others
    coordinator.short = since if lacking > given else inf
    miss(coordinator, now)


def _choose(coordinator: Coordinator, count: int, now: float) -> list[str]:
    """Take out and return `count` of the free devices, by the pace's rule."""
    pace, presence = coordinator.plan.pace, coordinator.presence
    known = Known(now, presence.attendance, lambda device: coordinator.tasks.deadlines.seconds(device, pace))
    return choose(pace.selection, presence.idle, count, coordinator.draws, known)


def _assign(coordinator: Coordinator, device: str, now: float, out: list[Command]) -> None:
    if coordinator.shared:
        coordinator.granted.discard(device)
    attempt = coordinator.attempts.get(device, coordinator.first)
    coordinator.attempts[device] = attempt + 1
    ticket = Ticket(coordinator.phase, coordinator.version, device, attempt)
    deadline = coordinator.tasks.give(ticket, now, coordinator.plan.pace)
    out.append(Assign(ticket, deadline, coordinator.last.get(device)))


def enough(coordinator: Coordinator) -> int:
    """Return how many devices must be free before a synchronous version starts."""
    plan = coordinator.plan
    needed = max(plan.pace.concurrency, coordinator.devices if plan.everyone or coordinator.version == 0 else 0)
    if coordinator.fewer:
        needed = min(needed, max(coordinator.fewer, len(coordinator.present) - len(coordinator.presence.out)))
    return max(needed, coordinator.presence.free) if plan.everyone and coordinator.elsewhere else needed


def _lacking(coordinator: Coordinator) -> int:
    """Return how many devices more may work at once on the version being made."""
    most = coordinator.goal if coordinator.plan.everyone else coordinator.plan.pace.concurrency
    return most - len(coordinator.tasks) - (0 if coordinator.plan.pace.staleness else coordinator.kept)


def _ask(coordinator: Coordinator, now: float) -> None:
    """Note that devices of the shared fleet are wanted, if they are."""
    if not coordinator.goal or _lacking(coordinator) > 0:
        coordinator.asking = True
        coordinator.short = min(coordinator.short, now)
    miss(coordinator, now)


def miss(coordinator: Coordinator, now: float) -> None:
    """Note since when devices are missing, if they are; those with other federations come back by themselves.

    With everyone asked who could be, a lack of devices is waited out; a running task is its own alarm.
    """
    if coordinator.stepping or coordinator.paused:
        return
    if coordinator.tasks:
        coordinator.waiting = inf
        return
    free = coordinator.presence.free
    lack = not free if coordinator.goal else free + coordinator.kept < enough(coordinator)
    coordinator.waiting = min(coordinator.waiting, now) if lack else inf
