"""The spool: reports on their way in, and whole ones that wait on the disk for the checkpoint (law 8)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fedthings.bodies import Report
from fedthings.errors import WireError
from fedthings.messages import Offer
from fedthings.protocol.events import Ticket
from fedthings.server.turns import Turns
from fedthings.transport.chunks import Assembly
from fedthings.wire import unpack_body, unpack_file


class Spool:
    """Files in `directory`, one a ticket; with `fsync` a whole report is on the disk before it counts.

    Reports of up to `small` bytes are not written: whoever takes them does. What comes in takes `turns` with whatever
    else does.
    """

    def __init__(self, directory: Path, turns: Turns, fsync: bool = False, small: int = 0) -> None:
        self._directory, self._small = directory, small
        self._fsync = fsync
        self._uploads: dict[str, tuple[Ticket, Assembly]] = {}
        self._turns = turns
        directory.mkdir(parents=True, exist_ok=True)

    def begin(self, ticket: Ticket, offer: Offer, limit: int) -> Assembly:
        """Return the upload that `offer` begins, or goes on with after a lost link; `limit` is in bytes.

        Raises WireError where the offer cannot be right, StoreError where the disk is full.
        """
        before = self._uploads.get(ticket.device)
        if before is not None and before[0] == ticket and before[1].offer.digest == offer.digest:
            before[1].retry()
            return before[1]
        self.forget(ticket.device)
        assembly = Assembly(offer, limit, None if offer.size <= self._small else self._path(ticket))
        self._uploads[ticket.device] = (ticket, assembly)
        return assembly

    def upload(self, device: str) -> tuple[Ticket, Assembly] | None:
        """Return what `device` is sending."""
        return self._uploads.get(device)

    def take(self, ticket: Ticket) -> tuple[Report, bytes | None]:
        """Return the report that has come whole, and its bytes where they lie in no file.

        Raises WireError where it is not one of `ticket`.
        """
        body = self._uploads.pop(ticket.device)[1].body
        self._turns.drop(ticket.device)
        if isinstance(body, bytes):
            return _checked(unpack_body(body, Report), ticket), body
        if self._fsync:
            with body.open("rb") as file:
                os.fsync(file.fileno())
        return self.read(ticket), None

    def read(self, ticket: Ticket) -> Report:
        """Return the spooled report of `ticket`; it reads the file as it is used. Raises WireError, OSError."""
        return _checked(unpack_file(self._path(ticket), Report), ticket)

    def whole(self) -> list[Ticket]:
        """Return the tickets whose reports are here whole."""
        found = []
        for file in sorted(self._directory.glob("*.cbor")):
            phase, version, rest = file.stem.split("-", 2)
            device, _, attempt = rest.rpartition("-")
            found.append(Ticket(int(phase), int(version), device, int(attempt)))
        return found

    def remove(self, ticket: Ticket) -> None:
        """Throw the report of `ticket` away: it is in a checkpoint, or left out."""
        self._path(ticket).unlink(missing_ok=True)

    def forget(self, device: str) -> None:
        """Throw away what `device` has sent of a report that is not whole."""
        upload = self._uploads.pop(device, None)
        self._turns.drop(device)
        if upload is not None:
            upload[1].discard()
            for left in self._directory.glob(self._path(upload[0]).name + ".*"):
                left.unlink(missing_ok=True)

    def tidy(self, tickets: Iterable[Ticket]) -> None:
        """Remove all but what belongs to `tickets`: it was kept in the checkpoint, or is never asked for again."""
        needed = {self._path(ticket).name for ticket in tickets}
        for file in self._directory.iterdir():
            if file.name.removesuffix(".part") not in needed:
                file.unlink()

    def _path(self, ticket: Ticket) -> Path:
        return self._directory / f"{ticket.phase}-{ticket.version}-{ticket.device}-{ticket.attempt}.cbor"


def _checked(report: Report, ticket: Ticket) -> Report:
    if report.ticket != ticket:
        raise WireError("malformed", "the report is of another ticket than its offer")
    return report
