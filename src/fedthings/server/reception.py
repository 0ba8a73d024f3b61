"""What devices say to a service: each message becomes an event, an answer, or a refusal by WireError."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from fedthings.errors import WireError
from fedthings.messages import Bye, Chunk, Decline, Envelope, Hello, Keys, Offer, Pause, Receipt, Shares, Unmasked, Want
from fedthings.protocol import events
from fedthings.protocol.events import Ticket
from fedthings.transport.chunks import CHUNK, MOST, Assembly, Source
from fedthings.transport.topics import COORDINATOR

if TYPE_CHECKING:
    from fedthings.server.service import Service

WRONG = 3
"""How often a body may come that is not the one offered, before its report is left out."""
MOST_BYTES = MOST * CHUNK
"""Bytes that one Want may ask for; a device asks for a window of 8 chunks."""
LONGEST = 30 * 86400.0
"""Seconds between two wakings of a device at the most."""
QUARANTINED = "quarantined"
"""Why a device gets no work, and what it says nevertheless is not taken."""
SLACK = 4096
"""Bytes that a report may be larger than the schema says: ticket and names."""


def take(service: Service, sender: str, message: Envelope, federation: str, now: float, via: str = "") -> None:
    """Take the `message` of a device, which came by way of the gateway `via`, "" for none.

    Raises WireError with the reason that is counted and answered.
    """
    if sender == COORDINATOR or not service.allowed(sender):
        raise WireError("unknown device", f"{sender} is not on the list: let it in with `fedthings enrol {sender}`")
    # A will may have been written before the device knew the federation.
    if federation != service.transport.federation and not (federation == "" and isinstance(message, Bye)):
        raise WireError("another federation", federation)
    if isinstance(message, Bye):
        if service.routes.get(sender, "") == via:  # else it has moved, and the way it has left says so late
            service.resting.pop(sender, None)
            service.gone.add(sender)
            service.turns.drop(sender)
            service.on(events.Left(sender), now)
            take_turns(service, now)
        return
    moves = service.routes.get(sender, "") != via
    if moves and service.held(via) and sender in service.coordinator.present:
        raise idle(via)
    if moves and _is_there(service, message):
        if via:
            service.routes[sender] = via
            service.turns.drop(sender)  # what it sends is the gateway's concern now
            take_turns(service, now)
        else:
            del service.routes[sender]
    if held := next((name for name in (sender, via) if service.held(name)), ""):
        if not isinstance(message, Hello):
            raise idle(held)
        service.resting[sender] = message
        service.send(sender, Pause(QUARANTINED))
        return
    service.heard.add(sender)
    match message:
        case Hello():
            _hello(service, sender, message, now)
        case Decline(ticket=ticket, reason=reason):
            own(sender, ticket)
            shown = "".join(letter for letter in reason if letter.isprintable())[:64]
            service.on(events.Declined(ticket, shown or "declined"), now)
        case Offer():
            _offered(service, sender, message, now)
        case Chunk():
            _chunk(service, sender, message, now)
        case Want():
            wanted(service, sender, message)
        case Keys() | Shares() | Unmasked() if service.members is not None:
            own(sender, message.ticket)
            service.members.heard(service, message, now)
        case _:
            raise WireError("unexpected", f"a device does not send {type(message).__name__}")


def _is_there(service: Service, message: Envelope) -> bool:
    """Return whether a device is where `message` came from: one that was long on its way may be from where it was."""
    match message:
        case Offer(ticket=ticket) | Decline(ticket=ticket):
            return ticket is not None and service.coordinator.open(ticket)
    return isinstance(message, Hello)


def _hello(service: Service, sender: str, hello: Hello, now: float) -> None:
    if not 0 <= hello.every <= LONGEST:
        raise WireError("malformed", f"a device wakes every {hello.every} seconds: give 0 to {LONGEST:.0f}")
    if service.done:
        service.farewell(sender)
    elif sender in service.coordinator.present:
        service.on(events.CheckedIn(sender, hello.every), now)
    else:
        service.on(events.Joined(sender, hello.every), now)


def idle(name: str) -> WireError:
    """Return the refusal of what `name`, which is in quarantine, says nevertheless."""
    return WireError(QUARANTINED, f"{name} is to do nothing, by its operator")


def own(sender: str, ticket: Ticket) -> None:
    """Raise WireError unless `ticket` is the sender's."""
    if ticket.device != sender:
        raise WireError("not your ticket", f"{ticket.device}'s, sent by {sender}")


