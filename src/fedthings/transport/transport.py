"""What moves messages: the face that MQTT and the in-memory transport share. Nothing here does I/O.

A transport promises little: what is sent may be lost with the link, or come twice. The conversation
(docs/wire.md) is made so that saying Hello again puts everything right.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from fedthings.errors import WireError
from fedthings.messages import Announce, Chunk, Envelope
from fedthings.wire import pack, unpack


class Delivery(NamedTuple):
    """A message is here. `sender` is an address: a device's name, "coordinator" or "operator/<client>".

    `federation` is what the sender wrote; "" in a will written before the device knew which.
    """

    sender: str
    message: Envelope
    federation: str


class Refused(NamedTuple):
    """Something came from `sender` that cannot be read; count `error.reason`, answer with Refusal."""

    sender: str
    error: WireError


@dataclass(frozen=True, slots=True)
class Linked:
    """The link stands and all subscriptions are confirmed; what was under way before may be lost."""


class Unlinked(NamedTuple):
    """The link is lost, for `reason`; the transport tries again by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Woken:
    """Nothing came; somebody wants the owner of the inbox to look around (`Inbox.wake`)."""


Arrival: TypeAlias = Delivery | Refused | Linked | Unlinked | Woken


class Inbox:
    """What has arrived, in order; any thread may put, the owner gets."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Arrival] = queue.SimpleQueue()

    def put(self, arrival: Arrival) -> None:
        """Add `arrival`; a waiting `get` returns at once. Safe in a signal handler."""
        self._queue.put(arrival)

    def wake(self) -> None:
        """Make a waiting `get` return `Woken`."""
        self._queue.put(Woken())

    def several(self, timeout: float | None, most: int) -> list[Arrival]:
        """Return what is here, at most `most` arrivals; waits for the first as `get` does."""
        first = self.get(timeout)
        found = [] if first is None else [first]
        while first is not None and len(found) < most and (more := self.get(0)) is not None:
            found.append(more)
        return found

    def get(self, timeout: float | None = None) -> Arrival | None:
        """Return the next arrival; None after `timeout` seconds (None: wait for ever, 0: do not wait)."""
        try:
            return self._queue.get(timeout != 0, timeout)
        except queue.Empty:
            return None


class Seal(Protocol):
    """What packs and signs every message of one end, and checks what it gets (`identity.seal`)."""

    def link(self) -> None:
        """A new link is made."""

    def close(self, topic: str, message: Envelope, federation: str, will: bool = False) -> bytes:
        """Return `message` as it is published on `topic`; `will`: as the last that is heard of this link."""

    def open(self, topic: str, data: bytes) -> tuple[str, Envelope]:
        """Return the federation's id and the message in `data`, which came on `topic`. Raises WireError."""


class Plain:
    """No signatures: of an operator, whom the broker knows, and where no keys are at stake."""

    def link(self) -> None:
        """Nothing."""

    def close(self, topic: str, message: Envelope, federation: str, will: bool = False) -> bytes:
        """Return `message` packed."""
        return pack(message, federation)

    def open(self, topic: str, data: bytes) -> tuple[str, Envelope]:
        """Return what is in `data`. Raises WireError."""
        return unpack(data)


class Transport(Protocol):
    """One end's hold on the link. No method blocks on the network and none raises when the link is down.

    Each returns False where the message was dropped (link down, queue full): the owner says it again
    after `Linked`, or when its own deadline passes. `federation` is written into what is sent, unless a call names
    another; a device that does not know it yet sets it from the first Announce it accepts.
    """

    federation: str

    @property
    def inbox(self) -> Inbox:
        """Where everything arrives, Linked and Unlinked included."""

    @property
    def linked(self) -> bool:
        """Whether the link stands now."""

    @property
    def bytes_sent(self) -> int:
        """Payload bytes published so far."""

    @property
    def bytes_received(self) -> int:
        """Payload bytes delivered so far."""

    def send(self, to: str, message: Envelope, federation: str = "") -> bool:
        """Send to the address `to`; devices and operators send to "coordinator"."""

    def announce(self, message: Announce, federation: str = "") -> bool:
        """Coordinator: keep `message` at the broker for every device, now and later."""

    def retract(self, federation: str = "") -> bool:
        """Coordinator: take the announcement away; a device that comes later looks for another federation."""

    def publish_blob(self, index: int, chunk: Chunk, federation: str = "") -> bool:
        """Coordinator: keep `chunk`, the one of this index in its offer, at the broker."""

    def clear_blob(self, digest: bytes, count: int) -> bool:
        """Coordinator: take the `count` chunks of a body away from the broker."""

    def want_blob(self, digest: bytes, indexes: tuple[int, ...]) -> bool:
        """Device: fetch these retained chunks; each comes as a Delivery of a Chunk from "coordinator".

        A chunk that the broker does not have never comes: after a deadline, ask the coordinator (Want).
        Forgotten when the link is lost.
        """

    def close(self) -> None:
        """Leave in order, within a second; nothing arrives afterwards. A device says Bye first."""
