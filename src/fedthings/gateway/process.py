"""The gateway's process: a link up, a broker or a topic root below, and a clock, from one federation to the next."""

from __future__ import annotations

import logging
import queue
import shutil
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from fedthings.device.rules import Rules
from fedthings.device.way import Way
from fedthings.errors import WireError
from fedthings.gateway.edge import Edge
from fedthings.gateway.gateway import INTERVAL, Gateway
from fedthings.lifeline import Ending, alone
from fedthings.messages import Announce, Ask, Enrol
from fedthings.server import quarantine
from fedthings.server.admission import Admission
from fedthings.server.broker import KINDS, Kind
from fedthings.server.place import Place
from fedthings.server.quarantine import Party
from fedthings.server.serving import LINGER
from fedthings.server.tls import own_trust
from fedthings.transport.mqtt import BACKOFF, MqttTransport
from fedthings.transport.topics import COORDINATOR, ROOT
from fedthings.transport.transport import Arrival, Delivery, Inbox, Linked, Unlinked

log = logging.getLogger("fedthings.gateway")

_LONGEST = 86400.0  # seconds of one wait; a queue takes no infinity


@dataclass(frozen=True)
class Settings:
    """When sums go up (`Gateway`), whom it serves, and where those below find it.

    `below` is the URL of a broker that is there already, or the kind of its own ("": any), which listens at `host`
    and `port`; `below_root` is the first level of the topics there. `devices`: how many an edge waits for before its
    first round (0: as many as are on its list).
    """

    count: int = 0
    interval: float = INTERVAL
    gateways: Collection[str] = ()
    rules: Rules | None = None
    below: str = ""
    below_root: str = ""
    host: str = ""
    port: int = 0
    devices: int = 0


class Passed(NamedTuple):
    """What a gateway's process did: reports that the coordinator has from it, in how many sums; payload bytes."""

    merged: int
    sums: int
    ended: int
    bytes_up: int
    bytes_down: int


class _Side(Inbox):
    """The inbox of one of the two links, into a queue that both share."""

    def __init__(self, both: queue.SimpleQueue[tuple[bool, Arrival | None]], above: bool) -> None:
        super().__init__()
        self._both, self._above = both, above

    def put(self, arrival: Arrival) -> None:
        self._both.put((self._above, arrival))

    def wake(self) -> None:
        self._both.put((self._above, None))


