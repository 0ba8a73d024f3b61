"""The device's process: a loop around the agent, from one federation to the next, until its owner ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from math import ceil, inf
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from fedthings.device.agent import Agent
from fedthings.device.downloads import Downloads
from fedthings.device.rules import Rules
from fedthings.errors import TransportError
from fedthings.learn.data import Shard
from fedthings.lifeline import Ending, alone
from fedthings.messages import Announce, Bye
from fedthings.transport.link import Address
from fedthings.transport.mqtt import BACKOFF, MqttTransport
from fedthings.transport.topics import COORDINATOR, ROOT
from fedthings.transport.transport import Delivery, Inbox, Linked, Unlinked

AWAKE = 5.0
"""Seconds that a device which sleeps is linked at the most."""
_LONGEST = 86400.0  # seconds of one wait; a queue takes no infinity


class Attended(NamedTuple):
    """What a device's process did: reports made, federations seen to their end, payload bytes, messages, wakings.

    Messages that move bodies (offer, want, chunk) are not counted, nor the announcement that each link begins with.
    """

    reports: int
    ended: int
    bytes_up: int
    bytes_down: int
    messages_sent: int
    messages_received: int
    wakings: int
    bytes_http: int  # of those down, the ones that came over HTTP


class Radio:
    """The device's link, into one inbox: on all the time, or for `awake` seconds at the most of `every` so many.

    The time that it trains is not counted, so that a receipt can come in the same waking.
    """

    def __init__(self, link: Callable[[], MqttTransport], every: float, awake: float) -> None:
        self._link, self.every, self.awake = link, every, awake
        self.transport = link()
        self._woke = time.monotonic()
        self._worked = 0.0  # seconds of training since
        self._before = [0, 0, 0, 0]  # of the links that are closed
        self.wakings = 1

    @property
    def off(self) -> float:
        """When it goes off at the latest."""
        return self._woke + self.awake + self._worked if self.every else inf

    def worked(self, seconds: float) -> None:
        """Note that the device has worked for so long."""
        self._worked += seconds

    @property
    def moved(self) -> list[int]:
        """Bytes and messages, each sent and received."""
        link = self.transport
        now = (link.bytes_sent, link.bytes_received, link.messages_sent, link.messages_received)
        return [sum(both) for both in zip(self._before, now, strict=True)]

    def sleep(self, agent: Agent, ending: Ending, on_news: Callable[[str], None]) -> None:
        """Be off until the first waking at which `agent` is wanted, and link again; a broker may be missed."""
        before, wanted = self.transport, agent.rest or 0.0
        agent.unlink()
        before.close(bye=False)
        self._worked = 0.0
        while not ending:
            late = max(time.monotonic(), wanted) - self._woke
            self._woke += max(1, ceil(late / self.every)) * self.every
            while not ending and (left := self._woke - time.monotonic()) > 0:
                before.inbox.get(min(left, _LONGEST))
            if ending:
                return
            try:
                link = self._link()
            except TransportError as error:
                on_news(f"{error}; sleeping again")
                continue
            self._before, self.transport = self.moved, link
            self.wakings += 1
            agent.relink(link)
            return

    def close(self) -> None:
        """Leave for good."""
        self.transport.close()


def join(
    name: str,
    shard: Shard,
    url: str,
    directory: Path,
    ending: Ending,
    *,
    rules: Rules | None = None,
    once: bool = False,
    root: str = ROOT,
    patience: float = BACKOFF[1],
    every: float = 0.0,
    awake: float = AWAKE,
    rate: float = inf,
    on_news: Callable[[str], None] = lambda text: None,
) -> Attended:
    """Take part as `name` with the rows of `shard` until told to end, or to the federation's end if `once`.

    `url` is the broker's with this device's password; `directory` is where the device keeps its state and
    the newest model; `patience` is the longest wait, in seconds, before a lost link is tried again; `rate` is the most
    bytes a second of models down and reports up. A device that sleeps wakes `every` so many seconds and is linked for
    `awake` seconds at the most.
    Raises TransportError where the first link fails, and StoreError.
    """
    with ExitStack() as stack:
        stack.enter_context(alone(directory, "the device's directory"))
        backoff, inbox = (min(BACKOFF[0], patience), patience), Inbox()
        radio = Radio(lambda: MqttTransport(url, name, root=root, backoff=backoff, inbox=inbox), every, awake)
        stack.callback(radio.close)
        downloads = Downloads(radio.transport.broker.host, inbox)
        stack.callback(downloads.close)
        ending.attach(inbox.wake)
        on_news(f"{name} is linked to {radio.transport.broker}")
        announced: dict[str, Delivery] = {}  # the last of each federation
        ended: set[str] = set()
        reports = 0
        while True:
            agent = Agent(
                name,
                shard,
                radio.transport,
                directory,
                rules,
                rate=rate,
                downloads=downloads,
                on_news=on_news,
                every=every,
            )
            for federation, delivery in announced.items():
                if federation not in ended:
                    agent.receive(delivery, time.monotonic())
            _attend(agent, radio, ending, announced, ended, on_news)
            transport = radio.transport
            reports += agent.reports
            if agent.done:
                ended.add(transport.federation)
            if once or ending:
                up, down, sent, received = radio.moved
                http = downloads.bytes_received
                return Attended(reports, len(ended), up, down + http, sent, received, radio.wakings, http)
            transport.send(COORDINATOR, Bye())  # it need not wait for us
            transport.federation = ""
            on_news("waiting for the next federation")


def _attend(
    agent: Agent,
    radio: Radio,
    ending: Ending,
    announced: dict[str, Delivery],
    ended: set[str],
    on_news: Callable[[str], None],
) -> None:
    """Take part in one federation, until it is over or `ending` is noted."""
    lost = False
    while not agent.done and not ending:
        if radio.every and (agent.resting or time.monotonic() >= radio.off):
            radio.sleep(agent, ending, on_news)
            continue
        transport, until = radio.transport, min(agent.alarm, radio.off)
        arrival = transport.inbox.get(None if until == inf else min(max(0.0, until - time.monotonic()), _LONGEST))
        now = time.monotonic()
        if isinstance(arrival, Delivery) and isinstance(arrival.message, Announce):
            announced[arrival.federation] = arrival
            if arrival.message.state == "finished" and arrival.federation != transport.federation:
                del announced[arrival.federation]  # not to be taken up later, when nobody answers for it any more
            if arrival.federation in ended:
                continue
        elif isinstance(arrival, Unlinked):
            lost = True
            on_news(f"no link to the broker: {arrival.reason}; trying again")
        elif isinstance(arrival, Linked) and lost:
            lost = False
            on_news("linked to the broker again")
        if arrival is not None:
            agent.receive(arrival, now)
            radio.worked(time.monotonic() - now)
        agent.wake(now)


def with_password(url: str, name: str, password: str) -> str:
    """Return the broker's `url` with user `name` and `password`, unless it names a user, or there is none.

    Raises SpecError for a URL that is none.
    """
    address = Address.parse(url)
    if address.user is not None or not password:
        return url
    host = f"[{address.host}]" if ":" in address.host else address.host
    scheme = "mqtts" if address.tls else "mqtt"
    return f"{scheme}://{quote(name)}:{quote(password, safe='')}@{host}:{address.port}"
