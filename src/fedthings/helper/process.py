"""The helper's process: one link to the broker, and a loop around the helper until its owner ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from fedthings.helper.helper import Helper
from fedthings.helper.rules import Rules
from fedthings.lifeline import Ending, alone
from fedthings.transport.mqtt import BACKOFF, MqttTransport
from fedthings.transport.topics import ROOT
from fedthings.transport.transport import Inbox, Linked, Unlinked


class Given(NamedTuple):
    """What a helper's process did: shares of sums given, reports in them, payload bytes."""

    shares: int
    reports: int
    bytes_up: int
    bytes_down: int


def help_out(
    name: str,
    url: str,
    directory: Path,
    ending: Ending,
    *,
    rules: Rules | None = None,
    root: str = ROOT,
    patience: float = BACKOFF[1],
    on_news: Callable[[str], None] = lambda text: None,
) -> Given:
    """Help the federations at the broker `url`, as `name`, until told to end.

    `directory` holds key and state; `patience` is the longest wait, in seconds, before a lost link is tried again.
    Raises TransportError where the first link fails, and StoreError.
    """
    with ExitStack() as stack:
        stack.enter_context(alone(directory, "the helper's directory"))
        inbox = Inbox()
        transport = MqttTransport(url, name, root=root, backoff=(min(BACKOFF[0], patience), patience), inbox=inbox)
        stack.callback(transport.close)
        helper = Helper(directory, transport, rules, on_news)
        stack.callback(helper.close)
        ending.attach(inbox.wake)
        on_news(f"{name} is linked to {transport.broker}")
        lost = False
        while not ending:
            arrival = inbox.get()
            if isinstance(arrival, Unlinked):
                lost = True
                on_news(f"no link to the broker: {arrival.reason}; trying again")
            elif isinstance(arrival, Linked) and lost:
                lost = False
                on_news("linked to the broker again")
            if arrival is not None:
                helper.receive(arrival, time.monotonic())
        return Given(helper.given, helper.reports, transport.bytes_sent, transport.bytes_received)
