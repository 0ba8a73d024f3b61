"""What a gateway holds on disk until the coordinator has it: reports, subtotals from below, and the sum under way."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeAlias

from fedthings.bodies import Report, Subtotal
from fedthings.errors import WireError
from fedthings.partial import Partial
from fedthings.protocol.events import Ticket
from fedthings.server.gateways import Inbound
from fedthings.server.spool import Spool
from fedthings.server.turns import Turns
from fedthings.subtotal import TICKETS, sum_up
from fedthings.transport.chunks import Assembly
from fedthings.wire import pack_body

Version: TypeAlias = tuple[int, int]
"""Phase and version: what is summed together."""


class Below(NamedTuple):
    """A subtotal that the gateway `sender` has sent."""

    sender: str
    version: Version
    tickets: frozenset[Ticket]


class Out(NamedTuple):
    """The sum under way to the coordinator: its body, the reasons by ticket, and the subtotals that are in it."""

    body: bytes
    reasons: dict[Ticket, str]
    below: tuple[bytes, ...]


class Hold:
    """Reports and subtotals in `directory`; subtotals are sent again after a restart, reports are found again."""

    def __init__(self, directory: Path) -> None:
        self.turns = Turns()
        self.spool = Spool(directory / "spool", self.turns)
        self.inbound = Inbound(directory / "subtotals", self.turns)
        self.inbound.tidy()
        self.reports: dict[str, Ticket] = {}  # device -> the ticket whose report is here whole
        self.below: dict[bytes, Below] = {}
        self.since: dict[Version, float] = {}  # when the first that is held of a version came
        self.out: Out | None = None
        self.most = 0  # tickets that the next sum may have at the most; 0: any number
        for ticket in self.spool.whole():
            self.add(ticket, -inf)

    def add(self, ticket: Ticket, now: float) -> None:
        """Note that the report of `ticket` is spooled, and throw away an older one of its device."""
        old = self.reports.get(ticket.device)
        if old is not None and old != ticket:
            self.drop(old)
        self.reports[ticket.device] = ticket
        self.since.setdefault(ticket[:2], now)

    def drop(self, ticket: Ticket) -> None:
        """Throw the report of `ticket` away, if it is held."""
        if self.reports.get(ticket.device) == ticket:
            del self.reports[ticket.device]
            self.spool.remove(ticket)
            self._tidy()

    def take(self, sender: str, digest: bytes, subtotal: Subtotal, now: float) -> None:
        """Note that a subtotal from below is here whole."""
        self.below[digest] = Below(sender, subtotal.tickets[0][:2], frozenset(subtotal.tickets))
        self.since.setdefault(subtotal.tickets[0][:2], now)

    def release(self, digest: bytes) -> Below | None:
        """Throw a subtotal from below away, and return whose it was."""
        self.inbound.remove(digest)
        found = self.below.pop(digest, None)
        self._tidy()
        return found

    def tickets(self, version: Version) -> set[Ticket]:
        """Return the tickets that are held of a version."""
        own = {ticket for ticket in self.reports.values() if ticket[:2] == version}
        return own.union(*(b.tickets for b in self.below.values() if b.version == version))

    def upload(self, sender: str) -> Assembly | None:
        """Return what `sender` is sending, a report or a subtotal."""
        report = self.spool.upload(sender)
        return report[1] if report is not None else self.inbound.upload(sender)

    def has(self, ticket: Ticket) -> bool:
        """Return whether the report of `ticket` is held, by itself or in a subtotal."""
        own = self.reports.get(ticket.device) == ticket
        return own or any(ticket in below.tickets for below in self.below.values())

    def sum(self, version: Version, partial: Partial) -> Out | None:
        """Return the sum of what is held of a version, as much as fits; None where nothing does."""
        reports, below, room = [], [], min(self.most or TICKETS, TICKETS)
        for ticket in self.reports.values():
            if ticket[:2] == version and room:
                reports.append(ticket)
                room -= 1
        taken = {ticket.device for ticket in reports}
        for digest, (_, made, tickets) in self.below.items():
            devices = {ticket.device for ticket in tickets}
            if made == version and len(tickets) <= room and taken.isdisjoint(devices):
                below.append(digest)
                taken |= devices
                room -= len(tickets)
        subtotal = sum_up(partial, self._read(reports, below))
        if not subtotal.tickets:
            return None
        reasons = dict(zip(subtotal.tickets, subtotal.reasons, strict=True))
        return Out(pack_body(subtotal), reasons, tuple(below))

    def smallest(self, version: Version) -> bytes | None:
        """Return the smallest subtotal from below of a version."""
        found = [digest for digest, b in self.below.items() if b.version == version]
        return min(found, key=lambda digest: len(self.below[digest].tickets), default=None)

    def _read(self, reports: list[Ticket], below: list[bytes]) -> Iterator[Report | Subtotal]:
        """Yield one at a time; a report that cannot be read any more is left to its device to send again."""
        for ticket in reports:
            try:
                yield self.spool.read(ticket)
            except (OSError, WireError):
                self.drop(ticket)
        for digest in below:
            yield self.inbound.read(digest)

    def _tidy(self) -> None:
        """Forget versions of which nothing is held."""
        held = {t[:2] for t in self.reports.values()} | {b.version for b in self.below.values()}
        self.since = {version: since for version, since in self.since.items() if version in held}
