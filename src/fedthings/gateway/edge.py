"""An edge: a gateway that makes rounds of its own with its devices and reports what came of them.

To what is above it is a device (`Reporter`, an agent without data), to its devices a coordinator (`Rounds`, a service):
between them goes one model down and one report up a version.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from fedthings.device.agent import Agent
from fedthings.device.rules import Rules
from fedthings.errors import SpecError
from fedthings.gateway.rounds import Rounds
from fedthings.learn.data import Shard
from fedthings.learn.learner import Fit
from fedthings.messages import Announce, Ask, Assignment, Status
from fedthings.phase import Phase
from fedthings.protocol.events import Ticket
from fedthings.server.status import status
from fedthings.transport.chunks import CHUNK
from fedthings.transport.topics import OPERATOR
from fedthings.transport.transport import Arrival, Delivery, Linked, Transport
from fedthings.vector import Payload

_NO_ROWS = np.zeros((0, 1), np.float32)
NOBODY = Shard(_NO_ROWS, _NO_ROWS, _NO_ROWS, _NO_ROWS)
"""The rows of an edge: it has none."""


class Reporter(Agent):
    """The edge as a device: what it is told to train is begun below, and is reported when it is `finish`ed."""

    def __init__(self, edge: Edge, name: str, up: Transport, directory: Path, rules: Rules | None, chunk: int) -> None:
        super().__init__(name, NOBODY, up, directory, rules, chunk, on_news=edge.on_news)
        self._edge = edge
        self._doing: tuple[Phase, Ticket, bytes] | None = None
        self._newest: tuple[Phase, Ticket, Payload] | None = None

    @property
    def waiting(self) -> Ticket | None:
        """The ticket whose report is not made yet."""
        doing = None if self._doing is None else self._doing[1]
        return doing if self._job is not None and self._job.ticket == doing and self.shelf.pending is None else None

    def finish(self, fit: Fit, now: float) -> None:
        """Report what came of the work at hand."""
        assert self._doing is not None
        phase, ticket, body = self._doing
        self._hold(phase, ticket, fit, None, body)
        assert self.shelf.pending is not None
        self.upload.begin(ticket, self.shelf.pending.report, now)

    def _fits(self, phase: Phase) -> None:
        if phase.edge is None:
            raise SpecError("in this federation devices take part: a gateway passes on what they say")

    def _train(self, phase: Phase, job: Assignment, model: Payload, body: bytes, now: float) -> None:
        self._doing = phase, job.ticket, body
        self._edge.begin(phase, job.ticket, model)

    def _last(self, number: int, phase: Phase, version: int, model: Payload) -> None:
        super()._last(number, phase, version, model)
        self._newest = phase, Ticket(number, 0, self.name, 0), model

    def _leave(self, now: float) -> None:
        super()._leave(now)
        if self.done and self._farewell is not None:
            self._edge.end(self._farewell.reason, self._newest)


class Edge:
    """`from_above` and `from_below` take arrivals, `wake` at `alarm`, as of a `Gateway`.

    `devices`: how many it waits for before its first edge round. `allowed` says who may take part, `held` who gets
    no work, `gateways` who of them may speak for others. Raises StoreError where `directory` cannot be written.
    """

    def __init__(
        self,
        name: str,
        up: Transport,
        down: Transport,
        directory: Path,
        *,
        devices: int = 0,
        allowed: Callable[[str], bool] = lambda name: True,
        held: Callable[[str], bool] = lambda name: False,
        gateways: Collection[str] = (),
        rules: Rules | None = None,
        chunk: int = CHUNK,
        on_news: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.up, self.down, self.directory, self.on_news = up, down, directory, on_news
        self._devices, self._allowed, self._held, self._gateways = devices, allowed, held, gateways
        self._chunk = chunk
        self.announced: Announce | None = None
        self.rounds: Rounds | None = None
        self.now = 0.0
        self._begun = 0.0  # when the time below began
        self.merged = self.sums = 0  # as of a gateway: reports of devices that are above in the edge's, and these
        self.reporter = Reporter(self, name, up, directory / "above", rules, chunk)

    # -------------------------------------------------------------- arrivals

    def from_above(self, arrival: Arrival, now: float) -> None:
        """Take one arrival of the link upward, at `now` seconds."""
        self.now = now
        match arrival:
            case Delivery(message=Announce() as message, federation=federation):
                self.up.federation = self.up.federation or federation  # it is made for the first that it hears of
                self.announced = message if federation == self.up.federation else self.announced
        self.reporter.receive(arrival, now)
        self._report()

    def from_below(self, arrival: Arrival, now: float) -> None:
        """Take one arrival of the link downward, at `now` seconds."""
        self.now = now
        if isinstance(arrival, Delivery) and arrival.sender.startswith(OPERATOR):
            self._asked(arrival)
        elif self.rounds is not None:
            self.rounds.receive(arrival, now - self._begun)
            self._report()

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds."""
        below = inf if self.rounds is None else self.rounds.alarm + self._begun
        return min(self.reporter.alarm, below)

    def wake(self, now: float) -> None:
        """Let the alarms ring."""
        self.now = now
        self.reporter.wake(now)
        if self.rounds is not None:
            self.rounds.wake(now - self._begun)
            self._report()

    @property
    def done(self) -> bool:
        """Whether the federation has ended, and everyone below who was there has its last model."""
        return self.reporter.done and (self.rounds is None or self.rounds.coordinator.present <= self.rounds.gone)

    def forget(self) -> None:
        """Leave nothing of the federation at the broker below, and let go of the files."""
        if self.rounds is not None:
            self.rounds.bodies.keep_only(-1, ())
            self.rounds.close()

    # ---------------------------------------------------------------- rounds

    def begin(self, phase: Phase, ticket: Ticket, model: Payload) -> None:
        """Begin the edge rounds of `ticket`, unless they are under way or over."""
        self._opened(phase).begin(phase, ticket, model, self.now - self._begun)
        self._report()

    def end(self, reason: str, last: tuple[Phase, Ticket, Payload] | None) -> None:
        """Tell the devices that it is over, and pass the last model on to them."""
        rounds = self.rounds if last is None else self._opened(last[0])
        if rounds is not None:
            rounds.end(reason, last, self.now - self._begun)

    def _report(self) -> None:
        """Send up what came of the rounds, once they are all made."""
        ticket = self.reporter.waiting
        if ticket is not None and self.rounds is not None and self.rounds.made(ticket):
            self.merged += self.rounds.edge.folded
            self.sums += 1
            self.reporter.finish(self.rounds.edge.report(), self.now)

    def _opened(self, phase: Phase) -> Rounds:
        """Return what coordinates the devices; it is started with the first task, in its directory."""
        if self.rounds is None:
            self.down.federation = self.up.federation
            self.rounds = Rounds(
                phase,
                self.reporter.federation,
                self.directory / "below",
                self.down,
                devices=self._devices,
                allowed=self._allowed,
                held=self._held,
                gateways=self._gateways,
                chunk=self._chunk,
            )
            self._begun = self.now - self.rounds.now
            if self.down.linked:
                self.rounds.receive(Linked(), self.rounds.now)
        return self.rounds

    # -------------------------------------------------------------- operator

    def _asked(self, arrival: Delivery) -> None:
        if arrival.message in (Ask("status"), Ask("reload")):
            self.down.send(arrival.sender, Status(self.status()))

    def status(self) -> dict[str, Any]:
        """Return the state of the edge as plain data: what is waited for above, and what its devices are doing."""
        message, working = self.announced, self.reporter.waiting is not None
        waits: list[dict[str, Any]] = []
        if message is None:
            waits.append({"for": "the coordinator's announcement", "seconds": None})
        if not self.up.linked:
            waits.append({"for": "the link upward", "seconds": None})
        if self.reporter.upload.going:
            left = max(0.0, self.reporter.upload.alarm - self.now)
            waits.append({"for": "the receipt of the edge's report", "seconds": left})
        elif not working:
            waits.append({"for": "the next task from above", "seconds": None})
        found = _NOTHING if self.rounds is None else status(self.rounds, self.now - self._begun)
        rounds = found["waiting"] if working else []
        own = {"edge": True, "linked": self.up.linked, "merged": self.merged, "sums": self.sums, "rounds": 0}
        return {**found, **own, "federation": message.name if message else "none", "waiting": [*waits, *rounds]}


_NOTHING: dict[str, Any] = {
    "phase": "none",
    "version": 0,
    "state": "waiting",
    "reason": "",
    "time": 0.0,
    "present": 0,
    "at_work": [],
    "waiting": [],
}
