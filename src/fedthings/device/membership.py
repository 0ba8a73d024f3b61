"""All federations that a device takes part in: an agent for each, over one link, and one task at a time.

Its owner's rules say which they are. Each has a directory of its own in the device's, by its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path

from msgspec.structs import replace

from fedthings.device.agent import Agent
from fedthings.device.downloads import Downloads
from fedthings.device.rules import Rules
from fedthings.device.spending import Spending
from fedthings.errors import SpecError
from fedthings.federation import check_name
from fedthings.learn.data import Shard
from fedthings.messages import Announce, Assignment, Bye, Chunk, Receipt
from fedthings.privacy.signing import Signing
from fedthings.transport.lane import Lane
from fedthings.transport.pacing import Rate
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery, Transport

log = logging.getLogger("fedthings.device")


class Membership:
    """`receive` an arrival, `wake` at `alarm`, as an `Agent`; `ended` are the ids of federations seen to their end.

    `signing` is by the device's identity (None: it has none).

    Raises StoreError where `directory` cannot be used.
    """

    def __init__(
        self,
        name: str,
        shard: Shard,
        transport: Transport,
        directory: Path | None = None,
        rules: Rules | None = None,
        *,
        rate: float = inf,
        downloads: Downloads | None = None,
        on_news: Callable[[str], None] = lambda text: None,
        every: float = 0.0,
        signing: Signing | None = None,
    ) -> None:
        self.name, self.shard, self.transport, self.directory = name, shard, transport, directory
        self.rules, self.on_news, self.every = rules or Rules(), on_news, every
        self.agents: dict[str, Agent] = {}  # by the federation's id
        self.ended: set[str] = set()
        self._signing, self._spending = signing, Spending(directory)
        self._rate, self._downloads = Rate(rate), downloads
        self._names: dict[str, str] = {}  # of the federations that it is in, by id
        self._others: dict[str, tuple[str, Delivery]] = {}  # whose name is taken: it, and the last announcement
        self._tasks: dict[str, tuple[Delivery, float]] = {}  # what waits for another's task, and since when
        self._reports = 0  # made for federations that have ended

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds."""
        due = min((agent.alarm for agent in self.agents.values()), default=inf)
        return min(due, *(agent.until for agent in self._at_work())) if self._tasks and self._at_work() else due

    @property
    def reports(self) -> int:
        """How many reports were made."""
        return self._reports + sum(agent.reports for agent in self.agents.values())

    @property
    def resting(self) -> bool:
        """Whether there is nothing to do in any federation, and nothing more to hear of."""
        return bool(self.agents) and not self._tasks and all(agent.resting for agent in self.agents.values())

    @property
    def rest(self) -> float:
        """Until when it was told to stay away, where it is `resting`."""
        return min((agent.rest or 0.0 for agent in self.agents.values()), default=0.0)

    @property
    def over(self) -> bool:
        """Whether a federation has ended, and no other has said anything yet."""
        return bool(self.ended) and not any(agent.heard for agent in self.agents.values())

    # ---------------------------------------------------------------- arrivals

    def receive(self, arrival: Arrival, now: float) -> None:
        """Take one arrival at `now` seconds."""
        if isinstance(arrival, Delivery) and arrival.sender == COORDINATOR:
            self._take(arrival, now)
        else:
            for agent in self.agents.values():
                agent.receive(arrival, now)
        self._go_on(now)

    def wake(self, now: float) -> None:
        """Ask again for what has not come; take up a task that has waited long enough."""
        for agent in self.agents.values():
            agent.wake(now)
        self._go_on(now)

    def unlink(self) -> None:
        """Fetch nothing more over this link: the radio goes off."""
        for agent in self.agents.values():
            agent.unlink()

    def relink(self, transport: Transport) -> None:
        """Go on with another link, after a sleep."""
        self.transport = transport
        self._tasks.clear()  # the answers to each Hello tell them anew
        for federation, agent in self.agents.items():
            agent.relink(Lane(transport, federation))

    def _take(self, delivery: Delivery, now: float) -> None:
        message, federation = delivery.message, delivery.federation
        if isinstance(message, Announce):
            self._announced(delivery, message, now)
        elif isinstance(message, Chunk):  # two federations may have the same body, under one topic
            for other, agent in self.agents.items():
                agent.receive(delivery._replace(federation=other), now)
        elif federation in self.agents:
            agent, waiting = self.agents[federation], self._tasks.get(federation)
            if isinstance(message, Assignment) and any(other is not agent for other in self._at_work(now)):
                self._tasks[federation] = delivery, now
                return
            if isinstance(message, Receipt) and waiting is not None and _ticket(waiting[0]) == message.ticket:
                del self._tasks[federation]  # it has waited for too long
            agent.receive(delivery, now)

    def _announced(self, delivery: Delivery, message: Announce, now: float) -> None:
        """Take part in the federation that is announced, if the owner's rules let it."""
        federation = delivery.federation
        if federation in self.ended:
            return
        if federation not in self.agents:
            if self.rules.federations and message.name not in self.rules.federations:
                return
            try:
                check_name(message.name)
            except SpecError as error:
                log.warning("a federation was announced that cannot be: %s", error)
                return
            if message.name in self._names.values():
                if federation not in self._others:
                    self.on_news(f"another federation is called {message.name}: it is joined when this one has ended")
                self._others[federation] = message.name, delivery
                return
            self._names[federation] = message.name
            self.agents[federation] = self._join(federation, message.name)
        self.agents[federation].receive(delivery, now)

    def _join(self, federation: str, name: str) -> Agent:
        return Agent(
            self.name,
            self.shard,
            Lane(self.transport, federation),
            None if self.directory is None else self.directory / name,
            self.rules,
            rate=self._rate,
            downloads=self._downloads,
            on_news=partial(self._tell, name),
            every=self.every,
            signing=self._signing,
            spending=self._spending,
        )

    def _tell(self, name: str, text: str) -> None:
        self.on_news(f"{name}: {text}" if len(self.agents) > 1 else text)

    # ------------------------------------------------------------ one at a time

    def _at_work(self, now: float = -inf) -> list[Agent]:
        """Return who has a task, within its time; then another's need not wait for it."""
        return [agent for agent in self.agents.values() if agent.busy and now < agent.until]

    def _go_on(self, now: float) -> None:
        """Leave what has ended, and take up the task that has waited longest, where none is under way."""
        for federation in [federation for federation, agent in self.agents.items() if agent.done]:
            agent = self.agents.pop(federation)
            agent.transport.send(COORDINATOR, Bye())  # it need not wait for us
            self._reports += agent.reports
            self.ended.add(federation)
            self._tasks.pop(federation, None)
            name = self._names.pop(federation)
            for other, (named, announced) in list(self._others.items()):
                if named == name:
                    del self._others[other]
                    self._take(announced, now)
        while self._tasks and not self._at_work(now):
            federation = next(iter(self._tasks))
            delivery, since = self._tasks.pop(federation)
            message = delivery.message
            assert isinstance(message, Assignment)
            left = max(0.0, message.seconds - (now - since))
            self.agents[federation].receive(delivery._replace(message=replace(message, seconds=left)), now)


def _ticket(delivery: Delivery) -> object:
    return delivery.message.ticket if isinstance(delivery.message, Assignment) else None
