"""The coordinator's side of gateways: what they relay for their devices, and the subtotals that they send up.

A subtotal is taken in whole or not at all: its tickets must be open, and no version may end in the middle of it.
It counts as so many reports that arrived one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from fedthings.bodies import Subtotal
from fedthings.errors import WireError
from fedthings.messages import (
    Assignment,
    Bye,
    Chunk,
    Decline,
    Envelope,
    Farewell,
    Hello,
    Offer,
    Receipt,
    Refusal,
    Relay,
    Verdict,
    Want,
)
from fedthings.protocol import events
from fedthings.server import reception
from fedthings.server.turns import Turns
from fedthings.transport.chunks import Assembly
from fedthings.wire import pack, unpack, unpack_body

if TYPE_CHECKING:
    from fedthings.server.service import Service

RELAYED = (Hello, Bye, Decline)
"""What a gateway passes on from a device; the rest it does itself."""


class Inbound:
    """Subtotals in `directory`: on their way in, one a sender, and whole ones until they are in a checkpoint."""

    def __init__(self, directory: Path, turns: Turns, fsync: bool = False) -> None:
        self._directory = directory
        self._turns = turns
        self._fsync = fsync
        self._uploads: dict[str, Assembly] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def begin(self, sender: str, offer: Offer, limit: int) -> Assembly:
        """Return the upload that `offer` begins or goes on with; `limit` is in bytes. Raises WireError."""
        before = self._uploads.get(sender)
        if before is not None and before.offer.digest == offer.digest:
            before.retry()
            return before
        self.forget(sender)
        self._uploads[sender] = Assembly(offer, limit, self._path(offer.digest))
        return self._uploads[sender]

    def upload(self, sender: str) -> Assembly | None:
        """Return what `sender` is sending."""
        return self._uploads.get(sender)

    def take(self, sender: str) -> Subtotal:
        """Return the subtotal of `sender` that has come whole. Raises WireError where it is none."""
        digest = self._uploads.pop(sender).offer.digest
        self._turns.drop(sender)
        if self._fsync:
            with self._path(digest).open("rb") as file:
                os.fsync(file.fileno())
        try:
            return self.read(digest)
        except WireError:
            self.remove(digest)
            raise

    def read(self, digest: bytes) -> Subtotal:
        """Return the whole subtotal with this SHA-256. Raises WireError where it is none."""
        return unpack_body(self._path(digest).read_bytes(), Subtotal)

    def remove(self, digest: bytes) -> None:
        """Throw a subtotal away: it is in a checkpoint, or not wanted."""
        self._path(digest).unlink(missing_ok=True)

    def forget(self, sender: str) -> None:
        """Throw away what `sender` has sent of a subtotal that is not whole."""
        upload = self._uploads.pop(sender, None)
        self._turns.drop(sender)
        if upload is not None:
            upload.discard()

    def tidy(self, digests: Iterable[bytes] = ()) -> None:
        """Remove all but these; of the rest nobody has been told that it is safe."""
        needed = {self._path(digest).name for digest in digests}
        for file in self._directory.iterdir():
            if file.name not in needed:
                file.unlink()

    def _path(self, digest: bytes) -> Path:
        return self._directory / f"{digest.hex()}.cbor"


# ------------------------------------------------------------------------ messages


def take(service: Service, sender: str, message: Envelope, federation: str, now: float) -> None:
    """Take the `message` of the gateway `sender`. Raises WireError with the reason that is counted and answered."""
    if sender not in service.gateways or not service.allowed(sender):
        raise WireError(
            "unknown gateway", f"{sender} speaks for others: let it by `fedthings serve --gateway {sender}`"
        )
    ours = service.transport.federation
    if federation != ours and not (federation == "" and isinstance(message, Bye)):
        raise WireError("another federation", federation)
    if service.held(sender) and not isinstance(message, Bye | Relay):  # of which each message is looked at for itself
        raise reception.idle(sender)
    match message:
        case Relay():
            _relayed(service, sender, message, now)
        case Bye():  # its devices cannot be reached; each says Hello again by whatever way it finds
            service.turns.drop(sender)
            reception.take_turns(service, now)
            for device in [device for device, via in service.routes.items() if via == sender]:
                reception.take(service, device, message, ours, now, via=sender)
        case Offer(what="subtotal"):
            _offered(service, sender, message, now)
        case Chunk():
            _chunk(service, sender, message, now)
        case Want():
            reception.wanted(service, sender, message)
        case _:
            raise WireError("unexpected", f"a gateway does not send {type(message).__name__}")


def _relayed(service: Service, sender: str, relay: Relay, now: float) -> None:
    """Take what a device says by way of the gateway `sender`; it is told itself why it is refused."""
    try:
        federation, message = unpack(relay.data)
        if not isinstance(message, RELAYED) or relay.device in service.gateways:
            raise WireError("unexpected", f"a gateway does not pass on {type(message).__name__} of {relay.device}")
        reception.take(service, relay.device, message, federation, now, via=sender)
    except WireError as error:
        refusal = Refusal(error.reason, str(error)[:200])
        service.send(sender, Relay(relay.device, pack(refusal, service.transport.federation)))
        raise


def wrapped(service: Service, device: str, message: Envelope) -> tuple[str, Envelope]:
    """Return to whom `message` for `device` goes, and as what: by way of its gateway, where it has one."""
    via = service.routes.get(device)
    if via is None:
        return device, message
    return via, Relay(device, pack(hollow(message), service.transport.federation))


def hollow(message: Envelope) -> Envelope:
    """Return `message` without the first chunks of bodies: a gateway fetches a body once for all its devices."""
    if not isinstance(message, Assignment | Farewell):
        return message
    offers = (message.task, message.model, message.delta)
    task, model, delta = (offer and replace(offer, first=None) for offer in offers)
    return replace(message, task=task, model=model, delta=delta)


# ----------------------------------------------------------------------- subtotals


def _offered(service: Service, sender: str, offer: Offer, now: float) -> None:
    if service.merged.get(sender) == offer.digest:
        service.send(sender, Verdict(offer.digest, True))  # it is merged already; the verdict was lost
        return
    _proceed(service, sender, service.inbound.begin(sender, offer, service.engine.subtotal_bytes), now)


def _chunk(service: Service, sender: str, part: Chunk, now: float) -> None:
    assembly = service.inbound.upload(sender)
    if assembly is None or assembly.offer.digest != part.digest:
        return  # of an upload that ended, or that began before a restart: it is offered again
    assembly.add(part)
    _proceed(service, sender, assembly, now)


def _proceed(service: Service, sender: str, assembly: Assembly, now: float) -> None:
    """Ask for what is missing, or take the subtotal in."""
    digest = assembly.offer.digest
    if assembly.wrong >= reception.WRONG:
        service.inbound.forget(sender)
        reception.take_turns(service, now)
        raise WireError("wrong digest", f"the chunks sent {assembly.wrong} times are not the body that was offered")
    if not assembly.done:
        service.turns.hear(sender, assembly, now)
        reception.take_turns(service, now)
        return
    subtotal = service.inbound.take(sender)
    reception.take_turns(service, now)
    _left_out(service, subtotal, now)
    verdict = judge(service, digest, subtotal)
    if not verdict.merged:
        service.inbound.remove(digest)
        service.send(sender, verdict)
        return
    try:
        service.engine.verify(subtotal)
    except WireError:
        service.inbound.remove(digest)
        raise
    service.heard.update(ticket.device for ticket in subtotal.tickets)
    service.merged[sender] = digest
    service.send(sender, verdict)  # before what follows from it; nothing leaves before all is durable
    merge(service, digest, subtotal, now)


def _left_out(service: Service, subtotal: Subtotal, now: float) -> None:
    """Close the tickets of `subtotal` that no sum of secure mode may have: the gateway is told to sum without them.

    While the helper is asked, the reports of the version being made are too late already. And a device of which it has
    refused a report once would take all that is summed with it out of the set again.
    """
    coordinator = service.coordinator
    made = coordinator.version + coordinator.stepping
    suspects = () if service.leader is None else service.leader.suspects
    for ticket in subtotal.tickets:
        if not coordinator.open(ticket):
            continue
        if coordinator.stepping and made - ticket.version > coordinator.plan.pace.staleness:
            service.on(events.Arrived(ticket), now)
        elif ticket.device in suspects:
            service.on(events.Declined(ticket, "refused by the helper before"), now)


def judge(service: Service, digest: bytes, subtotal: Subtotal) -> Verdict:
    """Say whether `subtotal` can be merged as it is, or without which tickets, or as how many."""
    coordinator = service.coordinator
    out = tuple(receipt(service, ticket) for ticket in subtotal.tickets if not coordinator.open(ticket))
    # More than the goal may have come while the helper was asked: one more, and the version is made.
    room = max(1, coordinator.goal - coordinator.kept) if coordinator.goal else inf
    most = int(room) if len(subtotal.tickets) - len(out) > room else 0
    return Verdict(digest, not out and not most, out, most)


def receipt(service: Service, ticket: events.Ticket) -> Receipt:
    """Return the receipt of a ticket that is not open any more."""
    kept = service.coordinator.last.get(ticket.device) == ticket
    return Receipt(ticket, kept, "" if kept else "late")


# ---------------------------------------------------------------------- into the sums


def merge(service: Service, digest: bytes, subtotal: Subtotal, now: float) -> None:
    """Journal a spooled subtotal, all of whose tickets are open and have room; then count it as their reports."""
    service.now = now
    service.store.journal(now, [Subtotal.__name__, digest])
    count(service, digest, subtotal)


def count(service: Service, digest: bytes, subtotal: Subtotal) -> None:
    """Count a subtotal that is journaled."""
    made = service.coordinator.version + service.coordinator.stepping
    add(service, digest, subtotal, made - subtotal.tickets[0].version)
    service.merging = True
    for ticket in subtotal.tickets:  # only the last can end the version
        service.act(events.Arrived(ticket))
    service.merging = False


def add(service: Service, digest: bytes, subtotal: Subtotal, lag: int) -> None:
    """Add a subtotal, whose reports lag by `lag`, to the sums."""
    service.engine.merge(subtotal, lag)
    service.summed.append(digest)
    service.parts += subtotal.tickets
    for ticket in subtotal.tickets:
        service.settlement.on(events.Keep(ticket, lag), service.now)
    if service.leader is not None:
        service.leader.keep_sum(service.engine, digest, subtotal)
