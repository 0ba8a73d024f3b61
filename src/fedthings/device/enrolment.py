"""Enrolment, from the device's side: it shows its token and its own public key, and waits for the answer."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from math import inf

from fedthings.device.identity import Identity, Standing
from fedthings.errors import TransportError
from fedthings.identity import passwords, tokens
from fedthings.identity.keys import fingerprint
from fedthings.lifeline import Ending
from fedthings.messages import Enrol, Enrolled
from fedthings.transport.link import Address, with_login
from fedthings.transport.mqtt import MqttTransport
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Delivery, Inbox, Linked, Refused

RETRY = 5.0
"""Seconds after which a token is shown again while no coordinator has answered."""


def enrol(
    identity: Identity,
    standing: Standing,
    url: str,
    root: str,
    ending: Ending,
    *,
    tls: ssl.SSLContext | None = None,
    on_news: Callable[[str], None] = lambda text: None,
) -> None:
    """Enrol with the coordinator of `standing` at the broker `url`; returns when it has, or when `ending` is noted.

    Without a user in `url` the token is that of the broker, too. Waits as long as it takes: a coordinator may come
    later, and an operator may have to approve. Raises TransportError where the coordinator refuses, or is another.
    """
    token = standing.token
    if standing.enrolled or token is None:
        return
    if token.expired:
        on_news(f"{token.id} has expired by the clock here: `fedthings devices rotate {identity.name}` makes a new one")
    inbox, seal = Inbox(), identity.seal()
    has_login = Address.parse(url).user is not None
    at = url if has_login else with_login(url, token.id, token.password)
    address = identity.name if has_login else token.id
    guest = fingerprint(identity.public)
    transport = MqttTransport(at, address, root=root, tls=tls, inbox=inbox, seal=seal, guest=guest)
    ending.attach(inbox.wake)
    try:
        on_news(f"{identity.name} shows its token at {transport.broker}, and waits for the coordinator")
        shown = tokens.presented(token, identity.name, identity.public, passwords.hashed(standing.password))
        told, due, pause = "", inf, RETRY  # it is shown at each link, and again while nothing comes
        while not ending:
            if time.monotonic() >= due:
                transport.send(COORDINATOR, shown)
                due = time.monotonic() + pause
            arrival = inbox.get(None if due == inf else max(0.0, due - time.monotonic()))
            if isinstance(arrival, Linked):
                due = 0.0
            elif isinstance(arrival, Refused) and arrival.sender == COORDINATOR:
                raise TransportError(f"{transport.broker} is not the coordinator of {standing.id}: {arrival.error}")
            elif isinstance(arrival, Delivery) and _ours(arrival, shown):
                assert isinstance(arrival.message, Enrolled)
                if arrival.message.standing == "enrolled":
                    identity.enrolled(standing)
                    on_news(f"{identity.name} is enrolled")
                    return
                if arrival.message.standing == "refused":
                    identity.refused(standing)
                    raise TransportError(f"the coordinator refuses {identity.name}: {arrival.message.reason}")
                pause, due = 60.0, time.monotonic() + 60.0  # it tells us; unless it is started anew meanwhile
                text = f"{identity.name} waits until it is approved: `fedthings devices approve {identity.name}`"
                if text != told:
                    on_news(text)
                told = text
    finally:
        ending.detach()
        transport.close()


def _ours(arrival: Delivery, shown: Enrol) -> bool:
    message = arrival.message
    return isinstance(message, Enrolled) and (message.name, message.key) == (shown.name, shown.key)
