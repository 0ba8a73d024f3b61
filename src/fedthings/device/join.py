"""The device's process: a loop around the agent, from one federation to the next, until its owner ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from fedthings.device.agent import Agent
from fedthings.device.downloads import Downloads
from fedthings.device.rules import Rules
from fedthings.learn.data import Shard
from fedthings.lifeline import Ending, alone
from fedthings.messages import Announce, Bye
from fedthings.transport.link import Address
from fedthings.transport.mqtt import BACKOFF, MqttTransport
from fedthings.transport.topics import COORDINATOR, ROOT
from fedthings.transport.transport import Delivery, Linked, Unlinked

_LONGEST = 86400.0  # seconds of one wait; a queue takes no infinity


class Attended(NamedTuple):
    """What a device's process did: reports made, federations seen to their end, payload bytes."""

    reports: int
    ended: int
    bytes_up: int
    bytes_down: int


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
    rate: float = inf,
    on_news: Callable[[str], None] = lambda text: None,
) -> Attended:
    """Take part as `name` with the rows of `shard` until told to end, or to the federation's end if `once`.

    `url` is the broker's with this device's password; `directory` is where the device keeps its state and
    the newest model; `patience` is the longest wait, in seconds, before a lost link is tried again; `rate` is the most
    bytes a second of models down and reports up.
    Raises TransportError where the first link fails, and StoreError.
    """
    with ExitStack() as stack:
        stack.enter_context(alone(directory, "the device's directory"))
        transport = MqttTransport(url, name, root=root, backoff=(min(BACKOFF[0], patience), patience))
        stack.callback(transport.close)
        downloads = Downloads(transport.broker.host, transport.inbox)
        stack.callback(downloads.close)
        ending.attach(transport.inbox.wake)
        on_news(f"{name} is linked to {transport.broker}")
        announced: dict[str, Delivery] = {}  # the last of each federation
        ended: set[str] = set()
        reports = 0
        while True:
            agent = Agent(name, shard, transport, directory, rules, rate=rate, downloads=downloads, on_news=on_news)
            for federation, delivery in announced.items():
                if federation not in ended:
                    agent.receive(delivery, time.monotonic())
            _attend(agent, transport, ending, announced, ended, on_news)
            reports += agent.reports
            if agent.done:
                ended.add(transport.federation)
            if once or ending:
                received = transport.bytes_received + downloads.bytes_received
                return Attended(reports, len(ended), transport.bytes_sent, received)
            transport.send(COORDINATOR, Bye())  # it need not wait for us
            transport.federation = ""
            on_news("waiting for the next federation")


def _attend(
    agent: Agent,
    transport: MqttTransport,
    ending: Ending,
    announced: dict[str, Delivery],
    ended: set[str],
    on_news: Callable[[str], None],
) -> None:
    """Take part in one federation, until it is over or `ending` is noted."""
    lost = False
    while not agent.done and not ending:
        timeout = None if agent.alarm == inf else min(max(0.0, agent.alarm - time.monotonic()), _LONGEST)
        arrival = transport.inbox.get(timeout)
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