class Process:
    """`with Process(...) as process: process.run(ending)`. Raises TransportError, StoreError, SpecError.

    Raises SystemExit where `ending` comes while it enrols.
    """

    def __init__(
        self,
        way: Way,
        settings: Settings,
        ending: Ending,
        *,
        patience: float = BACKOFF[1],
        on_news: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name, self.directory, self.settings, self.on_news = way.name, way.directory, settings, on_news
        self._both: queue.SimpleQueue[tuple[bool, Arrival | None]] = queue.SimpleQueue()
        self._announced: dict[str, Delivery] = {}
        self._lost: set[bool] = set()
        self._ended: set[str] = set()
        self.merged = self.sums = 0
        with ExitStack() as stack:
            stack.enter_context(alone(way.directory, "the gateway's directory"))
            self.admission = admission = Admission(way.directory)
            stack.callback(admission.close)
            kind: Kind | None = settings.below if settings.below in KINDS else None
            below = "" if kind else settings.below
            if not below:
                admission.start(way.directory, settings.port, kind, settings.host, settings.below_root, self.wake)
                assert admission.broker is not None
                stack.callback(admission.broker.stop)
                below = admission.broker.url()
            self.broker = admission.broker
            link = way.enrolled(ending, patience, _Side(self._both, True), on_news=on_news)
            if link is None:
                raise SystemExit(ending.code)
            ending.attach(self.wake)
            backoff = (min(BACKOFF[0], patience), patience)
            self.up = link()
            stack.callback(self.up.close)
            self.root = self.broker.access.root if self.broker else settings.below_root or ROOT
            self.down = MqttTransport(
                below,
                COORDINATOR,
                root=self.root,
                backoff=backoff,
                inbox=_Side(self._both, False),
                seal=admission.seal,
                tls=own_trust(way.directory),
            )
            stack.callback(self.down.close)
            Place("", below, self.root).write(way.directory)
            self.gateway: Gateway | Edge = self._anew()
            self._stack = stack.pop_all()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wake(self) -> None:
        """Make `run` look around; from any thread or signal handler."""
        self._both.put((True, None))

    def run(self, ending: Ending, once: bool = False) -> Passed:
        """Go between until told to end, or to the federation's end if `once`."""
        while not ending:
            self._attend(ending)
            self.merged += self.gateway.merged
            self.sums += self.gateway.sums
            if ending:
                break
            self._leave()
            if once:
                break
            self.on_news("waiting for the next federation")
            self.gateway = self._anew()
            for delivery in self._announced.values():
                self.gateway = self._chosen(delivery)
                self.gateway.from_above(delivery, time.monotonic())
        return Passed(
            self.merged,
            self.sums,
            len(self._ended),
            self.up.bytes_sent + self.down.bytes_received,
            self.up.bytes_received + self.down.bytes_sent,
        )

    def _anew(self) -> Gateway:
        settings = self.settings
        return Gateway(
            self.up,
            self.down,
            self.directory,
            count=settings.count,
            interval=settings.interval,
            allowed=self.admission.allowed,
            held=self.admission.held,
            gateways=frozenset(settings.gateways),
            rules=settings.rules,
            on_news=self.on_news,
        )

    def _chosen(self, arrival: Arrival) -> Gateway | Edge:
        """Return what goes between: an edge where those who take part are edges, which their announcement says."""
        settings = self.settings
        names = () if settings.rules is None else settings.rules.federations
        match arrival:
            case Delivery(message=Announce(edges=True, name=name)) if not self.up.federation:
                if names and name not in names:
                    return self.gateway
                return Edge(
                    self.name,
                    self.up,
                    self.down,
                    self.directory / arrival.federation,
                    devices=settings.devices or len(self.admission.names.keys() - set(settings.gateways)),
                    allowed=self.admission.allowed,
                    held=self.admission.held,
                    gateways=frozenset(settings.gateways),
                    rules=settings.rules,
                    on_news=self.on_news,
                )
        return self.gateway

    def _attend(self, ending: Ending) -> None:
        """See one federation through; at its end those below have some seconds to fetch the last model."""
        gateway, end = self.gateway, inf
        while not ending and not gateway.done and time.monotonic() < end:
            due = min(gateway.alarm, end, self.admission.alarm)
            timeout = min(max(0.0, due - time.monotonic()), _LONGEST)
            try:
                above, arrival = self._both.get(timeout=timeout)
            except queue.Empty:
                above, arrival = True, None
            now = time.monotonic()
            if arrival is not None:
                self._look(above, arrival)
                if not self._is_old(arrival) and not _is_enrolment(arrival):
                    gateway = self.gateway = self._chosen(arrival) if above else gateway
                    (gateway.from_above if above else gateway.from_below)(arrival, now)
            gateway.wake(now)
            if now >= self.admission.alarm:
                self._reload()
            if self.broker is not None and not self.broker.alive:
                self.broker.restart(self.on_news)
            if end == inf and gateway.announced is not None and gateway.announced.state == "finished":
                end = now + LINGER

    def _is_old(self, arrival: Arrival) -> bool:
        """Return whether this announces a federation that has been seen to its end."""
        if not isinstance(arrival, Delivery) or not isinstance(arrival.message, Announce):
            return False
        if arrival.message.state == "finished":
            self._announced.pop(arrival.federation, None)
        elif arrival.federation not in self._ended:
            self._announced[arrival.federation] = arrival
        return arrival.federation in self._ended

    def _leave(self) -> None:
        """Leave nothing of a federation that has ended: not at the broker below, nor in the directory."""
        federation = self.up.federation
        self.gateway.forget()
        self.down.retract()
        shutil.rmtree(self.directory / federation, ignore_errors=True)
        self._ended.add(federation)
        self._announced.pop(federation, None)
        self.up.federation = self.down.federation = ""

    def _look(self, above: bool, arrival: Arrival) -> None:
        """See to what is the process's own concern: the links, the list of devices."""
        where = "upward" if above else "to the broker below"
        if isinstance(arrival, Unlinked):
            self._lost.add(above)
            self.on_news(f"no link {where}: {arrival.reason}; trying again")
        elif isinstance(arrival, Linked) and above in self._lost:
            self._lost.discard(above)
            self.on_news(f"linked {where} again")
        elif isinstance(arrival, Delivery) and not above and arrival.message == Ask("reload"):
            self._reload()
        elif isinstance(arrival, Delivery) and isinstance(arrival.message, Enrol):
            try:
                self.admission.take(arrival.sender, arrival.message, time.monotonic())
            except WireError as error:
                log.warning("refused to enrol %s: %s", arrival.message.name[:64], error)

    def _reload(self) -> None:
        """Read the roll again, and do what follows from it."""
        now = time.monotonic()
        quarantine.reload(self.admission, parties(self.gateway), lambda said: self.gateway.from_below(said, now))
        self.admission.flush(self.down, now)


def parties(gateway: Gateway | Edge) -> list[Party]:
    """Return who gives work to those below `gateway`, where it does."""
    if isinstance(gateway, Edge):
        return [] if gateway.rounds is None else [quarantine.of(gateway.rounds)]
    jobs = {name: job.ticket for name, (job, _) in gateway.assigned.items()}
    return [Party(gateway.down.federation, gateway.present, jobs, gateway.routes, gateway.resting)]


def _is_enrolment(arrival: Arrival) -> bool:
    return isinstance(arrival, Delivery) and isinstance(arrival.message, Enrol)
