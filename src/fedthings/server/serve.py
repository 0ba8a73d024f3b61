"""The coordinator's process: broker, transport, service and a clock, from the start to the last goodbye."""

from __future__ import annotations

import logging
import secrets
import ssl
import sys
import time
from collections import ChainMap
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from fedthings import run
from fedthings.errors import SpecError, WireError
from fedthings.lifeline import Ending, alone
from fedthings.messages import Ask, Enrol
from fedthings.privacy import signing
from fedthings.run import Run
from fedthings.server import place, quarantine
from fedthings.server.admission import Admission
from fedthings.server.broker import KINDS, Broker, Kind
from fedthings.server.place import Place, identity
from fedthings.server.ranges import Ranges
from fedthings.server.service import Service
from fedthings.server.services import Services
from fedthings.server.serving import Serving, Terms
from fedthings.server.tls import own_trust
from fedthings.transport.lane import Lane
from fedthings.transport.link import Address
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.topics import COORDINATOR, ROOT
from fedthings.transport.transport import Arrival, Delivery, Inbox, Linked, Refused, Unlinked, Woken

log = logging.getLogger("fedthings.server")

AT_ONCE = 64
"""Arrivals that become durable together, in one transaction, before what follows from them is said."""
SWITCH = 0.0005
"""Seconds for which the network thread may hold the interpreter when ours comes back from the disk; usually 0.005."""
TRACE = "trace.jsonl"
_LONGEST = 86400.0  # seconds of one wait; a queue takes no infinity


