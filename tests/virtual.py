"""A whole fleet in one process and in virtual time: the real service and real agents on the in-memory transport."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from itertools import chain, count
from math import inf
from pathlib import Path
from typing import Any

from fedthings import run
from fedthings.device.agent import Agent
from fedthings.device.rules import Rules
from fedthings.federation import Federation
from fedthings.learn.fleet import Fleet
from fedthings.messages import Assignment, Offer
from fedthings.phase import Phase
from fedthings.privacy.signing import Signing
from fedthings.protocol.events import Ticket
from fedthings.run import Run
from fedthings.server.service import Service
from fedthings.simulation.agenda import Changes
from fedthings.simulation.things import Things
from fedthings.simulation.work import Counted
from fedthings.simulation.world import Outcome, Steady, Waking, World
from fedthings.transport.memory import Hub
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery, Seal
from fedthings.vector import Payload

NAME = "fed"


class Thing(Agent):
    """A device whose training takes as long as the world says, instead of what a clock says."""

    takes: Callable[[Ticket], float]

    def _train(self, phase: Phase, job: Assignment, model: Payload, body: bytes, now: float) -> None:
        self.training.seconds = self.takes(job.ticket)
        super()._train(phase, job, model, body, now)


class Noted(Counted):
    """The work of tasks, and how long the world says that all of it takes the device (0: it does not say)."""

    seconds = 0.0

    def effort(self, ticket: Ticket, seconds: float, left: float, most: float = 1.0) -> float:
        self.seconds = seconds
        return super().effort(ticket, seconds, left, most)


class Virtual:
    """Everything is delivered at once, but a report arrives when the world says so.

    The service takes in as many arrivals `together` as are due at once.
    """

    together = 1

    kind: type[Agent] = Thing

    def __init__(
        self,
        federation: Federation,
        fleet: Fleet,
        rounds: int,
        directory: Path,
        world: World | None = None,
        rules: Mapping[str, Rules] | None = None,
        **options: Any,
    ) -> None:
        self.federation, self.fleet, self.rounds, self.world = federation, fleet, rounds, world or Steady()
        self.directory, self.options, self.rules = directory, options, rules or {}
        self.now = 0.0
        self.order = count()
        self.mail: deque[tuple[str, Arrival]] = deque()
        self.agenda: list[tuple[float, tuple[int, int], str, Arrival]] = []
        self.hub = Hub(post=self.post)
        self.service = self.serve()
        self.agents: dict[str, Agent] = {}
        self.given: dict[Ticket, tuple[float, float]] = {}  # when a device could begin with its task, and its deadline
        self.changes: Changes | None = None  # when sleepers wake
        wakings = self.world.changes(fleet.names) if isinstance(self.world, Things) else iter(())
        first = next(wakings, None)
        if isinstance(first, Waking):
            self.changes = Changes(chain([first], wakings))
            return
        for name in fleet.names:
            self.join(name)

    def serve(self) -> Service:
        """Start the service, or start it again in the same directory."""
        transport = self.hub.coordinator(NAME, self.seal(COORDINATOR))
        self.service = Service(self.federation, self.rounds, self.directory, transport, **self.options)
        return self.service

    def seal(self, address: str) -> Seal | None:
        """Return what signs for this end; None: nobody signs."""
        return None

    def signing(self, name: str) -> Signing | None:
        """Return what signs by the identity of this device; None: it has none."""
        return None

    def wakes(self, waking: Waking) -> None:
        """Let a sleeper link up, unless it was told to sleep on."""
        agent = self.agents.get(waking.device)
        if agent is None:
            self.join(waking.device, waking.every)
        elif (agent.rest or 0.0) <= self.now:
            self.hub.sleep(waking.device)
            agent.relink(agent.transport)
            self.hub.link(waking.device)

    def join(self, name: str, every: float = 0.0) -> Agent:
        """Start a device's agent, or start it again with its directory."""
        transport = self.hub.device(name, NAME, self.seal(name))
        directory = self.directory / "devices" / name
        rules, signing = self.rules.get(name), self.signing(name)
        agent = self.kind(name, self.fleet.shard(name), transport, directory, rules, every=every, signing=signing)
        agent.takes = lambda ticket: self.outcome(ticket)[1]  # type: ignore[attr-defined]
        agent.training.noise = "keyed"
        self.agents[name] = agent
        return agent

    def turn(self, ticket: Ticket) -> tuple[int, int]:
        """Return where an offer stands among those of one time: the task given out first is the first."""
        tickets = list(self.given)
        return tickets.index(ticket) if ticket in self.given else len(tickets), next(self.order)

    def outcome(self, ticket: Ticket) -> tuple[Outcome, float]:
        """Return what the world says of a task, and how long all of its training takes (seconds)."""
        work = Noted(self.service.engine, self.fleet, self.service.coordinator.last.get)
        begins, deadline = self.given.get(ticket, (self.now, inf))
        phases = work.engine.phases  # a villain's ticket may be of none
        until = deadline if ticket.phase < len(phases) and phases[ticket.phase].partial else inf
        return self.world.outcome(ticket, begins, work, until), work.seconds

    def post(self, address: str, arrival: Arrival) -> None:
        """Send on its way: reports as the world says, everything else at once."""
        message = arrival.message if isinstance(arrival, Delivery) else None
        if isinstance(message, Offer) and message.ticket is not None:
            at = self.outcome(message.ticket)[0].at
            if at is not None:
                heapq.heappush(self.agenda, (at, self.turn(message.ticket), address, arrival))
        else:
            self.mail.append((address, arrival))

    def step(self) -> bool:
        """Let the next thing happen; False when nothing can happen any more."""
        wakes = inf if self.changes is None else self.changes.next
        if self.mail:
            address, arrival = self.mail.popleft()
        elif wakes < inf and wakes <= min(self.service.alarm, self.agenda[0][0] if self.agenda else inf):
            self.now = wakes
            assert self.changes is not None
            self.wakes(self.changes.take())  # type: ignore[arg-type]
            self.drain()
            return True
        elif self.agenda and self.agenda[0][0] <= self.service.alarm:
            self.now, _, address, arrival = heapq.heappop(self.agenda)
        elif self.service.alarm < inf:
            self.now = self.service.alarm
            self.service.wake(self.now)
            return True
        else:
            return False
        self.hub.deliver(address, arrival)
        for _ in range(self.together - 1 if address == COORDINATOR else 0):
            if self.mail and self.mail[0][0] == COORDINATOR:
                self.hub.deliver(*self.mail.popleft())
            elif self.agenda and self.agenda[0][0] <= self.now:
                self.hub.deliver(*heapq.heappop(self.agenda)[2:])
        self.drain()
        return True

    def drain(self) -> None:
        """Let everyone read what is in the inbox."""
        while arrivals := self.service.transport.inbox.several(0, self.together):
            for left, arrival in zip(range(len(arrivals) - 1, -1, -1), arrivals, strict=True):
                self.service.receive(arrival, self.now, more=left > 0)
        for agent in self.agents.values():
            while (arrival := agent.transport.inbox.get(0)) is not None:
                agent.receive(arrival, self.now)
        for name, agent in self.agents.items() if self.changes is not None else ():
            if agent.resting:  # a sleeper sleeps as soon as it rests, and then misses all
                self.hub.sleep(name)
        for ticket, deadline in self.service.coordinator.tasks.values():
            if ticket not in self.given:
                agent = self.agents.get(ticket.device) if self.changes is not None else None
                rests = (agent.rest or 0.0) if agent is not None else 0.0
                self.given[ticket] = max(self.now, rests), deadline

    def run(self) -> Run:
        """Run to the end."""
        while not self.service.done and self.step():
            pass
        return self.result()

    def result(self) -> Run:
        """Return the run as it stands, and let go of the files."""
        service = self.service
        out = run.result(
            service.engine,
            service.history,
            {"devices": len(self.fleet), "seconds": self.now, "reason": service.reason},
        )
        service.close()
        return out
