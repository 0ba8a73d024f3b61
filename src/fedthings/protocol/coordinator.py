"""The round logic: events in, commands out. No clock, no socket, no array (law 1).

Synchronous, over-selected, semi-synchronous and asynchronous training are this one machine and the
numbers of a `Pace`. A federation is a row of phases; a phase is a run of versions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from fedthings.protocol.draws import Draws
from fedthings.protocol.events import (
    Advance,
    Arrived,
    Assign,
    Begun,
    Cancelled,
    CheckedIn,
    Command,
    Declined,
    Discard,
    Event,
    Finish,
    Granted,
    Joined,
    Keep,
    Left,
    Paused,
    Rest,
    Resumed,
    Stepped,
    Ticket,
    Withdrawn,
    Woke,
)
from fedthings.protocol.filling import fill, miss
from fedthings.protocol.pace import Plan, Wait
from fedthings.protocol.presence import Presence
from fedthings.protocol.selection import Forecast, Uniform
from fedthings.protocol.tasks import Tasks
from fedthings.protocol.waits import waits

TRIES = 3
"""How often what is optional is asked of a device that lets the patience pass."""


class Coordinator:
    """`on(event, now)` gives the commands; `Woke` is due at `alarm` at the latest.

    An edge's is `held`: it waits to be told which version it is to make, with `Begun`. Where the fleet is `shared`
    with other federations, it gives work only to devices that are `granted`, and says since when it is `wanting` some
    of those `elsewhere` (`lending`).
    """

    def __init__(
        self, plans: Sequence[Plan], seed: int = 0, devices: int = 0, held: bool = False, shared: bool = False
    ) -> None:
        self.plans = tuple(plans)
        self.seed = seed
        self.devices = devices
        self.shared = shared
        self.phase = self.version = 0
        self.tasks = Tasks()
        self.last: dict[str, Ticket] = {}  # device -> the last of its tickets that was kept
        forecasts = any(isinstance(plan.pace.selection, Forecast) for plan in self.plans)
        self.presence = Presence(self.tasks, forecasts, shared)
        self.present, self.sleepers = self.presence.present, self.presence.sleepers
        self.granted, self.elsewhere = self.presence.granted, self.presence.elsewhere
        self.asking = False  # shared: whether it is to be told what is granted, be it nothing more
        self.draws = Draws(seed)
        self._enter()
        self.kept = 0  # reports toward the version being made
        self.goal = 0  # reports that make it
        self.stepping, self.paused, self.done = held, False, False
        self.ends = inf  # when the period of the version being made ends; -inf once it has
        self._awake: list[str] = []  # sleepers that are told to rest, or to work, once the version is made
        self.attempts: dict[str, int] = {}  # of the version being made
        self.first = 0  # of an edge's attempts at it
        self._reached = ""  # what ended the training before its last version
        self.waiting = inf  # since when devices are waited for that are not there
        self.short = inf  # since when more could be given work, or since one was
        self.fewer = 0  # devices that had to do, once too few came within the patience
        self._handlers: dict[type, Callable[[Any, float, list[Command]], None]] = {
            Joined: self._joined,
            Left: self._left,
            CheckedIn: self._joined,
            Declined: self._declined,
            Arrived: self._arrived,
            Stepped: self._stepped,
            Begun: self._begun,
            Woke: self._woke,
            Granted: self._granted,
            Withdrawn: self._withdrawn,
            Paused: self._paused,
            Resumed: self._resumed,
            Cancelled: self._cancelled,
        }

    def _enter(self) -> None:
        """Take up the plan of the running phase."""
        self.plan = self.plans[self.phase]
        self.presence.enter(self.plan.pace, self.version)
        self.uniform = isinstance(self.plan.pace.selection, Uniform)

    @property
    def alarm(self) -> float:
        """When `Woke` must be delivered at the latest, in seconds of federation time; inf if never."""
        deadline = self.tasks.alarm
        if -inf < self.ends < deadline:
            deadline = self.ends
        return min(deadline, inf if self.paused else self.waiting + self.plan.pace.patience)

    @property
    def waits(self) -> list[Wait]:
        """Everything that is waited for, each with its deadline."""
        return waits(self)

    @property
    def wanting(self) -> float:
        """Since when it could do with more devices of those that are there; inf where it could not."""
        return inf if self.done or self.paused or self.stepping or self.waiting < inf else self.short

    def open(self, ticket: Ticket) -> bool:
        """Return whether its device still works on `ticket`."""
        return self.tasks.open(ticket)

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
        self.presence.came(device, event.every, now)
        if device in self.tasks:  # it has started anew, or has missed what it was told
            ticket, deadline = self.tasks[device]
            out.append(Assign(ticket, deadline, self.last.get(device), True))
            return
        self.presence.release(device, self.version)
        fill(self, now, out)
        if isinstance(event, CheckedIn) or event.every:
            self._rest(device, now, out)

    def _left(self, event: Left, now: float, out: list[Command]) -> None:
        self.presence.left(event.device, now)
        if self.shared:
            miss(self, now)

    def _granted(self, event: Granted, now: float, out: list[Command]) -> None:
        self.presence.grant(event.devices)
        self.asking = False
        fill(self, now, out, granted=True)

    def _withdrawn(self, event: Withdrawn, now: float, out: list[Command]) -> None:
        self.presence.withdraw(event.devices)

    def _rest(self, device: str, now: float, out: list[Command]) -> None:
        """Tell a device that there is no work for it; a sleeper also when to come back.

        One that may be drawn while it sleeps has half of the patience left for its task.
        """
        if device in self.tasks:
            return
        reason = "paused" if self.paused else "not needed now"
        if device not in self.sleepers.seen:
            out.append(Rest(device, reason))
        elif self.stepping:  # it may be wanted as soon as the version is made
            self._awake.append(device)
        else:
            drawn = device in self.presence.idle or device in self.elsewhere
            latest = now + self.plan.pace.patience / 2 if drawn else inf
            sits_out = self.presence.sits_out(device, self.version)
            out.append(Rest(device, reason, self.sleepers.back(device, now, sits_out, latest)))

    # ------------------------------------------------------------- answers

    def _declined(self, event: Declined, now: float, out: list[Command]) -> None:
        if not self.open(event.ticket):
            return
        self._close(event.ticket)
        out.append(Discard(event.ticket, event.reason))
        fill(self, now, out)
        self._check(now, out)
        if event.ticket.device in self.sleepers.seen:
            self._rest(event.ticket.device, now, out)

    def _arrived(self, event: Arrived, now: float, out: list[Command]) -> None:
        ticket, pace, tasks, presence = event.ticket, self.plan.pace, self.tasks, self.presence
        device, staleness = ticket.device, pace.staleness
        lag = self.version + self.stepping - ticket.version
        if not tasks.open(ticket):
            out.append(Discard(ticket, "late"))
            return
        if pace.slack:
            tasks.deadlines.took(device, now - tasks.since(device, pace))
        tasks.close(ticket)
        if lag > staleness:
            out.append(Discard(ticket, "stale"))
        else:
            self.kept += 1
            self.last[device] = ticket
            if presence.limited:
                presence.kept(device, self.version + self.stepping + 1)
            out.append(Keep(ticket, lag))
        if staleness:
            presence.release(device, self.version)
        else:
            presence.reported.add(device)
            if device in self.present:
                presence.spent.add(device)
        if self.kept >= self.goal or self.ends == -inf or not (staleness or tasks):
            self._check(now, out)
        if staleness:
            fill(self, now, out)
        if device in self.sleepers.seen:
            self._rest(device, now, out)

    def _woke(self, event: Woke, now: float, out: list[Command]) -> None:
        pace = self.plan.pace
        if self.ends <= now:
            self.ends = -inf
        for ticket in self.tasks.expired(now):
            if pace.slack:
                self.tasks.deadlines.missed(ticket.device)
            if self.sleepers.missing(ticket.device, self.tasks.since(ticket.device, pace)):
                self.presence.left(ticket.device, now)  # it has not woken once: it is there again when it does
            self._close(ticket)
            out.append(Discard(ticket, "deadline"))
            if ticket.device not in self.present:  # its patience is over: the next version does not wait too
                self.fewer = len(self.present)
        self._check(now, out, expired=True)
        if now >= self.waiting + self.plan.pace.patience and not self.paused:
            self.waiting = now
            self.presence.renew(self.version)
            self.fewer = self.presence.free
            if self.plan.optional and not self.fewer:
                self._finish(self._reached or "done", out)
                return
            fill(self, now, out)
        elif self.plan.pace.staleness:
            fill(self, now, out)

    # ------------------------------------------------------------ versions

    def _stepped(self, event: Stepped, now: float, out: list[Command]) -> None:
        self.stepping = False
        self.version = event.version
        self.sleepers.stepped(now)
        self.attempts.clear()
        self.presence.reported.clear()
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
            self._enter()
        self._start(now, out)

    def _begun(self, event: Begun, now: float, out: list[Command]) -> None:
        self._drop("late", out)
        self.phase, self.version, self.first = event.phase, event.version, event.attempt
        self._enter()
        self.sleepers.stepped(now)
        self.kept = self.goal = 0
        self.ends = self.waiting = inf
        self.stepping = False
        self.attempts.clear()
        self.presence.reported.clear()
        self._start(now, out)

    def _paused(self, event: Paused, now: float, out: list[Command]) -> None:
        self.paused = True

    def _resumed(self, event: Resumed, now: float, out: list[Command]) -> None:
        self.paused = False
        self.waiting = inf
        fill(self, now, out)
        self._check(now, out)

    def _cancelled(self, event: Cancelled, now: float, out: list[Command]) -> None:
        self._drop("cancelled", out)
        self._finish("cancelled", out)

    # --------------------------------------------------------------- parts

    def _start(self, now: float, out: list[Command]) -> None:
        """Begin the version with those who are free, and tell the sleepers that waited to hear."""
        self.draws.begin(self.phase, self.version)
        self.presence.renew(self.version)
        fill(self, now, out)
        awake, self._awake = self._awake, []
        for device in awake:
            if device in self.sleepers.seen:
                self._rest(device, now, out)

    def _close(self, ticket: Ticket) -> None:
        self.tasks.close(ticket)
        if ticket.device in self.present:
            self.presence.spent.add(ticket.device)

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
        self.waiting = inf
        self.granted.clear()
        out.append(Finish(reason))

    def _check(self, now: float, out: list[Command], expired: bool = False) -> None:
        """Advance when the goal is met, or when nobody is left to wait for and there is a quorum."""
        if self.stepping or not self.goal:
            return
        over = not self.tasks and not self.plan.pace.staleness
        ended = over or self.ends == -inf
        if self.kept >= self.goal or (ended and self.kept >= min(self.plan.pace.quorum, self.goal)):
            self.stepping = True
            self.kept = self.goal = 0
            self.waiting = self.ends = self.short = inf
            out.append(Advance(self.phase, self.version + 1))
        elif over:
            # Below the quorum: try again, at once only where the patience is over already.
            self.goal, self.ends = 0, inf
            if self.plan.optional and max(self.attempts.values(), default=0) >= self.first + TRIES:
                self._finish(self._reached or "done", out)  # it takes everybody longer than the patience
            elif expired:
                self.presence.renew(self.version)
                fill(self, now, out)
            else:
                self.waiting = now

    # ------------------------------------------------------------- durable

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data; `restore` goes on from it exactly."""
        return {
            "phase": self.phase,
            "version": self.version,
            "kept": self.kept,
            "goal": self.goal,
            "flags": [self.stepping, self.paused, self.done, self._reached],
            "devices": self.presence.snapshot(),
            "tasks": self.tasks.snapshot(),
            "last": [list(t) for t in self.last.values()],
            "attempts": self.attempts,
            "first": self.first,
            "draws": self.draws.count,
            "shared": self.shared,
            "asking": self.asking,
            "waiting": self.waiting,
            "short": self.short,
            "fewer": self.fewer,
            "ends": self.ends,
            "awake": list(self._awake),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self.phase, self.version = state["phase"], state["version"]
        self._enter()
        self.kept, self.goal = state["kept"], state["goal"]
        self.stepping, self.paused, self.done, self._reached = state["flags"]
        self.tasks.restore(state["tasks"])
        self.presence.restore(state["devices"], self.version)
        self.last = {t[2]: Ticket(*t) for t in state["last"]}
        self.attempts, self.first = dict(state["attempts"]), state["first"]
        self.draws.begin(self.phase, self.version, state["draws"])
        self.waiting, self.short, self.fewer = state["waiting"], state["short"], state["fewer"]
        self.asking = state["asking"]
        self.ends, self._awake = state["ends"], list(state["awake"])