# ---------------------------------------------------------------------- reports up


def _offered(service: Service, sender: str, offer: Offer, now: float) -> None:
    ticket = offer.ticket
    if offer.what != "report" or ticket is None:
        raise WireError("malformed", "a device offers reports, with their ticket")
    own(sender, ticket)
    if service.coordinator.last.get(sender) == ticket:
        service.send(sender, Receipt(ticket, True))  # kept already; the receipt was lost
        return
    if not service.coordinator.open(ticket):
        service.refusals["late"] += 1
        service.send(sender, Receipt(ticket, False, "late"))
        return
    if service.members is not None and not service.members.masks(ticket):
        service.on(events.Declined(ticket, "no masks"), now)
        raise WireError("no masks", f"the report of {sender} comes before all have shared their secrets")
    try:
        assembly = service.spool.begin(ticket, offer, service.engine.report_bytes(ticket) + SLACK)
    except WireError as error:
        service.on(events.Declined(ticket, error.reason), now)  # which sends the receipt
        raise
    _proceed(service, ticket, assembly, now)


def _chunk(service: Service, sender: str, chunk: Chunk, now: float) -> None:
    upload = service.spool.upload(sender)
    if upload is None or upload[1].offer.digest != chunk.digest:
        return  # of an upload that ended, or that began before a restart: Hello follows
    upload[1].add(chunk)
    _proceed(service, *upload, now)


def _proceed(service: Service, ticket: Ticket, assembly: Assembly, now: float) -> None:
    """Ask for what is missing, or take the report in."""
    if assembly.wrong >= WRONG:
        service.on(events.Declined(ticket, "wrong digest"), now)
        raise WireError("wrong digest", f"the chunks sent {WRONG} times are not the body that was offered")
    if not assembly.done:
        service.turns.hear(ticket.device, assembly, now)
        take_turns(service, now)
        return
    try:
        report, body = service.spool.take(ticket)
        service.engine.expect(report)
    except WireError as error:
        service.on(events.Declined(ticket, error.reason), now)
        raise
    service.reports[ticket] = report
    service.on(events.Arrived(ticket), now, body)
    take_turns(service, now)


def take_turns(service: Service, now: float) -> None:
    """Ask those for their next window whose turn it is."""

    def find(sender: str) -> Assembly | None:
        upload = service.spool.upload(sender)
        return upload[1] if upload is not None else service.inbound.upload(sender)

    for sender, want in service.turns.wants(now, find):
        service.send(sender, want)


# --------------------------------------------------------------------- bodies down


class Bodies(Protocol):
    """Where bodies lie that are wanted."""

    def find(self, want: Want) -> Source | None:
        """Return the source of the body that `want` names, if it is here."""


def chunks(want: Want, bodies: Bodies) -> Iterator[Chunk]:
    """Return the chunks that `want` names, of a body that is among `bodies`. Raises WireError."""
    if len(want.starts) > MOST or len(want.starts) * want.length > MOST_BYTES:
        raise WireError("malformed", f"{len(want.starts)} chunks of {want.length} bytes are wanted at once: too much")
    source = bodies.find(want)
    if source is None:
        raise WireError("not here", "the body that is wanted is not to be had any more; say Hello")
    return source.answer(want)


def wanted(service: Service, sender: str, want: Want) -> None:
    """Send the chunks that `want` names. Raises WireError."""
    for chunk in chunks(want, service.bodies):
        service.send(sender, chunk)
