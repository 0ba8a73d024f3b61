"""SecAgg+ among n devices and a coordinator by the pure functions alone: whoever is to drop out does, at any stage."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from fedthings.messages import Keys, Neighbours, Shares, Unmask, Unmasked
from fedthings.privacy import secagg, signing
from fedthings.privacy.graph import circle
from fedthings.privacy.secagg import Scope, Seat, SecAgg
from fedthings.privacy.unmasking import Set, masking, secrets
from fedthings.protocol.events import Ticket

SCOPE = Scope("house-1", bytes(range(32)))
STAGES = ("keys", "shares", "report", "unmask")


class Conversation:
    """One set of `n` devices, each with a report of `dim` numbers; `gone[stage]` leave before they answer there."""

    def __init__(self, n: int, spec: SecAgg, dim: int = 50, bits: int = 32) -> None:
        self.spec, self.dim, self.dtype = spec, dim, np.dtype(f"u{bits // 8}")
        self.signing = signing.own()
        self.tickets = [Ticket(1, 2, f"device-{i}", i % 2) for i in range(n)]
        self.seats: dict[Ticket, Seat] = {}
        self.reports: dict[Ticket, dict[str, np.ndarray]] = {}
        self.plain = {
            name: np.random.default_rng(7).integers(0, 2**32, (n, size)).astype(kind)
            for name, size, kind in (("x", dim, self.dtype), ("exact", 6, np.uint64))
        }
        self.asks: dict[Ticket, Unmask] = {}
        self.answers: dict[Ticket, Unmasked] = {}

    def introduce(self, gone: Collection[Ticket] = ()) -> None:
        """Make keys, and tell each device its neighbours."""
        for ticket in self.tickets:
            if ticket not in gone:
                self.seats[ticket] = secagg.begin(self.spec, SCOPE, ticket, self.signing)
        self.keys: dict[Ticket, Keys] = {ticket: seat.keys for ticket, seat in self.seats.items()}
        self.degree = self.spec.degree(len(self.keys))
        names = [ticket.device.encode() for ticket in self.keys]
        self.near = circle([*self.keys], names, b"seed", self.degree.neighbours)

    def neighbours(self, ticket: Ticket) -> Neighbours:
        """What the device of `ticket` is told."""
        return Neighbours(ticket, len(self.keys), tuple(self.keys[other] for other in self.near[ticket]))

    def share(self, gone: Collection[Ticket] = ()) -> None:
        """Share the secrets, and hand the shares on."""
        for ticket, seat in self.seats.items():
            if ticket not in gone:
                self.seats[ticket] = secagg.share(seat, self.neighbours(ticket), self.signing)
        sent = {
            ticket: dict(zip(self.near[ticket], s.sealed, strict=True)) for ticket, s in self.seats.items() if s.sealed
        }
        self.masked = [*sent]
        for ticket in self.masked:
            sealed = tuple(sent.get(other, {}).get(ticket, b"") for other in self.near[ticket])
            self.seats[ticket] = secagg.receive(self.seats[ticket], Shares(ticket, sealed))

    def report(self, gone: Collection[Ticket] = ()) -> None:
        """Send the masked reports."""
        for ticket in self.masked:
            if ticket not in gone:
                row = self.tickets.index(ticket)
                arrays = {name: rows[row].copy() for name, rows in self.plain.items()}
                secagg.hide(self.seats[ticket], arrays)
                self.reports[ticket] = arrays
        self.set = Set(SCOPE, self.keys, self.near, self.degree.threshold, self.masked)

    def ask(self, ticket: Ticket) -> Unmask:
        """What the device of `ticket` is asked in the end."""
        return Unmask(ticket, len(self.reports), *self.set.asked(ticket, self.reports))

    def unmask(self, gone: Collection[Ticket] = ()) -> None:
        """Give shares."""
        for ticket in self.reports:
            if ticket not in gone:
                self.seats[ticket], self.answers[ticket] = secagg.unmask(self.seats[ticket], self.ask(ticket))

    def sum(self) -> dict[str, np.ndarray]:
        """The sum of the masked reports, without what masks it."""
        shares = {ticket: answer.shares for ticket, answer in self.answers.items()}
        total = {
            name: np.sum([arrays[name] for arrays in self.reports.values()], axis=0, dtype=rows.dtype)
            for name, rows in self.plain.items()
        }
        found = secrets(self.set, self.reports, shares)
        assert found, "too few shares"
        masking(self.set, self.reports, found, total)
        return total

    def due(self) -> dict[str, np.ndarray]:
        """The sum of the reports that came, as they were before they were masked."""
        rows = [self.tickets.index(ticket) for ticket in self.reports]
        return {name: all_[rows].sum(axis=0, dtype=all_.dtype) for name, all_ in self.plain.items()}

    def run(self, gone: dict[str, Collection[Ticket]] | None = None) -> None:
        """Go through all stages."""
        gone = gone or {}
        for stage, step in zip(STAGES, (self.introduce, self.share, self.report, self.unmask), strict=True):
            step(gone.get(stage, ()))
