"""What operators ask of a running service: how it goes, or that it pause, go on, or end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedthings.errors import WireError
from fedthings.messages import Ask, Envelope, Status
from fedthings.protocol import events
from fedthings.server import recovery
from fedthings.server.status import status

if TYPE_CHECKING:
    from fedthings.server.service import Service

VERBS = ("status", "pause", "resume", "cancel", "reload")


def take(service: Service, sender: str, message: Envelope, federation: str, now: float) -> None:
    """Do what an operator asks, and answer with the status.

    Raises WireError with the reason that is counted and answered.
    """
    if not isinstance(message, Ask) or message.verb not in VERBS:
        raise WireError("unexpected", f"an operator asks one of {', '.join(VERBS)}")
    if federation not in ("", service.transport.federation):
        raise WireError("another federation", f"{federation}; here is {service.transport.federation}")
    match message.verb:
        case "pause" if not service.done:
            service.on(events.Paused(), now)
        case "resume" if not service.done:
            service.on(events.Resumed(), now)
        case "cancel" if not service.done:
            service.on(events.Cancelled(), now)
            recovery.checkpoint(service)
    if message.verb in ("pause", "resume", "cancel"):
        service.store.commit()
        service.announce()
    service.send(sender, Status(status(service, now)))
