"""What devices, and gateways below, say to a gateway: it answers what it can and passes on the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedthings.errors import WireError
from fedthings.gateway.status import status
from fedthings.messages import Ask, Bye, Chunk, Decline, Envelope, Hello, Offer, Pause, Refusal, Relay, Status, Want
from fedthings.partial import expect
from fedthings.protocol.events import Ticket
from fedthings.server.gateways import RELAYED
from fedthings.server.reception import QUARANTINED, SLACK, WRONG, chunks, idle, own
from fedthings.subtotal import most_bytes, verify
from fedthings.transport.chunks import Assembly
from fedthings.transport.topics import COORDINATOR, OPERATOR
from fedthings.wire import pack, unpack

if TYPE_CHECKING:
    from fedthings.gateway.gateway import Gateway


def take(gateway: Gateway, sender: str, message: Envelope, federation: str) -> None:
    """Take one message from below. Raises WireError with the reason that is counted and answered."""
    if sender.startswith(OPERATOR):
        if message not in (Ask("status"), Ask("reload")):
            raise WireError("unexpected", "a gateway is asked for status and reload; ask the coordinator for the rest")
        gateway.down.send(sender, Status(status(gateway)))
        return
    _check(gateway, sender, message, federation)
    if sender not in gateway.gateways and not isinstance(message, Relay):
        _device(gateway, sender, message, "")
        return
    if sender not in gateway.gateways:
        raise WireError("unknown gateway", f"{sender} speaks for others: let it by `--gateway {sender}`")
    if gateway.held(sender) and not isinstance(message, Bye | Relay):  # of which each message is looked at for itself
        raise idle(sender)
    match message:
        case Relay(device=device, data=data):
            _relayed(gateway, sender, device, data)
        case Bye():
            for name in [name for name, via in gateway.routes.items() if via == sender]:
                _device(gateway, name, message, sender)
        case Offer(what="subtotal"):
            _subtotal(gateway, sender, message)
        case Chunk():
            upload = gateway.hold.inbound.upload(sender)
            if upload is not None and upload.offer.digest == message.digest:
                upload.add(message)
                _proceed_sum(gateway, sender, upload)
        case Want():
            wanted(gateway, sender, message)
        case _:
            raise WireError("unexpected", f"a gateway does not send {type(message).__name__}")


def _check(gateway: Gateway, sender: str, message: Envelope, federation: str) -> None:
    if sender == COORDINATOR or not gateway.allowed(sender):
        raise WireError("unknown device", f"{sender} is not on the list: let it in with `fedthings enrol {sender}`")
    ours = gateway.down.federation
    if not gateway.bound or (federation != ours and not (federation == "" and isinstance(message, Bye))):
        raise WireError("another federation", f"{federation or 'none'}; this gateway is of {ours or 'none yet'}")


def _relayed(gateway: Gateway, sender: str, device: str, data: bytes) -> None:
    """Take what a device says by way of the gateway `sender`; it is told itself why it is refused."""
    try:
        federation, message = unpack(data)
        if not isinstance(message, RELAYED) or device in gateway.gateways:
            raise WireError("unexpected", f"a gateway does not pass on {type(message).__name__} of {device}")
        _check(gateway, device, message, federation)
        _device(gateway, device, message, sender)
    except WireError as error:
        refusal = Refusal(error.reason, str(error)[:200])
        gateway.down.send(sender, Relay(device, pack(refusal, gateway.down.federation)))
        raise


def _device(gateway: Gateway, device: str, message: Envelope, via: str) -> None:
    """Take what a device says, which came by way of the gateway `via`, "" for none."""
    if isinstance(message, Bye):
        if gateway.routes.get(device, "") != via:  # it has moved, and the way it has left says so late
            return
        gateway.resting.pop(device, None)
        if device in gateway.present:
            del gateway.present[device]
            gateway.waiting.pop(device, None)
            gateway.hold.turns.drop(device)
            gateway.take_turns()
            gateway.relay(device, message)
        return
    moves = gateway.routes.get(device, "") != via
    if moves and gateway.held(via) and device in gateway.present:
        raise idle(via)
    if moves and _is_there(gateway, device, message):
        if via:
            gateway.routes[device] = via
            gateway.hold.turns.drop(device)  # what it sends is that gateway's concern now
            gateway.take_turns()
        else:
            del gateway.routes[device]
    if held := next((name for name in (device, via) if gateway.held(name)), ""):
        if not isinstance(message, Hello):
            raise idle(held)
        gateway.resting[device] = message
        gateway.tell(device, Pause(QUARANTINED))
        return
    match message:
        case Hello():
            _hello(gateway, device, message)
        case Decline(ticket=ticket):
            own(device, ticket)
            gateway.close(ticket)
            gateway.relay(device, message)
        case Offer():
            _offered(gateway, device, message)
        case Chunk():
            upload = gateway.hold.spool.upload(device)
            if upload is not None and upload[1].offer.digest == message.digest:
                upload[1].add(message)
                _proceed(gateway, *upload)
        case Want():
            wanted(gateway, device, message)
        case _:
            raise WireError("unexpected", f"a device does not send {type(message).__name__}")


def _is_there(gateway: Gateway, device: str, message: Envelope) -> bool:
    """Return whether a device is where `message` came from: one that was long on its way may be from where it was."""
    match message:
        case Offer(ticket=ticket) | Decline(ticket=ticket):
            return device in gateway.assigned and gateway.assigned[device][0].ticket == ticket
    return isinstance(message, Hello)


def _hello(gateway: Gateway, device: str, message: Hello) -> None:
    gateway.present[device] = message
    if gateway.relay(device, message):
        return
    job, until = gateway.assigned.get(device, (None, 0.0))  # the link upward is down: what is known will do
    if job is not None and gateway.now < until:
        gateway.pass_on(device, job, until - job.seconds)
    else:
        gateway.tell(device, Pause("the gateway has no link to the coordinator"))


def wanted(gateway: Gateway, sender: str, want: Want) -> None:
    """Send the chunks that `want` names, or see to it that they come. Raises WireError."""
    if gateway.cache.find(want) is None and gateway.fetch(sender, want):
        return
    for chunk in chunks(want, gateway.cache):
        gateway.down.send(sender, chunk)


# ------------------------------------------------------------------------- reports


def _offered(gateway: Gateway, device: str, offer: Offer) -> None:
    ticket = offer.ticket
    if offer.what != "report" or ticket is None:
        raise WireError("malformed", "a device offers reports, with their ticket")
    own(device, ticket)
    receipt = gateway.receipts.get(device)
    if receipt is not None and receipt.ticket == ticket:
        gateway.tell(device, receipt)  # dealt with already; the receipt was lost
        return
    if gateway.hold.reports.get(device) == ticket:
        _calm(gateway, device, offer)
        return
    known = gateway.tasks.known(ticket.phase)
    if known is None:
        return  # the task comes with the answer to its Hello, and the report is offered again
    try:
        assembly = gateway.hold.spool.begin(ticket, offer, known.bytes_of(ticket) + SLACK)
    except WireError as error:
        _declined(gateway, ticket, error)
        raise
    _proceed(gateway, ticket, assembly)


def _proceed(gateway: Gateway, ticket: Ticket, assembly: Assembly) -> None:
    """Ask for what is missing, or hold the report until the coordinator has it in a sum."""
    if assembly.wrong >= WRONG:
        wrong = WireError("wrong digest", f"the chunks sent {WRONG} times are not the body that was offered")
        _declined(gateway, ticket, wrong)
        raise wrong
    if not assembly.done:
        gateway.hold.turns.hear(ticket.device, assembly, gateway.now)
        gateway.take_turns()
        return
    known = gateway.tasks.known(ticket.phase)
    try:
        report, _ = gateway.hold.spool.take(ticket)
        if known is None:
            raise WireError("not here", "the task of this report is not known here any more")
        expect(report, known.template)
    except WireError as error:
        gateway.hold.spool.remove(ticket)
        _declined(gateway, ticket, error)
        raise
    gateway.hold.add(ticket, gateway.now)
    gateway.take_turns()
    _calm(gateway, ticket.device, assembly.offer)


def _calm(gateway: Gateway, device: str, offer: Offer) -> None:
    """Tell a device that nothing is missing; its receipt comes when the coordinator has given it."""
    gateway.down.send(device, Want(offer.digest, ()))


def _declined(gateway: Gateway, ticket: Ticket, error: WireError) -> None:
    """Let the coordinator end a task whose report cannot be read; it sends the receipt."""
    gateway.close(ticket)
    gateway.relay(ticket.device, Decline(ticket, error.reason))


# ----------------------------------------------------------------------- subtotals


def _subtotal(gateway: Gateway, sender: str, offer: Offer) -> None:
    found = gateway.hold.below.get(offer.digest)
    if found is not None:
        gateway.down.send(sender, Want(offer.digest, ()))
        return
    sizes = [most_bytes(known.partial, known.template) for known in gateway.tasks.all]
    if sizes:
        _proceed_sum(gateway, sender, gateway.hold.inbound.begin(sender, offer, max(sizes)))


def _proceed_sum(gateway: Gateway, sender: str, assembly: Assembly) -> None:
    """Ask for what is missing, or hold the subtotal until it is settled above."""
    digest = assembly.offer.digest
    if assembly.wrong >= WRONG:
        gateway.hold.inbound.forget(sender)
        raise WireError("wrong digest", f"the chunks sent {WRONG} times are not the body that was offered")
    if not assembly.done:
        gateway.hold.turns.hear(sender, assembly, gateway.now)
        gateway.take_turns()
        return
    subtotal = gateway.hold.inbound.take(sender)
    gateway.take_turns()
    known = gateway.tasks.known(subtotal.tickets[0].phase) if subtotal.tickets else None
    try:
        if known is None:
            raise WireError("not here", "the task of this subtotal is not known here")
        verify(subtotal, known.partial, known.template)
    except WireError:
        gateway.hold.inbound.remove(digest)
        raise
    for digest_before in [d for d, b in gateway.hold.below.items() if b.sender == sender]:
        gateway.hold.release(digest_before)  # a gateway has one sum under way: this one takes its place
    gateway.hold.take(sender, digest, subtotal, gateway.now)
    gateway.down.send(sender, Want(digest, ()))
