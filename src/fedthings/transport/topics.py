"""The names of the MQTT topics: at most 6 levels, at most 128 bytes. All metadata is in the bodies."""

from __future__ import annotations

import re

from fedthings.errors import SpecError
from fedthings.wire import NAME

ROOT = "ft"
"""The first level unless set otherwise: two fleets may share a broker under two roots."""
COORDINATOR = "coordinator"
"""The address, and the broker user, of the coordinator; no device may have this name."""
OPERATOR = "operator/"
"""What the address of an operator begins with; a device's name has no slash."""


def announce(root: str, federation: str) -> str:
    """Return the retained topic that says who coordinates `federation`; "+" for all of them."""
    return _topic(root, "announce", federation)


def to(root: str, address: str) -> str:
    """Return the topic that `address` reads: a device's `<root>/to/<device>`, an operator's answers.

    Of those who enrol with one token each reads its own, `<root>/to/<token>/<key id>`.
    """
    if address.startswith(OPERATOR):
        return answer(root, address.removeprefix(OPERATOR))
    name, slash, key = address.partition("/")
    if slash and not re.fullmatch("[0-9a-f]{16}", key):
        raise SpecError(f"{address!r} is no address: use a device's name, or a token's and the id of a key")
    return _topic(root, "to", name, *([key] if slash else []))


def sent(root: str, device: str) -> str:
    """Return the topic that only `device` writes; "+" for all devices."""
    return _topic(root, "from", device)


def blob(root: str, digest: bytes, index: int) -> str:
    """Return the retained topic of chunk `index` of the body with this SHA-256 `digest`."""
    return _topic(root, "blob", digest.hex()[:16], str(index))


def ask(root: str, client: str) -> str:
    """Return the topic on which the operator `client` asks; "+" for all of them.

    The name is in the topic since a broker does not say who published.
    """
    return _topic(root, "ask", client)


def answer(root: str, client: str) -> str:
    """Return the topic on which the operator `client` is answered."""
    return _topic(root, "answer", client)


def device_of(topic: str) -> str:
    """Return the address of who wrote to `topic`: a device, "operator/<client>", or the coordinator."""
    *_, kind, name = topic.split("/")
    return {"from": name, "ask": OPERATOR + name}.get(kind, COORDINATOR)


def check_root(root: str) -> str:
    """Return `root`, or raise SpecError: one or two levels of names, 32 bytes in all."""
    levels = root.split("/")
    if len(levels) > 2 or len(root) > 32 or not all(NAME.fullmatch(level) for level in levels):
        raise SpecError(f"the topic root is {root!r}: use one or two names of A-Z a-z 0-9 . _ -, like `ft`")
    return root


def _topic(root: str, *levels: str) -> str:
    for level in levels:
        if level != "+" and not NAME.fullmatch(level):
            raise SpecError(f"{level!r} cannot be part of a topic: use 1 to 64 of A-Z a-z 0-9 . _ -")
    topic = "/".join((root, *levels))
    if len(topic) > 128 or topic.count("/") > 5:
        raise SpecError(f"the topic {topic!r} is over 128 bytes or 6 levels: use a shorter root than {root!r}")
    return topic
