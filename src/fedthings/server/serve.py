"""The coordinator's process: broker, transport, service and a clock, from the start to the last goodbye."""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections import ChainMap
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from fedthings import run
from fedthings.errors import SpecError
from fedthings.lifeline import Ending, alone
from fedthings.messages import Ask, Bye, Decline
from fedthings.run import Run
from fedthings.server import devices, place
from fedthings.server.access import Access
from fedthings.server.broker import KINDS, Broker, Kind
from fedthings.server.place import Place, identity
from fedthings.server.ranges import Ranges
from fedthings.server.service import Service
from fedthings.server.services import Services
from fedthings.server.serving import Serving, Terms
from fedthings.transport.lane import Lane
from fedthings.transport.link import Address
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.topics import COORDINATOR, ROOT
from fedthings.transport.transport import Arrival, Delivery, Inbox, Linked, Unlinked

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
    one) where large bodies can be had by range requests too, over TLS with the PEM files `certificate` and `key`.
    `on_news(text)` hears what a person should know. Raises StoreError, TransportError, SpecError.
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
            self.names = {device["name"]: device["password"] for device in devices.listed(self.directory)}
            self._kind: Kind | None = broker if broker in KINDS else None
            url = "" if self._kind else broker
            self._open = bool(url) and not self.names  # a broker of one's own lets in whom it lets in
            self.url = url or self._start_broker(stack, host, port, root)
            self.root = (root or ROOT) if self.broker is None else self.broker.access.root
            self.transport = MqttTransport(self.url, COORDINATOR, root=self.root, inbox=self._inbox)
            stack.callback(self.transport.close)
            self.services = Services(
                [
                    self._serve(stack, terms, where, gateways, fsync, trace)
                    for terms, where in zip(served, self.directories, strict=True)
                ],
                self.transport,
            )
            if len(served) > 1:
                Place("", self.url, self.root).write(self.directory)
            if http is not None:
                token = secrets.token_urlsafe(16)  # new each time: offers are made anew too
                files = ChainMap(*(service.bodies.files for service in self.services.services))
                ranges = Ranges(files, token, host or "127.0.0.1", http, certificate or None, key or None)
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
            allowed=lambda name: self._open or name in self.names,
            gateways=frozenset(gateways),
            on_version=terms.on_version,
            fsync=fsync,
            trace=lines,
            shared=directory != self.directory,
        )
        stack.callback(service.close)
        if directory != self.directory:
            service.store.know(self.names)
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
        timeout = min(max(0.0, min(until, self.services.alarm) - self.now), _LONGEST)
        arrivals = self.transport.inbox.several(timeout, AT_ONCE)
        now = self.now
        with run.written(self.directory):
            for left, arrival in zip(range(len(arrivals) - 1, -1, -1), arrivals, strict=True):
                self._look(arrival, now)
                self.services.receive(arrival, now, more=left > 0)
            self.services.wake(now)
            if self.broker is not None and not self.broker.alive:
                self.broker.restart(self.on_news)
        self.on_step()

    def _see(self, served: Sequence[Serving], stay: bool) -> None:
        with run.written(self.directory):
            for serving in served:
                serving.see(self.now, stay)

    # ----------------------------------------------------------------- arrivals

    def _look(self, arrival: Arrival, now: float) -> None:
        """See to what is the process's own concern: the link, the list of devices."""
        if isinstance(arrival, Unlinked):
            self.on_news(f"no link to the broker: {arrival.reason}; waiting for it to come back")
            self._linked_again = True
        elif isinstance(arrival, Linked) and self._linked_again:
            self.on_news("linked to the broker again")
            self._linked_again = False
        elif isinstance(arrival, Delivery) and arrival.message == Ask("reload"):
            self._reload(now)

    def _reload(self, now: float) -> None:
        """Read the list of devices again; one that was taken off it is gone."""
        names = {device["name"]: device["password"] for device in devices.listed(self.directory)}
        gone = self.names.keys() - names.keys()
        self._open = self._open and not names
        for service in self.services.services:
            tasks, federation = service.coordinator.tasks, service.transport.federation
            for name in sorted(gone & service.coordinator.present):
                if name in tasks:
                    self.services.receive(Delivery(name, Decline(tasks[name][0], "removed"), federation), now)
                service.routes.pop(name, None)
                self.services.receive(Delivery(name, Bye(), federation), now)
            if service.directory != self.directory:
                service.store.know(names)
        self.names = names
        if self.broker is not None:
            for name in gone:
                self.broker.access.passwords.pop(name, None)
            self.broker.admit(names)

    # ------------------------------------------------------------------- broker

    def _start_broker(self, stack: ExitStack, host: str, port: int, root: str) -> str:
        access = Access(self.directory)
        if access.passwords.keys() - self.names.keys() - {COORDINATOR}:  # taken off the list while nobody served
            access.passwords = {user: word for user, word in access.passwords.items() if user == COORDINATOR}
            access.write()
        self.broker = Broker.start(
            self.directory, port, self.names, self._kind, host=host, root=root, on_end=self._inbox.wake
        )
        stack.callback(self.broker.stop)
        return self.broker.url()
