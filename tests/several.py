"""Several federations on one fleet, in one process and in virtual time: real services, real agents, one hub."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from math import inf
from pathlib import Path

from fedthings import run
from fedthings.device.membership import Membership
from fedthings.device.rules import Rules
from fedthings.federation import Federation
from fedthings.learn.fleet import Fleet
from fedthings.messages import Offer
from fedthings.protocol.events import Ticket
from fedthings.run import Run
from fedthings.server.service import Service
from fedthings.server.services import Services
from fedthings.transport.lane import Lane
from fedthings.transport.memory import Hub
from fedthings.transport.transport import Arrival, Delivery


class Several:
    """Everything is delivered at once, but a report after `seconds(federation, ticket)`."""

    def __init__(
        self,
        federations: Sequence[Federation],
        fleet: Fleet,
        rounds: int,
        directory: Path,
        rules: Mapping[str, Rules] | None = None,
        seconds: Callable[[str, Ticket], float] = lambda federation, ticket: 1.0,
    ) -> None:
        self.federations, self.fleet, self.rounds, self.directory = federations, fleet, rounds, directory
        self.rules, self.seconds = rules or {}, seconds
        self.now = 0.0
        self.order = count()
        self.mail: deque[tuple[str, Arrival]] = deque()
        self.agenda: list[tuple[float, int, str, Arrival]] = []
        self.hub = Hub(post=self.post)
        self.serve()
        self.members: dict[str, Membership] = {}
        for name in fleet.names:
            self.join(name)

    def serve(self) -> None:
        """Start the services, or start them again in the same directories."""
        self.whole, shared = self.hub.coordinator(""), len(self.federations) > 1
        self.services = Services(
            [
                Service(
                    spec, self.rounds, self.directory / spec.name, Lane(self.whole, f"{spec.name}-1"), shared=shared
                )
                for spec in self.federations
            ],
            self.whole,
            self.now,
        )

    def join(self, name: str) -> Membership:
        """Start a device, or start it again with its directory."""
        end, directory = self.hub.device(name), self.directory / "devices" / name
        self.members[name] = Membership(name, self.fleet.shard(name), end, directory, self.rules.get(name))
        return self.members[name]

    def post(self, address: str, arrival: Arrival) -> None:
        """Send on its way."""
        message = arrival.message if isinstance(arrival, Delivery) else None
        if isinstance(message, Offer) and message.ticket is not None:
            at = self.now + self.seconds(arrival.federation.removesuffix("-1"), message.ticket)
            heapq.heappush(self.agenda, (at, next(self.order), address, arrival))
        else:
            self.mail.append((address, arrival))

    def step(self) -> bool:
        """Let the next thing happen; False when nothing can happen any more."""
        if self.mail:
            address, arrival = self.mail.popleft()
        elif self.agenda and self.agenda[0][0] <= self.services.alarm:
            self.now, _, address, arrival = heapq.heappop(self.agenda)
        elif self.services.alarm < inf:
            self.now = self.services.alarm
            self.services.wake(self.now)
            return True
        else:
            return False
        self.hub.deliver(address, arrival)
        self.drain()
        return True

    def drain(self) -> None:
        """Let everyone read what is in the inbox, and see that no device has two tasks."""
        for owner, inbox in (
            (self.services, self.whole.inbox),
            *((m, m.transport.inbox) for m in self.members.values()),
        ):
            while (arrival := inbox.get(0)) is not None:
                owner.receive(arrival, self.now)
        tasks = [device for service in self.services.services for device in service.coordinator.tasks]
        assert len(tasks) == len(set(tasks)), f"a device has two tasks: {sorted(tasks)}"

    def run(self) -> dict[str, Run]:
        """Run to the end."""
        while not all(service.done for service in self.services.services) and self.step():
            pass
        return self.result()

    def result(self) -> dict[str, Run]:
        """Return the runs as they stand, by name, and let go of the files."""
        found = {}
        for service in self.services.services:
            facts = {"devices": len(self.fleet), "seconds": self.now, "reason": service.reason}
            found[service.engine.federation.name] = run.result(service.engine, service.history, facts)
            service.close()
        return found
