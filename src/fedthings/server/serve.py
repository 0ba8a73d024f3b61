"""The coordinator's process: broker, transport, service and a clock, from the start to the last goodbye."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Self

from fedthings import run
from fedthings.errors import SpecError, TransportError
from fedthings.federation import Federation
from fedthings.history import Line
from fedthings.lifeline import Ending, alone
from fedthings.messages import Ask, Bye
from fedthings.protocol.events import Declined
from fedthings.run import Run
from fedthings.server import devices
from fedthings.server.access import Access
from fedthings.server.broker import KINDS, Broker, Kind
from fedthings.server.place import Place, identity
from fedthings.server.ranges import Ranges
from fedthings.server.service import Service
from fedthings.transport.link import Address
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.topics import COORDINATOR, ROOT
from fedthings.transport.transport import Arrival, Delivery, Linked, Unlinked
from fedthings.vector import Array, Vector

log = logging.getLogger("fedthings.server")

LINGER = 10.0
"""Seconds that devices have at the end to fetch the last model and say Bye."""
RESTARTS = 5
"""Times in a row that a broker of its own is started again before the coordinator gives up."""
AT_ONCE = 64
"""Arrivals that become durable together, in one transaction, before what follows from them is said."""
SWITCH = 0.0005
"""Seconds for which the network thread may hold the interpreter when ours comes back from the disk; usually 0.005."""
TRACE = "trace.jsonl"
_LONGEST = 86400.0  # seconds of one wait; a queue takes no infinity


class Server:
    """One federation served in real time: `with Server(...) as server: result = server.run(ending)`.

    `broker` is the URL of an MQTT broker, coordinator's password included; "" starts one in `directory`,
    "mosquitto" or "amqtt" that kind. `gateways` are the devices that may speak for others. `http` is a port (0: a free
    one) where large bodies can be had by range requests too, over TLS with the PEM files `certificate` and `key`.
    `on_news(text)` hears what a person should know. Raises StoreError, TransportError, SpecError.
    """

    def __init__(
        self,
        federation: Federation,
        rounds: int,
        directory: Path,
        *,
        broker: str = "",
        host: str = "",
        port: int = 0,
        root: str = "",
        init: Vector | None = None,
        test: tuple[Array, Array] | None = None,
        stop: Mapping[str, float] | None = None,
        gateways: Collection[str] = (),
        fsync: bool = False,
        trace: bool = False,
        http: int | None = None,
        certificate: str = "",
        key: str = "",
        on_version: Callable[[Line], None] | None = None,
        on_news: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.directory = run.prepare(directory, federation)
        self.broker: Broker | None = None
        self.on_news = on_news
        self.on_step: Callable[[], None] = lambda: None
        self._linked_again = False
        with ExitStack() as stack, run.written(self.directory):
            stack.enter_context(alone(self.directory, "the run directory"))
            self.names = {device["name"]: device["password"] for device in devices.listed(self.directory)}
            self._kind: Kind | None = broker if broker in KINDS else None
            url = "" if self._kind else broker
            self._open = bool(url) and not self.names  # a broker of one's own lets in whom it lets in
            name = identity(self.directory, federation.name)
            self.url = url or self._start_broker(stack, host, port, root)
            self.root = (root or ROOT) if self.broker is None else self.broker.access.root
            self.transport = MqttTransport(self.url, COORDINATOR, name, root=self.root)
            stack.callback(self.transport.close)
            Place(name, self.url, self.root).write(self.directory)
            lines = stack.enter_context((self.directory / TRACE).open("a", 1)) if trace else None
            self.service = Service(
                federation,
                rounds,
                self.directory,
                self.transport,
                init=init,
                test=test,
                stop=stop,
                allowed=lambda name: self._open or name in self.names,
                gateways=frozenset(gateways),
                on_version=on_version,
                fsync=fsync,
                trace=lines,
            )
            stack.callback(self.service.close)
            if http is not None:
                token = secrets.token_urlsafe(16)  # new each time: offers are made anew too
                files = self.service.bodies.files
                ranges = Ranges(files, token, host or "127.0.0.1", http, certificate or None, key or None)
                stack.callback(ranges.close)
                self.service.bodies.http, self.service.bodies.token = ranges.place, token
            # Federation time stands still while no process serves it.
            self._begun = time.monotonic() - self.service.now
            self._stack = stack.pop_all()

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
    def now(self) -> float:
        """Seconds of federation time."""
        return time.monotonic() - self._begun

    def wake(self) -> None:
        """Make `run` look around; from any thread or signal handler."""
        self.transport.inbox.wake()

    # ------------------------------------------------------------------ running

    def run(self, ending: Ending, stay: bool = False, on_step: Callable[[], None] = lambda: None) -> Run | None:
        """Serve to the end and return the run; None where `ending` came first: a new start goes on from there.

        `stay`: go on after the end, for devices that come late, until `ending`. `on_step()` follows what arrives.
        """
        service, self.on_step = self.service, on_step
        sys.setswitchinterval(SWITCH)
        ended_before = service.done and (self.directory / run.SUMMARY).exists()
        while not service.done and not ending:
            self._step(service.alarm)
        if not service.done:
            return None
        with run.written(self.directory):
            service.announce()
            facts = {
                "devices": len(service.coordinator.last),
                "seconds": service.now,
                "reason": service.reason,
            }
            result = run.result(service.engine, service.history, facts)
            run.finish(self.directory, result)
        if stay or not ended_before:
            self._part(ending, stay)
        if service.failure:
            raise SpecError(service.failure)
        return result

    def _step(self, until: float) -> None:
        """Wait for the next arrival, `until` at the latest, and see to it and to what came with it."""
        timeout = min(max(0.0, until - self.now), _LONGEST)
        arrivals = self.transport.inbox.several(timeout, AT_ONCE)
        now = self.now
        with run.written(self.directory):
            for left, arrival in zip(range(len(arrivals) - 1, -1, -1), arrivals, strict=True):
                self._look(arrival, now)
                self.service.receive(arrival, now, more=left > 0)
            self.service.wake(now)
            if self.broker is not None and not self.broker.alive:
                self.on_news("the broker has died: starting it again")
                self.broker = self._restarted()
                self._watch(self.broker)
        self.on_step()

    def _part(self, ending: Ending, stay: bool) -> None:
        """Let the devices that are present fetch the last model: each says Bye when it has it."""
        staying = set(self.service.coordinator.present)
        end = self.now + LINGER + self.service.coordinator.sleepers.longest()  # each may wake once more
        self.service.gone.clear()
        while not ending and (stay or (staying and self.now < end)):
            self._step(inf if stay else end)
            staying -= self.service.gone
        if staying and not stay and not ending:
            self.on_news(f"gone without the last model: {', '.join(sorted(staying))}")
        self.service.bodies.keep_only(-1, ())  # nothing may stay at a broker that is not ours
        self.transport.retract()

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
        names = {device["name"]: device["password"] for device in self.service.store.devices()}
        gone = self.names.keys() - names.keys()
        for name in sorted(gone & self.service.coordinator.present):
            if name in self.service.coordinator.tasks:
                self.service.on(Declined(self.service.coordinator.tasks[name][0], "removed"), now)
            self.service.routes.pop(name, None)
            self.service.receive(Delivery(name, Bye(), self.transport.federation), now)
        self._open = self._open and not names
        self.names = names
        if self.broker is not None:
            for name in gone:
                self.broker.access.passwords.pop(name, None)
            self.broker.admit(names)

    # ------------------------------------------------------------------- broker

    def _restarted(self) -> Broker:
        """Start the broker again; it may be killed while it starts, too. Raises TransportError."""
        for _ in range(RESTARTS - 1):
            try:
                return Broker.start(self.directory, prefer=self._kind)
            except TransportError as error:
                self.on_news(f"{error}; trying again")
        return Broker.start(self.directory, prefer=self._kind)

    def _start_broker(self, stack: ExitStack, host: str, port: int, root: str) -> str:
        access = Access(self.directory)
        if access.passwords.keys() - self.names.keys() - {COORDINATOR}:  # taken off the list while nobody served
            access.passwords = {user: word for user, word in access.passwords.items() if user == COORDINATOR}
            access.write()
        self.broker = Broker.start(self.directory, port, self.names, self._kind, host=host, root=root)
        stack.callback(self._stop_broker)
        self._watch(self.broker)
        return self.broker.url()

    def _stop_broker(self) -> None:
        if self.broker is not None:
            self.broker.stop()

    def _watch(self, broker: Broker) -> None:
        """Look around when `broker` ends; nothing polls."""

        def wait() -> None:
            broker.wait()
            self.wake()

        threading.Thread(target=wait, name="broker", daemon=True).start()
