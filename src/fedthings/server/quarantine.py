"""A roll that changes while a federation runs: who is out leaves, who is in quarantine rests until let out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from fedthings.messages import Bye, Decline, Hello, Relay
from fedthings.protocol.events import Ticket
from fedthings.server.admission import Admission
from fedthings.server.reception import QUARANTINED
from fedthings.transport.transport import Delivery
from fedthings.wire import pack

if TYPE_CHECKING:
    from fedthings.server.service import Service


class Party(NamedTuple):
    """Who gives work in one federation, a service or a gateway: `hellos` of those who are there, their `jobs`.

    `routes` and `resting` are its own: by which gateway a device comes, and what those said who have to rest.
    """

    federation: str
    hellos: Mapping[str, Hello]
    jobs: Mapping[str, Ticket]
    routes: Mapping[str, str]
    resting: dict[str, Hello]


def of(service: Service) -> Party:
    """Return `service` as a party."""
    coordinator = service.coordinator
    every = {name: seen[0] for name, seen in coordinator.sleepers.seen.items()}
    return Party(
        service.transport.federation,
        {name: Hello("", every.get(name, 0.0)) for name in coordinator.present},
        {name: ticket for name, (ticket, _) in coordinator.tasks.items()},
        service.routes,
        service.resting,
    )


def reload(admission: Admission, parties: Iterable[Party], take: Callable[[Delivery], None]) -> None:
    """Read the roll again, and let the parties `take` what those would say whom it concerns.

    Who is out ends its work and leaves; who is in quarantine, or behind a gateway that is, leaves and says hello again,
    which is answered when it is let out.
    """
    found = admission.roll.read()
    changed, again = admission.changed(found), []
    for party in parties:
        for name in changed.gone:
            party.resting.pop(name, None)
        for name, hello in sorted(party.hellos.items()):
            by = {name, party.routes.get(name, "")}
            if not by & (changed.gone | changed.quarantined):
                continue
            stays = not by & changed.gone
            if name in party.jobs:
                take(_said(party, name, Decline(party.jobs[name], QUARANTINED if stays else "removed")))
            take(_said(party, name, Bye()))
            if stays:
                again.append((party, name, hello))
        for name, hello in sorted(party.resting.items()):
            if changed.released & {name, party.routes.get(name, "")}:
                again.append((party, name, hello))
    admission.read(found)
    for party, name, hello in again:
        party.resting.pop(name, None)
        take(_said(party, name, hello))


def _said(party: Party, name: str, message: Bye | Decline | Hello) -> Delivery:
    """Return `message` as it arrives from the device `name`, by the way that it came last."""
    via = party.routes.get(name, "")
    if not via:
        return Delivery(name, message, party.federation)
    return Delivery(via, Relay(name, pack(message, party.federation)), party.federation)
