"""The helper's process: one link to the broker, and a loop around the helper until its owner ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from fedthings.device.way import Way
from fedthings.helper.helper import Helper
from fedthings.helper.rules import Rules
from fedthings.lifeline import Ending, alone
from fedthings.transport.mqtt import BACKOFF
from fedthings.transport.transport import Inbox, Linked, Unlinked


class Given(NamedTuple):
    """What a helper's process did: shares of sums given, reports in them, payload bytes."""

    shares: int
    reports: int
    bytes_up: int
    bytes_down: int


def help_out(
    way: Way,
    ending: Ending,
    *,
    rules: Rules | None = None,
    patience: float = BACKOFF[1],
    on_news: Callable[[str], None] = lambda text: None,
) -> Given:
    """Help the federations that are found by this `way`, until told to end.

    Its directory holds keys and state; `patience` is the longest wait, in seconds, before a lost link is tried again.
    Raises TransportError where the first link fails or it is not let in, and StoreError.
    """
    with ExitStack() as stack:
        stack.enter_context(alone(way.directory, "the helper's directory"))
        inbox = Inbox()
        link = way.enrolled(ending, patience, inbox, on_news=on_news)
        if link is None:
            return Given(0, 0, 0, 0)
        transport = link()
        stack.callback(transport.close)
        helper = Helper(way.directory, transport, rules, on_news)
        stack.callback(helper.close)
        ending.attach(inbox.wake)
        on_news(f"{way.name} is linked to {transport.broker}")
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
