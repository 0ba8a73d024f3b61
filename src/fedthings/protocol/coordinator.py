"""The round logic: events in, commands out. No clock, no socket, no array (law 1).

Synchronous, over-selected, semi-synchronous and asynchronous training are this one machine and the
numbers of a `Pace`. A federation is a row of phases; a phase is a run of versions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from heapq import heappop, heappush
from math import inf
from struct import unpack
from typing import Any

from fedthings.protocol.attendance import Attendance
from fedthings.protocol.deadlines import Deadlines
from fedthings.protocol.events import (
    Advance,
    Arrived,
    Assign,
    Cancelled,
    CheckedIn,
    Command,
    Declined,
    Discard,
    Event,
    Finish,
    Joined,
    Keep,
    Left,
    Paused,
    Rest,
    Resumed,
    Stepped,
    Ticket,
    Woke,
)
from fedthings.protocol.limits import Limits
from fedthings.protocol.pace import Plan, Wait
from fedthings.protocol.roster import Roster
from fedthings.protocol.selection import Forecast, Known, Uniform, choose
from fedthings.protocol.sleepers import Sleepers

FAR = 100.0
"""Versions after which a sleeper is asked back that is not needed any more: the next phase may want it."""


class Coordinator:
    """`on(event, now)` gives the commands; `Woke` is due at `alarm` at the latest."""

    def __init__(self, plans: Sequence[Plan], seed: int = 0, devices: int = 0) -> None:
        self.plans = tuple(plans)
        self.seed = seed
        self.devices = devices
        self.phase = self.version = 0
        self._enter()
        self.kept = 0  # reports toward the version being made
        self.goal = 0  # reports that make it
        self.stepping = self.paused = self.done = False
        self.present: set[str] = set()
        self.idle = Roster()
        self.spent: set[str] = set()  # present, and not asked again before the next version
        self.out: set[str] = set()  # present, and sitting out by the pace's cap or separation
        self.reported: set[str] = set()  # whose report is kept toward the version being made
        self.tasks: dict[str, tuple[Ticket, float]] = {}  # device -> what it works on, deadline
        self.last: dict[str, Ticket] = {}  # device -> the last of its tickets that was kept
        self.sleepers = Sleepers()
        self._deadlines, self._limits, self._attendance = Deadlines(), Limits(), Attendance()
        self._forecasts = any(isinstance(plan.pace.selection, Forecast) for plan in self.plans)
        self._since: dict[str, float] = {}  # device -> when it was last given work, where the pace has slack
        self._due: deque[tuple[float, Ticket]] = deque()  # those with all of the patience, in order
        self._sooner: list[tuple[float, Ticket]] = []  # those with deadlines of their own, a heap
        self._ends = inf  # when the period of the version being made ends; -inf once it has
        self._awake = ""  # the sleeper that is told to rest, or to work, once the version is made
        self._made = self._lasted = 0.0  # when the last version was made, and how long it took
        self._attempts: dict[str, int] = {}  # of the version being made
        self._draws = 0
        self._numbers: tuple[int, ...] = ()  # the random numbers of the block that `_draws` is in
        self._reached = ""  # what ended the training before its last version
        self._waiting = inf  # since when devices are waited for
        self._fewer = 0  # devices that had to do, once too few came within the patience
        self._handlers: dict[type, Callable[[Any, float, list[Command]], None]] = {
            Joined: self._joined,
            Left: self._left,
            CheckedIn: self._checked_in,
            Declined: self._declined,
            Arrived: self._arrived,
            Stepped: self._stepped,
            Woke: self._woke,
            Paused: self._paused,
            Resumed: self._resumed,
            Cancelled: self._cancelled,
        }

    def _enter(self) -> None:
        """Take up the plan of the running phase."""
        self.plan = self.plans[self.phase]
        pace = self.plan.pace
        self._limited = bool(pace.cap or pace.separation)  # whether devices may have to sit out
        self._uniform = isinstance(pace.selection, Uniform)

    @property
    def alarm(self) -> float:
        """When `Woke` must be delivered at the latest, in seconds of federation time; inf if never."""
        due, sooner = self._due, self._sooner
        while due and not self.open(due[0][1]):
            due.popleft()
        while sooner and not self.open(sooner[0][1]):
            heappop(sooner)
        deadline = due[0][0] if due else inf
        if sooner:
            deadline = min(deadline, sooner[0][0])
        if -inf < self._ends < deadline:
            deadline = self._ends
        return min(deadline, inf if self.paused else self._waiting + self.plan.pace.patience)

    @property
    def waits(self) -> list[Wait]:
        """Everything that is waited for, each with its deadline."""
        if self.done:
            return []
        waits = [Wait("the operator: the federation is paused", inf)] if self.paused else []
        if self.tasks:
            gone = sum(device not in self.present for device in self.tasks)
            text = f"reports: {self.kept} of {self.goal} are in, {len(self.tasks)} devices at work"
            text += f", {gone} of them gone" if gone else ""
            waits.append(Wait(text, max(deadline for _, deadline in self.tasks.values())))
        if self._waiting < inf:
            waits.append(Wait(self._lack(), self._waiting + self.plan.pace.patience))
        return waits or [Wait(self._lack(), inf)]

    def _lack(self) -> str:
        """Say which devices are waited for."""
        text = f"devices: {len(self.idle)} of {self._enough()} are there"
        return text + (f", {len(self.out)} sit out (pace.cap, pace.separation)" if self.out else "")

    def open(self, ticket: Ticket) -> bool:
        """Return whether its device still works on `ticket`."""
        entry = self.tasks.get(ticket.device)
        return entry is not None and entry[0] == ticket

    def on(self, event: Event, now: float) -> list[Command]:
        """Take one event at `now` seconds of federation time; return what is to be done, in order."""
        out: list[Command] = []
        if self.done:
            if isinstance(event, Arrived):
                out.append(Discard(event.ticket, "late"))
            return out
        self._handlers[type(event)](event, now, out)
        return out

    # ------------------------------------------------------------ presence

    def _joined(self, event: Joined | CheckedIn, now: float, out: list[Command]) -> None:
        device = event.device
        self.present.add(device)
        self.sleepers.woke(device, event.every, now)
        if self._forecasts:
            self._attendance.came(device, now)
        if device in self.tasks:  # it has started anew, or has missed what it was told
            ticket, deadline = self.tasks[device]
            out.append(Assign(ticket, deadline, self.last.get(device), True))
            return
        self._release(device)
        self._fill(now, out)
        if device in self.sleepers.seen:
            self._rest(device, now, out)

    def _left(self, event: Left, now: float, out: list[Command]) -> None:
        self._leave(event.device, now)

    def _leave(self, device: str, now: float) -> None:
        self.present.discard(device)
        self.out.discard(device)
        self.idle.discard(device)
        self.sleepers.gone(device)
        if self._forecasts:
            self._attendance.left(device, now)

    def _checked_in(self, event: CheckedIn, now: float, out: list[Command]) -> None:
        self._joined(event, now, out)
        if event.device not in self.tasks and event.device not in self.sleepers.seen:
            out.append(Rest(event.device, self._why()))

    def _why(self) -> str:
        return "paused" if self.paused else "not needed now"

    def _rest(self, device: str, now: float, out: list[Command]) -> None:
        """Tell a sleeper that is awake when to come back, unless it has work: when a version that wants it may start.

        One that may be drawn while it sleeps has half of the patience left for its task.
        """
        if device in self.tasks:
            return
        if self.stepping:  # it may be wanted as soon as the version is made
            self._awake = device
            return
        pace = self.plan.pace
        versions = max(1.0, min(FAR, self._limits.sits_out(device, self.version, pace)))
        latest = now + pace.patience / 2 if device in self.idle else inf
        until = self.sleepers.back(device, max(now, self._made + versions * self._lasted), latest)
        out.append(Rest(device, self._why(), until))

    # ------------------------------------------------------------- answers

    def _declined(self, event: Declined, now: float, out: list[Command]) -> None:
        if not self.open(event.ticket):
            return
        self._close(event.ticket)
        out.append(Discard(event.ticket, event.reason))
        self._fill(now, out)
        self._check(now, out)
        if event.ticket.device in self.sleepers.seen:
            self._rest(event.ticket.device, now, out)

    def _arrived(self, event: Arrived, now: float, out: list[Command]) -> None:
        ticket = event.ticket
        staleness = self.plan.pace.staleness
        lag = self.version + self.stepping - ticket.version
        if not self.open(ticket):
            out.append(Discard(ticket, "late"))
            return
        if self.plan.pace.slack:
            self._deadlines.took(ticket.device, now - self._since[ticket.device])
        self._close(ticket)
        if lag > staleness:
            out.append(Discard(ticket, "stale"))
        else:
            self.kept += 1
            self.last[ticket.device] = ticket
            if self._limited:
                self._limits.kept(ticket.device, self.version + self.stepping + 1, self.plan.pace)
            out.append(Keep(ticket, lag))
        if staleness:
            self.spent.discard(ticket.device)
            self._release(ticket.device)
            self._check(now, out)
            self._fill(now, out)
        else:
            self.reported.add(ticket.device)
            if self.kept >= self.goal or not self.tasks or self._ends == -inf:
                self._check(now, out)
        if ticket.device in self.sleepers.seen:
            self._rest(ticket.device, now, out)

    def _woke(self, event: Woke, now: float, out: list[Command]) -> None:
        pace = self.plan.pace
        if self._ends <= now:
            self._ends = -inf
        for ticket in self._expired(now):
            if self.open(ticket):
                if self.plan.pace.slack:
                    self._deadlines.missed(ticket.device)
                deadline = self.tasks[ticket.device][1]
                if self.sleepers.missing(ticket.device, self._since.get(ticket.device, deadline - pace.patience)):
                    self._leave(ticket.device, now)  # it has not woken once: it is there again when it does
                self._close(ticket)
                out.append(Discard(ticket, "deadline"))
                if ticket.device not in self.present:  # its patience is over: the next version does not wait too
                    self._fewer = len(self.present)
        self._check(now, out, expired=True)
        if now >= self._waiting + self.plan.pace.patience and not self.paused:
            self._waiting = now
            self._renew()
            if self.plan.optional and not self.idle:
                self._finish(self._reached or "done", out)
                return
            self._fewer = len(self.idle)
            self._fill(now, out)
        elif self.plan.pace.staleness:
            self._fill(now, out)

    # ------------------------------------------------------------ versions

    def _stepped(self, event: Stepped, now: float, out: list[Command]) -> None:
        self.stepping = False
        self.version = event.version
        self._made, self._lasted = now, now - self._made
        self._attempts.clear()
        self.reported.clear()
        self._draws = 0
        self._numbers = ()
        self._reached = self._reached or event.stop
        last = bool(event.stop) or self.version >= self.plan.versions
        if last or not self.plan.pace.staleness:  # nothing older will be folded: free the stragglers
            self._drop("late", out)
        self._drop_stale(out)
        if last:
            self.kept = 0
            if self.phase + 1 == len(self.plans):
                self._finish(self._reached or "done", out)
                return
            self.phase, self.version = self.phase + 1, 0
            before = self._limited
            self._enter()
            if before:
                self._limits.clear()
                self.out.clear()
                for device in self.present:
                    self._release(device)
        self._renew()
        self._fill(now, out)
        awake, self._awake = self._awake, ""
        if awake in self.sleepers.seen:
            self._rest(awake, now, out)

    def _paused(self, event: Paused, now: float, out: list[Command]) -> None:
        self.paused = True

    def _resumed(self, event: Resumed, now: float, out: list[Command]) -> None:
        self.paused = False
        self._waiting = inf
        self._fill(now, out)
        self._check(now, out)

    def _cancelled(self, event: Cancelled, now: float, out: list[Command]) -> None:
        self._drop("cancelled", out)
        self._finish("cancelled", out)

    # --------------------------------------------------------------- parts

    def _close(self, ticket: Ticket) -> None:
        del self.tasks[ticket.device]
        if self._since:
            self._since.pop(ticket.device, None)
        if ticket.device in self.present:
            self.spent.add(ticket.device)

    def _release(self, device: str) -> None:
        """Let `device` be drawn, if it is there and free; who has reported waits for the next version."""
        if device not in self.present or device in self.tasks or device in self.spent:
            return
        if device in self.reported:
            self.spent.add(device)
        elif self._limited and self._sits_out(device):
            self.out.add(device)
        else:
            self.idle.add(device)

    def _expired(self, now: float) -> list[Ticket]:
        """Take out and return the tickets whose deadline has passed."""
        found = []
        while self._due and self._due[0][0] <= now:
            found.append(self._due.popleft())
        while self._sooner and self._sooner[0][0] <= now:
            found.append(heappop(self._sooner))
        return [ticket for _, ticket in sorted(found)] if len(found) > 1 else [ticket for _, ticket in found]

    def _sits_out(self, device: str) -> bool:
        return self._limits.sits_out(device, self.version, self.plan.pace) > 0

    def _renew(self) -> None:
        """Let those be asked again who declined or were late."""
        free = {device for device in self.spent if device not in self.tasks and device not in self.reported}
        free &= self.present
        self.spent = self.spent & self.reported & self.present
        if self._limited:
            out = {device for device in free if self._sits_out(device)}
            self.out |= out
            free -= out
        self.idle.extend(free)
        for device in self._limits.again(self.version):
            self.out.discard(device)
            self._release(device)

    def _drop(self, reason: str, out: list[Command]) -> None:
        for ticket, _ in list(self.tasks.values()):
            self._close(ticket)
            out.append(Discard(ticket, reason))

    def _drop_stale(self, out: list[Command]) -> None:
        """Stop waiting for what would be left out as stale; its model need not be kept."""
        for ticket, _ in list(self.tasks.values()):  # in the order of their versions
            if self.version - ticket.version <= self.plan.pace.staleness:
                break
            self._close(ticket)
            out.append(Discard(ticket, "stale"))

    def _finish(self, reason: str, out: list[Command]) -> None:
        self.done = True
        self._waiting = inf
        out.append(Finish(reason))

    def _enough(self) -> int:
        """Return how many devices must be free before a synchronous version starts."""
        enough = max(self.plan.pace.concurrency, self.devices if self.plan.everyone or self.version == 0 else 0)
        return min(enough, max(self._fewer, len(self.present) - len(self.out))) if self._fewer else enough

    def _check(self, now: float, out: list[Command], expired: bool = False) -> None:
        """Advance when the goal is met, or when nobody is left to wait for and there is a quorum."""
        if self.stepping or not self.goal:
            return
        over = not self.tasks and not self.plan.pace.staleness
        ended = over or self._ends == -inf
        if self.kept >= self.goal or (ended and self.kept >= min(self.plan.pace.quorum, self.goal)):
            self.stepping = True
            self.kept = self.goal = 0
            self._waiting = self._ends = inf
            out.append(Advance(self.phase, self.version + 1))
        elif over:
            # Below the quorum: try again, at once only where the patience is over already.
            self.goal, self._ends = 0, inf
            if expired:
                self._renew()
                self._fill(now, out)
            else:
                self._waiting = now

    def _fill(self, now: float, out: list[Command]) -> None:
        """Give work to free devices, as many as the pace lets work at once.

        A synchronous version starts when enough devices are free, so that a race of joins decides nothing;
        when the patience is over it starts with those there are, and later ones do not wait again.
        """
        if self.stepping or self.paused:
            return
        pace = self.plan.pace
        synchronous = pace.staleness == 0
        if synchronous and not self.goal and len(self.idle) + self.kept < self._enough():
            self._waiting = min(self._waiting, now)
            return
        if not self.goal:
            self.goal = min(len(self.idle), self.plan.most) + self.kept if self.plan.everyone else pace.goal
            self._ends = now + pace.period if pace.period else inf
        most = self.goal if self.plan.everyone else pace.concurrency
        lacking = most - len(self.tasks) - (self.kept if synchronous else 0)
        if lacking >= len(self.idle):  # nothing is left to chance
            for device in self.idle.drain():
                self._assign(device, now, out)
        else:
            for device in self._choose(lacking, now) if lacking > 0 else ():
                self._assign(device, now, out)
        # With everyone asked who could be, a lack of devices is waited out; a running task is its own alarm.
        self._waiting = inf if self.tasks else min(self._waiting, now)

    def _choose(self, count: int, now: float) -> list[str]:
        """Take out and return `count` of the free devices, by the pace's rule."""
        if count == 1 and self._uniform:
            return [self.idle.draw(self._random())]
        known = Known(now, self._attendance, self._seconds)
        return choose(self.plan.pace.selection, self.idle, count, self._random, known)

    def _seconds(self, device: str) -> float:
        return self._deadlines.seconds(device, self.plan.pace)

    def _assign(self, device: str, now: float, out: list[Command]) -> None:
        attempt = self._attempts.get(device, 0)
        self._attempts[device] = attempt + 1
        ticket = Ticket(self.phase, self.version, device, attempt)
        pace = self.plan.pace
        if pace.slack:
            self._since[device] = now
            deadline = now + self._seconds(device)
            heappush(self._sooner, (deadline, ticket))
        else:
            deadline = now + pace.patience
            self._due.append((deadline, ticket))
        self.tasks[device] = (ticket, deadline)
        if len(self._due) + len(self._sooner) > 2 * len(self.tasks) + 64:  # a slow one must not keep all after it
            self._plan_deadlines()
        out.append(Assign(ticket, deadline, self.last.get(device)))

    def _plan_deadlines(self) -> None:
        """Put down when each open task ends, and nothing else."""
        self._due = deque(sorted((deadline, ticket) for ticket, deadline in self.tasks.values()))
        self._sooner = []

    def _random(self) -> int:
        """Return 64 bits keyed by seed, phase, version and how many were drawn before (law 1)."""
        block, place = divmod(self._draws, 8)
        if place == 0 or not self._numbers:
            key = b"%d/%d/%d/%d" % (self.seed, self.phase, self.version, block)
            self._numbers = unpack("<8Q", blake2b(key).digest())
        self._draws += 1
        return self._numbers[place]

    # ------------------------------------------------------------- durable

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data; `restore` goes on from it exactly."""
        return {
            "phase": self.phase,
            "version": self.version,
            "kept": self.kept,
            "goal": self.goal,
            "flags": [self.stepping, self.paused, self.done, self._reached],
            "present": sorted(self.present),
            "spent": sorted(self.spent),
            "reported": sorted(self.reported),
            "tasks": [[list(t), deadline] for t, deadline in self.tasks.values()],
            "last": [list(t) for t in self.last.values()],
            "since": dict(self._since),
            "attempts": self._attempts,
            "draws": self._draws,
            "waiting": self._waiting,
            "fewer": self._fewer,
            "ends": self._ends,
            "awake": self._awake,
            "made": [self._made, self._lasted],
            "sleepers": self.sleepers.snapshot(),
            "deadlines": self._deadlines.snapshot(),
            "limits": self._limits.snapshot(),
            "attendance": self._attendance.snapshot(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self.phase, self.version = state["phase"], state["version"]
        self._enter()
        self.kept, self.goal = state["kept"], state["goal"]
        self.stepping, self.paused, self.done, self._reached = state["flags"]
        self.present = set(state["present"])
        self.spent = set(state["spent"])
        self.reported = set(state["reported"])
        self.tasks = {t[2]: (Ticket(*t), deadline) for t, deadline in state["tasks"]}
        self.last = {t[2]: Ticket(*t) for t in state["last"]}
        self._since = dict(state["since"])
        self._plan_deadlines()
        self._attempts = dict(state["attempts"])
        self._draws, self._numbers = state["draws"], ()
        self._waiting, self._fewer = state["waiting"], state["fewer"]
        self._awake, self._ends, (self._made, self._lasted) = state["awake"], state["ends"], state["made"]
        self.sleepers.restore(state["sleepers"])
        self._deadlines.restore(state["deadlines"])
        self._limits.restore(state["limits"])
        self._attendance.restore(state["attendance"])
        self.idle, self.out = Roster(), set()
        for device in state["present"]:
            self._release(device)
