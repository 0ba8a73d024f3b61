"""Services side by side: what arrives goes to the federation it is for, and the fleet is lent to one at a time.

They share one clock and one transport; each has its own federation time, which stood still while it was not served.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fedthings.messages import Ask, Bye, Refusal, Status
from fedthings.protocol.lending import Lending
from fedthings.protocol.pace import Wait
from fedthings.server.service import Service
from fedthings.server.status import status
from fedthings.transport.topics import OPERATOR
from fedthings.transport.transport import Arrival, Delivery, Linked, Refused, Transport


class Services:
    """`receive` an arrival, `wake` at `alarm`, all in seconds of the process, which are `now` at the start.

    `transport` is the whole of which each service has a lane.
    """

    def __init__(self, services: Sequence[Service], transport: Transport, now: float = 0.0) -> None:
        self.services = tuple(services)
        self.transport = transport
        self.now = now
        self._ahead = [service.now - now for service in self.services]
        self._of = {service.transport.federation: service for service in self.services}
        self._names = [service.engine.federation.name for service in self.services]
        self._lending: Lending | None = None
        if len(self.services) > 1:
            self._lending = Lending([service.coordinator for service in self.services])
            for place, service in enumerate(self.services):
                service.on_act = partial(self._lending.note, place)
                service.settle = self._settle
                service.lent = partial(self._waits, place)
                service.bodies.also = partial(self._has, place)
            self._settle()  # a kill may have come between what two of them wrote down
            self._flush()

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest."""
        return min(s.alarm - ahead for s, ahead in zip(self.services, self._ahead, strict=True))

    @property
    def times(self) -> list[float]:
        """The federation time of each."""
        return [self.now + ahead for ahead in self._ahead]

    def receive(self, arrival: Arrival, now: float, more: bool = False) -> None:
        """Take one arrival. Where `more` are here, what follows from it is said with the last of them."""
        self.now = now
        for place, service in enumerate(self.services):
            if self._concerns(service, arrival):
                service.receive(arrival, now + self._ahead[place], more=True)
        if isinstance(arrival, Delivery) and not arrival.federation and isinstance(arrival.message, Ask):
            self._asked(arrival.sender, arrival.message)
        if not more:
            self._flush()

    def wake(self, now: float) -> None:
        """Let the alarms ring that are due."""
        self.now = now
        for service, ahead in zip(self.services, self._ahead, strict=True):
            if now >= service.alarm - ahead:
                service.wake(max(now + ahead, service.alarm))  # a sum may be rounded down
        self._flush()

    def _flush(self) -> None:
        for service in self.services:
            service.flush()

    def _concerns(self, service: Service, arrival: Arrival) -> bool:
        """Return whether `arrival` is for `service`; what is nobody's is refused by the first."""
        first = service is self.services[0]
        match arrival:
            case Linked():
                return True
            case Refused():
                return first
            case Delivery(federation="", message=Bye()):  # a will is written before the device knows any federation
                return True
            case Delivery(federation="", message=Ask()):
                return len(self.services) == 1
            case Delivery(federation=federation):
                return service is self._of.get(federation) or (first and federation not in self._of)
        return False

    def _asked(self, operator: str, ask: Ask) -> None:
        """Answer an operator who names none of several federations: with all of them, where that can be."""
        if len(self.services) == 1:
            return
        if not operator.startswith(OPERATOR) or ask.verb not in ("status", "reload"):
            detail = f"it serves several federations: name one with --federation, of {', '.join(self._names)}"
            self.transport.send(operator, Refusal("unexpected", detail))
            return
        all_of_them = [status(service, time) for service, time in zip(self.services, self.times, strict=True)]
        self.transport.send(operator, Status({"federations": all_of_them}))

    def _has(self, place: int, digest: bytes) -> bool:
        """Return whether a federation but that at `place` has this body at the broker: equal bodies have one topic."""
        return any(digest in s.bodies.published for other, s in enumerate(self.services) if other != place)

    # --------------------------------------------------------------- lending

    def _settle(self) -> None:
        """Tell each who may have which device, until all is settled."""
        assert self._lending is not None
        while (due := self._lending.due(self.times)) is not None:
            place, event = due
            self.services[place].on(event, self.times[place])

    def _waits(self, place: int) -> list[Wait]:
        assert self._lending is not None
        return self._lending.waits(place, self.times, self._names)
