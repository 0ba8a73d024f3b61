"""The device's process: a loop around its agents, from one federation to the next, until its owner ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from math import ceil, inf
from typing import NamedTuple

from fedthings.device.downloads import Downloads
from fedthings.device.membership import Membership
from fedthings.device.rules import Rules
from fedthings.device.way import Way
from fedthings.errors import TransportError
from fedthings.learn.data import Shard
from fedthings.lifeline import Ending, alone
from fedthings.transport.mqtt import BACKOFF, NEXT_AFTER, RETURN, MqttTransport
from fedthings.transport.transport import Linked, Refused, Unlinked

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
        self.bye = True  # whether anybody is to be told at the end
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

    def sleep(self, membership: Membership, ending: Ending, on_news: Callable[[str], None]) -> None:
        """Be off until the first waking at which the device is wanted, and link again; a broker may be missed."""
        before, wanted = self.transport, membership.rest
        membership.unlink()
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
            membership.relink(link)
            return

    def close(self) -> None:
        """Leave for good."""
        self.transport.close(bye=self.bye)


def join(
    way: Way,
    shard: Shard,
    ending: Ending,
    *,
    rules: Rules | None = None,
    once: bool = False,
    patience: float = BACKOFF[1],
    next_after: float = NEXT_AFTER,
    go_back: float = RETURN,
    every: float = 0.0,
    awake: float = AWAKE,
    rate: float = inf,
    on_news: Callable[[str], None] = lambda text: None,
) -> Attended:
    """Take part with the rows of `shard` until told to end, or to the federation's end if `once`.

    `way` says who the device is, and by which brokers it is linked (`next_after` and `go_back`: see `MqttTransport`).
    In its directory the device keeps its state and the newest models; `patience` is the longest wait, in seconds,
    before a lost link is tried again; `rate` is the most bytes a second of models down and reports up. A device that
    sleeps wakes `every` so many seconds and is linked for `awake` seconds at the most.
    Raises TransportError where the first link fails, or the device is not let in, and StoreError.
    """
    name, directory = way.name, way.directory
    with ExitStack() as stack:
        stack.enter_context(alone(directory, "the device's directory"))
        link = way.enrolled(ending, patience, next_after=next_after, go_back=go_back, on_news=on_news)
        if link is None:
            return Attended(0, 0, 0, 0, 0, 0, 0, 0)
        radio = Radio(link, every, awake)
        inbox = radio.transport.inbox
        stack.callback(radio.close)
        downloads = Downloads(radio.transport.broker.host, inbox)
        stack.callback(downloads.close)
        ending.attach(inbox.wake)
        on_news(f"{name} is linked to {radio.transport.broker}")
        membership = Membership(
            name,
            shard,
            radio.transport,
            directory,
            rules,
            rate=rate,
            downloads=downloads,
            on_news=on_news,
            every=every,
            signing=way.signing(),
        )
        _attend(membership, radio, downloads, ending, once, on_news)
        radio.bye = bool(membership.agents)
        up, down, sent, received = radio.moved
        reports, ended, http = membership.reports, len(membership.ended), downloads.bytes_received
        return Attended(reports, ended, up, down + http, sent, received, radio.wakings, http)


def _attend(
    membership: Membership,
    radio: Radio,
    downloads: Downloads,
    ending: Ending,
    once: bool,
    on_news: Callable[[str], None],
) -> None:
    """Take part in what is announced, until `ending` is noted, or to the end if `once`."""
    lost, ended, refused = False, 0, ""
    while not ending and not (once and membership.over):
        if radio.every and (membership.resting or time.monotonic() >= radio.off):
            radio.sleep(membership, ending, on_news)
            continue
        transport, until = radio.transport, min(membership.alarm, radio.off)
        arrival = transport.inbox.get(None if until == inf else min(max(0.0, until - time.monotonic()), _LONGEST))
        now = time.monotonic()
        if isinstance(arrival, Refused) and str(arrival.error) != refused:
            refused = str(arrival.error)
            on_news(f"refused what came: {refused}")
        if isinstance(arrival, Linked):
            downloads.follow(transport.broker.host)
        if isinstance(arrival, Unlinked):
            lost = True
            on_news(f"no link to the broker: {arrival.reason}; trying again")
        elif isinstance(arrival, Linked) and lost:
            lost = False
            on_news("linked to the broker again" if len(transport.brokers) == 1 else f"linked to {transport.broker}")
        if arrival is not None:
            membership.receive(arrival, now)
            radio.worked(time.monotonic() - now)
        membership.wake(now)
        if len(membership.ended) > ended and not membership.agents and not once:
            on_news("waiting for the next federation")
        ended = len(membership.ended)
