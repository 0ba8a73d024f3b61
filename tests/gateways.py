"""Gateways in one process and in virtual time: real gateways between the real service and real agents."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from fedthings.device.agent import Agent
from fedthings.gateway.edge import Edge
from fedthings.gateway.gateway import Gateway
from fedthings.messages import Offer
from fedthings.transport.memory import Hub, MemoryTransport
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery
from virtual import NAME, Virtual


class Tree(Virtual):
    """`under` names the gateways and what each is under, "" for the coordinator; devices go round those that are free.

    `homes` says where a device joins instead, "" for the coordinator itself. `edges`: the gateways on top make edge
    rounds.
    """

    def __init__(
        self,
        federation: Any,
        fleet: Any,
        rounds: int,
        directory: Path,
        under: Mapping[str, str],
        *,
        homes: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        edges: bool = False,
        **options: Any,
    ) -> None:
        self.under, self.settings, self.edges = dict(under), dict(settings or {}), edges
        self.hubs = {name: Hub(post=partial(self.post_at, name)) for name in under}
        self.gateways: dict[str, Gateway | Edge] = {}
        leaves = [name for name in under if name not in under.values()] or [""]
        self.homes = {name: leaves[i % len(leaves)] for i, name in enumerate(fleet.names)} | dict(homes or {})
        top = [name for name, above in under.items() if not above and not edges]
        super().__init__(federation, fleet, rounds, directory, gateways=top, **options)

    def serve(self):
        service = super().serve()
        for name in self.under:
            if name not in self.gateways:
                self.open(name)
        return service

    def open(self, name: str) -> Gateway | Edge:
        """Start a gateway, or start it again with its directory."""
        above = self.under[name]
        up = (self.hubs[above] if above else self.hub).device(name)
        down = self.hubs[name].coordinator("")
        below = [n for n, over in self.under.items() if over == name]
        place = self.directory / "gateways" / name
        if self.edges and not above:
            devices = sum(name in (home, self.under.get(home)) for home in self.homes.values())
            self.gateways[name] = Edge(name, up, down, place, devices=devices, gateways=below, **self.settings)
        else:
            self.gateways[name] = Gateway(up, down, place, gateways=below, **self.settings)
        return self.gateways[name]

    def join(self, name: str) -> Agent:
        home = self.homes[name]
        transport = (self.hubs[home] if home else self.hub).device(name, NAME)
        directory = self.directory / "devices" / name
        self.agents[name] = Agent(name, self.fleet.shard(name), transport, directory, self.rules.get(name))
        self.agents[name].training.noise = "keyed"
        return self.agents[name]

    def move(self, name: str, home: str) -> Agent:
        """Let a device go on at another gateway, without a word to the first."""
        old = self.homes[name]
        self.end(old, name).linked = False
        self.homes[name] = home
        return self.join(name)

    def end(self, home: str, address: str) -> MemoryTransport:
        """Return the end of `address` at the hub of `home`."""
        return (self.hubs[home] if home else self.hub)._ends[address]

    def kill(self, name: str, sent: bool = True) -> None:
        """kill -9 of a gateway, and of the broker that is its own: the links of its devices are lost.

        `sent`: whether what it has just sent up still arrives.
        """
        above = self.under[name]
        del self.gateways[name]
        self.hubs[name]._ends[COORDINATOR].linked = False
        (self.hubs[above] if above else self.hub).unlink(name)
        self.mail = type(self.mail)(m for m in self.mail if not (m[0].startswith(f"{name}/") or m[0] == name))
        if not sent:
            self.mail = type(self.mail)(m for m in self.mail if getattr(m[1], "sender", "") != name)
        for end in self.hubs[name]._ends.values():
            end.linked = False

    def revive(self, name: str) -> None:
        """Start a killed gateway again: whoever is below links to it again."""
        self.open(name)
        for address, end in self.hubs[name]._ends.items():
            if address != COORDINATOR and (address in self.agents or address in self.gateways) and not end.linked:
                self.hubs[name].link(address)

    def post_at(self, hub: str, address: str, arrival: Arrival) -> None:
        """Send on its way at a gateway's hub: reports as the world says, everything else at once."""
        place = f"{hub}/{address}"
        message = arrival.message if isinstance(arrival, Delivery) else None
        if isinstance(message, Offer) and message.ticket is not None:
            at = self.outcome(message.ticket)[0].at
            if at is not None:
                heapq.heappush(self.agenda, (max(at, self.now), self.turn(message.ticket), place, arrival))
        else:
            self.mail.append((place, arrival))

    def step(self) -> bool:
        """Let the next thing happen; False when nothing can happen any more."""
        owners = [self.service, *self.gateways.values(), *self.agents.values()]
        alarm = min((owner.alarm for owner in owners), default=inf)
        if self.mail:
            place, arrival = self.mail.popleft()
        elif self.agenda and self.agenda[0][0] <= alarm:
            self.now, _, place, arrival = heapq.heappop(self.agenda)
        elif alarm < inf:
            self.now = max(self.now, alarm)
            for owner in owners:
                owner.wake(self.now)
            return True
        else:
            return False
        hub, _, address = place.rpartition("/")
        (self.hubs[hub] if hub else self.hub).deliver(address, arrival)
        self.drain()
        return True

    def drain(self) -> None:
        for owner in (self.service, *self.agents.values()):
            while (arrival := owner.transport.inbox.get(0)) is not None:
                owner.receive(arrival, self.now)
        for gateway in list(self.gateways.values()):
            while (arrival := gateway.up.inbox.get(0)) is not None:
                gateway.from_above(arrival, self.now)
            while (arrival := gateway.down.inbox.get(0)) is not None:
                gateway.from_below(arrival, self.now)
