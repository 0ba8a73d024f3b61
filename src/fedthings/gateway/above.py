"""What the coordinator, or a gateway above, says to a gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedthings.errors import WireError
from fedthings.messages import (
    Announce,
    Assignment,
    Chunk,
    Envelope,
    Farewell,
    Pause,
    Receipt,
    Refusal,
    Relay,
    Verdict,
    Want,
)
from fedthings.wire import unpack

if TYPE_CHECKING:
    from fedthings.gateway.gateway import Gateway


def take(gateway: Gateway, message: Envelope, federation: str) -> None:
    """Take one message from above. Raises WireError where it makes no sense."""
    if isinstance(message, Announce):
        _announced(gateway, message, federation)
        return
    if not gateway.bound or federation != gateway.up.federation:
        return
    match message:
        case Relay():
            _relayed(gateway, message)
        case Verdict():
            _judged(gateway, message)
        case Want():
            gateway.upload.wanted(message, gateway.now)
        case Chunk():
            _chunk(gateway, message)
        case Refusal(reason=reason, detail=detail):
            gateway.on_news(f"refused from above: {detail or reason}")
        case _:
            raise WireError("unexpected", f"a gateway is not told {type(message).__name__}")


def _announced(gateway: Gateway, message: Announce, federation: str) -> None:
    names = gateway.rules.federations
    if gateway.bound and federation != gateway.up.federation:
        return
    if not gateway.bound:
        if names and message.name not in names:
            return
        gateway.bind(federation, message.name)
        gateway.on_news(f"gateway of {message.name}")
    gateway.announced = message
    gateway.announce()
    gateway.again()


def _relayed(gateway: Gateway, relay: Relay) -> None:
    device = relay.device
    _, message = unpack(relay.data)
    match message:
        case Assignment(ticket=ticket):
            if ticket.device != device:
                raise WireError("not your ticket", f"{ticket.device}'s, sent to {device}")
            held = gateway.hold.reports.get(device)
            if held is not None and held != ticket:
                gateway.hold.drop(held)  # the coordinator has gone on without it
            gateway.assigned[device] = message, gateway.now + message.seconds
            gateway.pass_on(device, message, gateway.now)
        case Farewell():
            gateway.assigned.pop(device, None)
            gateway.pass_on(device, message, gateway.now)
        case Receipt():
            gateway.settle(message)
        case Pause() | Refusal():
            gateway.tell(device, message)
        case _:
            raise WireError("unexpected", f"a device is not told {type(message).__name__}")


def _judged(gateway: Gateway, verdict: Verdict) -> None:
    """Settle the sum under way: all of its tickets, or those that are to be left out of the next one."""
    out = gateway.hold.out
    if out is None or gateway.upload.digest != verdict.digest:
        return  # of a sum that was given up
    gateway.hold.out = None
    gateway.upload.drop()
    receipts = {receipt.ticket: receipt for receipt in verdict.out}
    if verdict.merged:
        receipts = {ticket: Receipt(ticket, True, reason) for ticket, reason in out.reasons.items()}
        gateway.merged += len(receipts)
        gateway.sums += 1
    for digest in out.below:
        found = gateway.hold.below.get(digest)
        theirs = tuple(receipts.pop(ticket) for ticket in (found.tickets if found else ()) if ticket in receipts)
        if found is not None and theirs:
            answer = Verdict(digest, verdict.merged, () if verdict.merged else theirs)
            gateway.down.send(found.sender, answer)
            gateway.hold.release(digest)
            for receipt in theirs:
                gateway.close(receipt.ticket)
    for receipt in receipts.values():
        if gateway.hold.reports.get(receipt.ticket.device) == receipt.ticket:
            gateway.settle(receipt)
    gateway.hold.most = verdict.most


def _chunk(gateway: Gateway, chunk: Chunk) -> None:
    if gateway.cache.add(chunk):
        for device, (message, came) in list(gateway.waiting.items()):
            gateway.pass_on(device, message, came)
        gateway.serve()
    gateway.ask()