class Server:
    """Federations served in real time: `with Server([Terms(...)], ...) as server: runs = server.run(ending)`.

    One has its run in `directory`, each of several in `directory/NAME`; they share the devices, the broker and its
    passwords. `broker` is the URL of an MQTT broker, coordinator's password included; "" starts one in `directory`,
    "mosquitto" or "amqtt" that kind. `gateways` are the devices that may speak for others. `http` is a port (0: a free
    one) where large bodies can be had by range requests too, over TLS with the PEM files `certificate` and `key`. `tls`
    is how a broker's certificate is checked. `roll` is the directory whose devices, coordinator's key and TLS files are
    used, in place of those in `directory`. `on_news(text)` hears what a person should know.
    Raises StoreError, TransportError, SpecError.
    """

    def __init__(
        self,
        served: Sequence[Terms],
        directory: Path,
        *,
        broker: str = "",
        host: str = "",
        port: int = 0,
        root: str = "",
        gateways: Collection[str] = (),
        fsync: bool = False,
        trace: bool = False,
        http: int | None = None,
        certificate: str = "",
        key: str = "",
        tls: ssl.SSLContext | None = None,
        roll: Path | None = None,
        on_news: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.directory = directory
        self.directories = place.prepare(directory, [terms.federation for terms in served])
        self.broker: Broker | None = None
        self.on_news = on_news
        self.on_step: Callable[[], None] = lambda: None
        self._linked_again = False
        self._inbox = Inbox()
        with ExitStack() as stack, run.written(self.directory):
            stack.enter_context(alone(self.directory, "the run directory"))
            self.home = roll or self.directory
            if self.home != self.directory:
                stack.enter_context(alone(self.home, "the directory of the devices"))
            self.admission = Admission(self.home)
            stack.callback(self.admission.close)
            kind: Kind | None = broker if broker in KINDS else None
            self.url = "" if kind else broker
            if not self.url:
                self.broker = self.admission.start(self.directory, port, kind, host, root, self._inbox.wake)
                stack.callback(self.broker.stop)
                self.url = self.broker.url()
            self.root = (root or ROOT) if self.broker is None else self.broker.access.root
            self.transport = MqttTransport(
                self.url,
                COORDINATOR,
                root=self.root,
                inbox=self._inbox,
                seal=self.admission.seal,
                tls=tls or own_trust(self.home),
            )
            stack.callback(self.transport.close)
            self.services = Services(
                [
                    self._serve(stack, terms, where, gateways, fsync, trace)
                    for terms, where in zip(served, self.directories, strict=True)
                ],
                self.transport,
            )
            if self.home != self.directory:  # for who manages the devices there
                known = place.read(self.home)
                Place(known.federation if known else "", self.url, self.root).write(self.home)
            if len(served) > 1:
                Place("", self.url, self.root).write(self.directory)
            if http is not None:
                token = secrets.token_urlsafe(16)  # new each time: offers are made anew too
                files = ChainMap(*(service.bodies.files for service in self.services.services))
                here = self.broker.access.host if self.broker is not None else "0.0.0.0"
                ranges = Ranges(files, token, here, http, certificate or None, key or None)
                stack.callback(ranges.close)
                for service in self.services.services:
                    service.bodies.http, service.bodies.token = ranges.place, token
            self._begun = time.monotonic()
            self._stack = stack.pop_all()

    def _serve(
        self, stack: ExitStack, terms: Terms, directory: Path, gateways: Collection[str], fsync: bool, trace: bool
    ) -> Service:
        """Start, or go on with, one federation in its run `directory`."""
        name = identity(directory, terms.federation.name)
        Place(name, self.url, self.root).write(directory)
        lines = stack.enter_context((directory / TRACE).open("a", 1)) if trace else None
        service = Service(
            terms.federation,
            terms.rounds,
            directory,
            Lane(self.transport, name),
            init=terms.init,
            test=terms.test,
            stop=terms.stop,
            allowed=self.admission.allowed,
            held=self.admission.held,
            verify=signing.of(self.admission.key),
            gateways=frozenset(gateways),
            on_version=terms.on_version,
            fsync=fsync,
            trace=lines,
            shared=directory != self.directory,
        )
        stack.callback(service.close)
        if directory != self.home:
            service.store.know(self.admission.names)
        return service

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def address(self) -> Address:
        """Where the broker is, without secrets as text."""
        return Address.parse(self.url)

    @property
    def service(self) -> Service:
        """The service of the federation, or of the first of several."""
        return self.services.services[0]

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun

    def wake(self) -> None:
        """Make `run` look around; from any thread or signal handler."""
        self._inbox.wake()

    # ------------------------------------------------------------------ running

    def run(self, ending: Ending, stay: bool = False, on_step: Callable[[], None] = lambda: None) -> list[Run] | None:
        """Serve to the end and return the runs; None where `ending` came first: a new start goes on from there.

        `stay`: go on after the end, for devices that come late, until `ending`. `on_step()` follows what arrives.
        Raises SpecError for a federation that cannot be done.
        """
        self.on_step = on_step
        sys.setswitchinterval(SWITCH)
        served = [Serving(service, self.on_news) for service in self.services.services]
        self._see(served, stay)
        while not ending and not all(serving.over for serving in served):
            self._step(min(serving.alarm for serving in served))
            self._see(served, stay)
        for serving in served:
            serving.part()
        for service in self.services.services:
            if service.failure:
                raise SpecError(service.failure)
        runs = [serving.result for serving in served if serving.result is not None]
        return runs if len(runs) == len(served) else None

    def _step(self, until: float) -> None:
        """Wait for arrivals, for an alarm or `until` at the latest, and see to what is here."""
        timeout = min(max(0.0, min(until, self.services.alarm, self.admission.alarm) - self.now), _LONGEST)
        arrivals = self.transport.inbox.several(timeout, AT_ONCE)
        now = self.now
        with run.written(self.directory):
            for left, arrival in zip(range(len(arrivals) - 1, -1, -1), arrivals, strict=True):
                self.services.receive(self._look(arrival, now), now, more=left > 0)
            if now >= self.admission.alarm:
                self._reload(now)
            self.services.wake(now)
            if self.broker is not None and not self.broker.alive:
                self.broker.restart(self.on_news)
        self.on_step()

    def _see(self, served: Sequence[Serving], stay: bool) -> None:
        with run.written(self.directory):
            for serving in served:
                serving.see(self.now, stay)

    # ----------------------------------------------------------------- arrivals

    def _look(self, arrival: Arrival, now: float) -> Arrival:
        """See to what is the process's own concern: the link, who may join; return what is left for the services."""
        if isinstance(arrival, Unlinked):
            self.on_news(f"no link to the broker: {arrival.reason}; waiting for it to come back")
            self._linked_again = True
        elif isinstance(arrival, Linked) and self._linked_again:
            self.on_news("linked to the broker again")
            self._linked_again = False
        elif isinstance(arrival, Delivery) and arrival.message == Ask("reload"):
            self._reload(now)
        elif isinstance(arrival, Delivery) and isinstance(arrival.message, Enrol):
            try:
                self.admission.take(arrival.sender, arrival.message, now)
            except WireError as error:
                return Refused(arrival.sender, error)
            return Woken()
        return arrival

    def _reload(self, now: float) -> None:
        """Read the roll again; what follows is said with what has arrived."""
        parties = [quarantine.of(service) for service in self.services.services]
        quarantine.reload(self.admission, parties, lambda said: self.services.receive(said, now, more=True))
        self._know()
        self.admission.flush(self.transport, now)

    def _know(self) -> None:
        """Let federations that share the devices count what each costs there."""
        for service in self.services.services:
            if service.directory != self.home:
                service.store.know(self.admission.names)
