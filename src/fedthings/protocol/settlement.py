"""The settlement: what lies between a set of reports that is fixed and the sum that it comes to (law 1).

Where another party has a share in the sum it is asked, while the next set fills; where there is none the version is
made at once. It sees tickets and deadlines only; its events are commands of the coordinator, and the party's answers.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Literal

from fedthings.protocol.events import (
    Advance,
    Answered,
    Ask,
    Checked,
    Exclude,
    Excluded,
    Finish,
    Keep,
    Overdue,
    Settle,
    Settled,
    Settling,
    Ticket,
)
from fedthings.protocol.pace import Wait


class Settlement:
    """`on(event, now)` gives the commands; `Overdue` is due at `alarm`.

    The `party` that is asked has `patience` seconds, and answers for sets of at least `least` reports; without one
    ("") every version is made at once. In the phases `norms` it is asked for the reports' norms first. It is the
    "helper", or the "devices".
    """

    def __init__(
        self,
        party: str = "",
        least: int = 1,
        patience: float = inf,
        norms: Collection[int] = (),
        kind: Literal["helper", "devices"] = "helper",
    ) -> None:
        self.party, self.least, self.patience, self.norms, self.kind = party, least, patience, norms, kind
        self.filling: dict[Ticket, int] = {}  # ticket -> lag, toward the next version
        self.fixed: dict[Ticket, int] = {}  # of the set that is asked about
        self.unchecked = False  # whether its norms are still to come
        self.version = 0
        self.until = inf  # when the party must have answered; inf while nothing is asked

    @property
    def alarm(self) -> float:
        """When `Overdue` is due, in seconds of federation time; inf where nothing is asked."""
        return self.until

    @property
    def waits(self) -> list[Wait]:
        """What is waited for, with its deadline (law 11)."""
        if self.until == inf:
            return []
        what = "their shares" if self.kind == "devices" else "its norms" if self.unchecked else "its share"
        return [Wait(f"{self.party}: {what} of {len(self.fixed)} reports for version {self.version}", self.until)]

    def on(self, event: Keep | Advance | Finish | Answered, now: float) -> list[Settling]:
        """Take one event at `now` seconds of federation time; return what is to be done, in order."""
        match event:
            case Keep(ticket=ticket, lag=lag):
                self.filling[ticket] = lag
            case Advance(phase=phase, version=version):
                self.fixed = {ticket: lag for ticket, lag in self.filling.items() if ticket.phase == phase}
                self.filling, self.version, self.unchecked = {}, version, phase in self.norms
                return self._asked(now + self.patience) if self.party and self.fixed else self._over("")
            case Excluded(tickets=tickets, reason=reason) if self.until < inf and tickets[0] in self.fixed:
                lags = [self.fixed.pop(ticket) for ticket in tickets]
                return [Exclude(tickets, lags[0], reason), *self._asked(self.until)]
            case Checked(out=out) if self.until < inf and self.unchecked:
                self.unchecked = False
                long = [Exclude((ticket,), self.fixed.pop(ticket), "norm beyond the bound") for ticket in out]
                return [*long, *self._asked(self.until)]
            case Settled() if self.until < inf:
                return self._over("")
            case Overdue() if self.until < inf:
                return self._over(f"no answer from the {self.kind}")
            case Finish():
                self.fixed, self.filling, self.until = {}, {}, inf
        return []  # also an answer to what is not asked any more

    def _asked(self, until: float) -> list[Settling]:
        if len(self.fixed) < self.least:
            return self._over("batch below the minimum")
        self.until = until
        return [Ask(self.unchecked)]

    def _over(self, reason: str) -> list[Settling]:
        self.fixed, self.until = {}, inf
        return [Settle(reason)]
