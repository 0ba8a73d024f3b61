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
from fedthings.protocol.pace import Plan, Wait
from fedthings.protocol.presence import Presence
from fedthings.protocol.selection import Forecast, Known, Uniform, choose
from fedthings.protocol.tasks import Tasks


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
        self._devices = Presence(self.tasks, forecasts, shared)
        self.present, self.sleepers = self._devices.present, self._devices.sleepers
        self.granted, self.elsewhere = self._devices.granted, self._devices.elsewhere
        self.asking = False  # shared: whether it is to be told what is granted, be it nothing more
        self._draws = Draws(seed)
        self._enter()
        self.kept = 0  # reports toward the version being made
        self.goal = 0  # reports that make it
        self.stepping, self.paused, self.done = held, False, False
        self._ends = inf  # when the period of the version being made ends; -inf once it has
        self._awake: list[str] = []  # sleepers that are told to rest, or to work, once the version is made
        self._attempts: dict[str, int] = {}  # of the version being made
        self._first = 0  # of an edge's attempts at it
        self._reached = ""  # what ended the training before its last version
        self._waiting = inf  # since when devices are waited for that are not there
        self._short = inf  # since when more could be given work, or since one was
        self._fewer = 0  # devices that had to do, once too few came within the patience
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
        self._devices.enter(self.plan.pace, self.version)
        self._uniform = isinstance(self.plan.pace.selection, Uniform)

    @property
    def alarm(self) -> float:
        """When `Woke` must be delivered at the latest, in seconds of federation time; inf if never."""
        deadline = self.tasks.alarm
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
            work = f"{len(self.tasks)} device{'s' if len(self.tasks) > 1 else ''} at work"
            text = f"reports: {self.kept} of {self.goal} are in, {work}"
            text += f", {gone} of them gone" if gone else ""
            waits.append(Wait(text, max(deadline for _, deadline in self.tasks.values())))
        if self._waiting < inf:
            waits.append(Wait(self._lack(), self._waiting + self.plan.pace.patience))
        return waits or [Wait(self._lack(), inf)]

    def _lack(self) -> str:
        """Say which devices are waited for."""
        text = f"devices: {len(self._devices.idle)} of {self._enough()} are there"
        text += f", {len(self.elsewhere)} with other federations" if self.elsewhere else ""
        return text + (f", {len(self._devices.out)} sit out (pace.cap, pace.separation)" if self._devices.out else "")

    @property
    def wanting(self) -> float:
        """Since when it could do with more devices of those that are there; inf where it could not."""
        return inf if self.done or self.paused or self.stepping or self._waiting < inf else self._short

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
        self._devices.came(device, event.every, now)
        if device in self.tasks:  # it has started anew, or has missed what it was told
            ticket, deadline = self.tasks[device]
            out.append(Assign(ticket, deadline, self.last.get(device), True))
            return
        self._devices.release(device, self.version)
        self._fill(now, out)
        if isinstance(event, CheckedIn) or event.every:
            self._rest(device, now, out)

    def _left(self, event: Left, now: float, out: list[Command]) -> None:
        self._devices.left(event.device, now)
        if self.shared:
            self._miss(now)

    def _granted(self, event: Granted, now: float, out: list[Command]) -> None:
        self._devices.grant(event.devices)
        self.asking = False
        self._fill(now, out, granted=True)

    def _withdrawn(self, event: Withdrawn, now: float, out: list[Command]) -> None:
        self._devices.withdraw(event.devices)

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
            drawn = device in self._devices.idle or device in self.elsewhere
            latest = now + self.plan.pace.patience / 2 if drawn else inf
            sits_out = self._devices.sits_out(device, self.version)
            out.append(Rest(device, reason, self.sleepers.back(device, now, sits_out, latest)))

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
            self.tasks.deadlines.took(ticket.device, now - self.tasks.since(ticket.device, self.plan.pace))
        self._close(ticket)
        if lag > staleness:
            out.append(Discard(ticket, "stale"))
        else:
            self.kept += 1
            self.last[ticket.device] = ticket
            if self._devices.limited:
                self._devices.kept(ticket.device, self.version + self.stepping + 1)
            out.append(Keep(ticket, lag))
        if staleness:
            self._devices.spent.discard(ticket.device)
            self._devices.release(ticket.device, self.version)
            self._check(now, out)
            self._fill(now, out)
        else:
            self._devices.reported.add(ticket.device)
            if self.kept >= self.goal or not self.tasks or self._ends == -inf:
                self._check(now, out)
        if ticket.device in self.sleepers.seen:
            self._rest(ticket.device, now, out)

    def _woke(self, event: Woke, now: float, out: list[Command]) -> None:
        pace = self.plan.pace
        if self._ends <= now:
            self._ends = -inf
        for ticket in self.tasks.expired(now):
            if pace.slack:
                self.tasks.deadlines.missed(ticket.device)
            if self.sleepers.missing(ticket.device, self.tasks.since(ticket.device, pace)):
                self._devices.left(ticket.device, now)  # it has not woken once: it is there again when it does
            self._close(ticket)
            out.append(Discard(ticket, "deadline"))
            if ticket.device not in self.present:  # its patience is over: the next version does not wait too
                self._fewer = len(self.present)
        self._check(now, out, expired=True)
        if now >= self._waiting + self.plan.pace.patience and not self.paused:
            self._waiting = now
            self._devices.renew(self.version)
            self._fewer = self._devices.free
            if self.plan.optional and not self._fewer:
                self._finish(self._reached or "done", out)
                return
            self._fill(now, out)
        elif self.plan.pace.staleness:
            self._fill(now, out)

    # ------------------------------------------------------------ versions

    def _stepped(self, event: Stepped, now: float, out: list[Command]) -> None:
        self.stepping = False
        self.version = event.version
        self.sleepers.stepped(now)
        self._attempts.clear()
        self._devices.reported.clear()
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
        self.phase, self.version, self._first = event.phase, event.version, event.attempt
        self._enter()
        self.sleepers.stepped(now)
        self.kept = self.goal = 0
        self._ends = self._waiting = inf
        self.stepping = False
        self._attempts.clear()
        self._devices.reported.clear()
        self._start(now, out)

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

    def _start(self, now: float, out: list[Command]) -> None:
        """Begin the version with those who are free, and tell the sleepers that waited to hear."""
        self._draws.begin(self.phase, self.version)
        self._devices.renew(self.version)
        self._fill(now, out)
        awake, self._awake = self._awake, []
        for device in awake:
            if device in self.sleepers.seen:
                self._rest(device, now, out)

    def _close(self, ticket: Ticket) -> None:
        self.tasks.close(ticket)
        if ticket.device in self.present:
            self._devices.spent.add(ticket.device)

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
        self.granted.clear()
        out.append(Finish(reason))

    def _enough(self) -> int:
        """Return how many devices must be free before a synchronous version starts."""
        enough = max(self.plan.pace.concurrency, self.devices if self.plan.everyone or self.version == 0 else 0)
        if self._fewer:
            enough = min(enough, max(self._fewer, len(self.present) - len(self._devices.out)))
        return max(enough, self._devices.free) if self.plan.everyone and self.elsewhere else enough

    def _lacking(self) -> int:
        """Return how many devices more may work at once on the version being made."""
        most = self.goal if self.plan.everyone else self.plan.pace.concurrency
        return most - len(self.tasks) - (0 if self.plan.pace.staleness else self.kept)

    def _ask(self, now: float) -> None:
        """Note that devices of the shared fleet are wanted, if they are."""
        if not self.goal or self._lacking() > 0:
            self.asking = True
            self._short = min(self._short, now)
        self._miss(now)

    def _miss(self, now: float) -> None:
        """Note since when devices are missing, if they are; those with other federations come back by themselves.

        With everyone asked who could be, a lack of devices is waited out; a running task is its own alarm.
        """
        if self.stepping or self.paused:
            return
        lack = not self._devices.free if self.goal else self._devices.free + self.kept < self._enough()
        self._waiting = min(self._waiting, now) if lack and not self.tasks else inf

    def _check(self, now: float, out: list[Command], expired: bool = False) -> None:
        """Advance when the goal is met, or when nobody is left to wait for and there is a quorum."""
        if self.stepping or not self.goal:
            return
        over = not self.tasks and not self.plan.pace.staleness
        ended = over or self._ends == -inf
        if self.kept >= self.goal or (ended and self.kept >= min(self.plan.pace.quorum, self.goal)):
            self.stepping = True
            self.kept = self.goal = 0
            self._waiting = self._ends = self._short = inf
            out.append(Advance(self.phase, self.version + 1))
        elif over:
            # Below the quorum: try again, at once only where the patience is over already.
            self.goal, self._ends = 0, inf
            if expired:
                self._devices.renew(self.version)
                self._fill(now, out)
            else:
                self._waiting = now

    def _fill(self, now: float, out: list[Command], granted: bool = False) -> None:
        """Give work to free devices, as many as the pace lets work at once.

        A synchronous version starts when enough devices are free, so that a race of joins decides nothing;
        when the patience is over it starts with those there are, and later ones do not wait again.
        A shared fleet is asked for first, so that the choice is among all devices that are free.
        """
        if self.stepping or self.paused:
            return
        if self.shared and not granted:
            self._ask(now)
            return
        pace, idle = self.plan.pace, self._devices.idle
        synchronous = pace.staleness == 0
        if synchronous and not self.goal and len(idle) + self.kept < self._enough():
            self._short = min(self._short, now)
            self._miss(now)
            return
        if not self.goal:
            self.goal = min(len(idle), self.plan.most) + self.kept if self.plan.everyone else pace.goal
            self._ends = now + pace.period if pace.period else inf
        before, lacking = len(self.tasks), self._lacking()
        if lacking >= len(idle):  # nothing is left to chance
            for device in idle.drain():
                self._assign(device, now, out)
        else:
            for device in self._choose(lacking, now) if lacking > 0 else ():
                self._assign(device, now, out)
        given = len(self.tasks) - before
        since = now if given else min(self._short, now)  # who was given one has its turn again after the others
        self._short = since if lacking > given else inf
        self._miss(now)

    def _choose(self, count: int, now: float) -> list[str]:
        """Take out and return `count` of the free devices, by the pace's rule."""
        if count == 1 and self._uniform:
            return [self._devices.idle.draw(self._draws())]
        pace, devices = self.plan.pace, self._devices
        known = Known(now, devices.attendance, lambda device: self.tasks.deadlines.seconds(device, pace))
        return choose(pace.selection, devices.idle, count, self._draws, known)

    def _assign(self, device: str, now: float, out: list[Command]) -> None:
        self.granted.discard(device)
        attempt = self._attempts.get(device, self._first)
        self._attempts[device] = attempt + 1
        ticket = Ticket(self.phase, self.version, device, attempt)
        out.append(Assign(ticket, self.tasks.give(ticket, now, self.plan.pace), self.last.get(device)))

    # ------------------------------------------------------------- durable

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data; `restore` goes on from it exactly."""
        return {
            "phase": self.phase,
            "version": self.version,
            "kept": self.kept,
            "goal": self.goal,
            "flags": [self.stepping, self.paused, self.done, self._reached],
            "devices": self._devices.snapshot(),
            "tasks": self.tasks.snapshot(),
            "last": [list(t) for t in self.last.values()],
            "attempts": self._attempts,
            "first": self._first,
            "draws": self._draws.count,
            "shared": self.shared,
            "asking": self.asking,
            "waiting": self._waiting,
            "short": self._short,
            "fewer": self._fewer,
            "ends": self._ends,
            "awake": list(self._awake),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self.phase, self.version = state["phase"], state["version"]
        self._enter()
        self.kept, self.goal = state["kept"], state["goal"]
        self.stepping, self.paused, self.done, self._reached = state["flags"]
        self.tasks.restore(state["tasks"])
        self._devices.restore(state["devices"], self.version)
        self.last = {t[2]: Ticket(*t) for t in state["last"]}
        self._attempts, self._first = dict(state["attempts"]), state["first"]
        self._draws.begin(self.phase, self.version, state["draws"])
        self._waiting, self._short, self._fewer = state["waiting"], state["short"], state["fewer"]
        self.asking = state["asking"]
        self._ends, self._awake = state["ends"], list(state["awake"])
