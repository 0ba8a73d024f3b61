"""The committee: the devices that hide the reports of a version together, and what each must say by when (law 1).

All that are given work for a version say their keys, then the shares of their secrets; whoever has not in time is out.
It sees tickets and deadlines only. Who belongs to it is settled before any report is masked.
"""

from __future__ import annotations

from math import inf

from fedthings.protocol.events import (
    Assign,
    Conversed,
    Deliver,
    Discard,
    Introduce,
    Lapsed,
    Leave,
    Open,
    Said,
    Seating,
    Ticket,
)
from fedthings.protocol.pace import Wait

KEYS, SHARES, REPORTS = "keys", "shares", "reports"


class Committee:
    """`on(event, now)` gives the commands; `Lapsed` is due at `alarm`.

    Each answer is waited for `patience` seconds, and fewer than `least` members are too few.
    """

    def __init__(self, least: int = 2, patience: float = inf) -> None:
        self.least, self.patience = least, patience
        self.stage = REPORTS  # what is waited for; REPORTS: nothing
        self.members: dict[Ticket, None] = {}
        self.heard: set[Ticket] = set()  # who has said it
        self.version = 0
        self.until = inf

    @property
    def alarm(self) -> float:
        """When `Lapsed` is due, in seconds of federation time; inf where nothing is waited for."""
        return self.until

    @property
    def waits(self) -> list[Wait]:
        """What is waited for, with its deadline (law 11)."""
        if self.until == inf:
            return []
        left = len(self.members) - len(self.heard)
        return [Wait(f"{self.stage} of {left} of {len(self.members)} devices of version {self.version}", self.until)]

    def on(self, event: Assign | Discard | Conversed, now: float) -> list[Seating]:
        """Take one event at `now` seconds of federation time; return what is to be done, in order."""
        out: list[Seating] = []
        match event:
            case Assign(ticket=ticket, again=False):
                if self.stage != KEYS or not self.members:
                    self._wait(KEYS, now)
                    self.members, self.version = {}, ticket.version + 1
                    out.append(Open())
                self.members[ticket] = None
                return out  # the last to be given work does not hold up the others
            case Discard(ticket=ticket) if ticket in self.members:
                del self.members[ticket]
                self.heard.discard(ticket)
            case Said(ticket=ticket, what=what) if ticket in self.members and what == self.stage:
                self.heard.add(ticket)
            case Lapsed() if now >= self.until:
                for ticket in [ticket for ticket in self.members if ticket not in self.heard]:
                    self._leave(ticket, f"no {self.stage} in time", out)
            case _:
                return out
        self._go_on(now, out)
        return out

    def _go_on(self, now: float, out: list[Seating]) -> None:
        """Go to the next stage where all have said what is waited for."""
        if self.stage == REPORTS or len(self.heard) < len(self.members):
            return
        if len(self.members) < self.least:
            self.until = inf
            for ticket in list(self.members):
                self._leave(ticket, "batch below the minimum", out)
        elif self.stage == KEYS:
            self._wait(SHARES, now)
            out.append(Introduce(tuple(self.members)))
        else:
            self._wait(REPORTS, inf)
            out.append(Deliver(tuple(self.members)))

    def _wait(self, stage: str, now: float) -> None:
        self.stage, self.heard, self.until = stage, set(), now + self.patience

    def _leave(self, ticket: Ticket, reason: str, out: list[Seating]) -> None:
        del self.members[ticket]
        out.append(Leave(ticket, reason))
