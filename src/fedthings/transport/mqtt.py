"""The transport over MQTT 3.1.1, QoS 1: one end of the conversation, linked again whenever the link is lost.

One network thread an end reads and unpacks into the inbox; it never calls its owner. Each link starts
clean on both sides, so no broker has to remember anything.
"""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Callable

from fedthings.errors import SpecError, TransportError, WireError
from fedthings.messages import Announce, Bye, Chunk, Envelope, Offer, Want
from fedthings.transport import topics
from fedthings.transport.link import Address, Link
from fedthings.transport.transport import Delivery, Inbox, Linked, Refused, Unlinked
from fedthings.wire import NAME, pack, unpack

KEEPALIVE = 60
"""Seconds of silence after which either side asks whether the other is there."""
BACKOFF = (1.0, 60.0)
"""Seconds before a try to link again: doubled from the first to the last, and jittered."""
_STOOD = 10.0  # seconds after which a link counts as good, so that the next back-off begins anew


class MqttTransport:
    """One end of the conversation; see `transport.Transport` for what its methods promise.

    `address` is "coordinator", a device's name or "operator/<client>". The constructor waits for the first
    link; `timeout` is in seconds; `inbox` takes the place of one of its own.
    Raises TransportError, or SpecError for a URL or name that cannot be.
    """

    def __init__(
        self,
        url: str,
        address: str,
        federation: str = "",
        *,
        root: str = topics.ROOT,
        keepalive: int = KEEPALIVE,
        backoff: tuple[float, float] = BACKOFF,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.broker = Address.parse(url)
        self.address = address
        self.federation = federation
        self._only = federation  # a device made without one hears of all, also when it takes part in one
        self.inbox = inbox or Inbox()
        self.bytes_sent = 0
        self.bytes_received = 0
        self.messages_sent = 0  # what moves bodies, and announcements, apart
        self.messages_received = 0
        self._root = topics.check_root(root)
        self._own = self._writes()
        self._keepalive = keepalive
        self._backoff = backoff
        self._timeout = timeout
        self._tls = (tls or ssl.create_default_context()) if self.broker.tls else None
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._wanted: dict[str, tuple[bytes, int]] = {}
        self._held: list[str] = []
        self._reason = ""
        self._first = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mqtt {address}", daemon=True)
        self._thread.start()
        if not self._first.wait(2 * timeout) or not self.linked:
            reason = self._reason or f"no answer within {timeout:g} seconds"
            self.close()
            raise TransportError(f"no link to the broker at {self.broker}: {reason}")

    @property
    def linked(self) -> bool:
        """Whether the link stands now."""
        return self._link is not None

    def send(self, to: str, message: Envelope) -> bool:
        """Send to the address `to`; False where the link is down, the queue full, or `to` no address."""
        if self.address != topics.COORDINATOR:
            return self._publish(self._own, message)
        try:
            topic = topics.to(self._root, to)
        except SpecError:
            return False
        return self._publish(topic, message)

    def announce(self, message: Announce) -> bool:
        """Keep `message` at the broker for every device, now and later."""
        return self._publish(topics.announce(self._root, self.federation), message, retain=True)

    def retract(self) -> bool:
        """Take the announcement away from the broker."""
        return self._publish(topics.announce(self._root, self.federation), None, retain=True)

    def publish_blob(self, index: int, chunk: Chunk) -> bool:
        """Keep a chunk at the broker."""
        return self._publish(topics.blob(self._root, chunk.digest, index), chunk, retain=True)

    def clear_blob(self, digest: bytes, count: int) -> bool:
        """Take the `count` chunks of a body away from the broker; False where it must be said again."""
        names = (topics.blob(self._root, digest, index) for index in range(count))
        return all(self._publish(topic, None, retain=True) for topic in names)

    def want_blob(self, digest: bytes, indexes: tuple[int, ...]) -> bool:
        """Fetch these retained chunks: subscribe to each by name, and unsubscribe when all have come."""
        names = {topics.blob(self._root, digest, index): (digest, index) for index in indexes}
        with self._lock:
            if self._link is None:
                return False
            self._wanted |= names
            self._held += names
            return not names or self._link.subscribe(names)

    def close(self, patience: float = 0.5, bye: bool = True) -> None:
        """Leave in order; a device says Bye first, unless it only sleeps.

        What is on its way gets `patience` seconds to be taken.
        """
        self._closing.set()
        link = self._link
        if link is not None:
            if self._is_device and bye:
                self._publish(self._own, Bye())
            link.drain(patience)
            self._end(link, Link.leave)
            self._thread.join(0.2)
            self._end(link, Link.cut)
        self._thread.join(0.2)

    def _end(self, link: Link, how: Callable[[Link], None]) -> None:
        with self._lock:
            if self._link is link:
                how(link)

    # ------------------------------------------------------------ the network thread

    def _run(self) -> None:
        """Link, and link again, until closed."""
        pause = self._backoff[0]
        while not self._closing.is_set():
            link = self._new_link()
            stood = link.run()
            with self._lock:
                known, self._link = self._link is not None, None
                self._wanted.clear()
                self._held.clear()
            link.free()
            if not self._closing.is_set() and (known or link.reason != self._reason):
                self._reason = link.reason
                self.inbox.put(Unlinked(link.reason))
            self._first.set()
            if stood > _STOOD:
                pause = self._backoff[0]
            # Jitter keeps a fleet from coming back all at once; the first try after a link is quick.
            share = random.uniform(0.05, 0.5) if known else random.uniform(0.5, 1.0)
            self._closing.wait(pause * share)
            pause = min(2 * pause, self._backoff[1])

    def _new_link(self) -> Link:
        link = Link(
            self.broker,
            f"{self._root}-{self.address}".replace("/", "-"),
            reads=self._reads(),
            will=(self._own, pack(Bye(), self.federation)) if self._is_device else None,
            stands=lambda: self._stands(link),
            came=self._came,
            keepalive=self._keepalive,
            timeout=self._timeout,
            tls=self._tls,
        )
        return link

    def _stands(self, link: Link) -> None:
        with self._lock:
            self._link = link
        self._reason = ""
        self.inbox.put(Linked())
        self._first.set()

    def _came(self, topic: str, payload: bytes) -> None:
        """Read one message and hand it to the owner; a chunk that nobody waits for is dropped."""
        wanted = None
        if topic.startswith(f"{self._root}/blob/"):
            with self._lock:
                wanted = self._wanted.pop(topic, None)
                if wanted and self._link is not None and all(body != wanted[0] for body, _ in self._wanted.values()):
                    gone = [held for held in self._held if held not in self._wanted]  # a chunk may never come
                    self._link.unsubscribe(gone)
                    self._held = [held for held in self._held if held in self._wanted]
            if wanted is None or not payload:
                return
        elif not self._is_ours(topic):  # amqtt hands out what others have subscribed to
            return
        elif not payload and topic.startswith(f"{self._root}/announce/"):
            return  # it was taken away
        self.bytes_received += len(payload)
        sender = topics.device_of(topic)
        try:
            federation, message = unpack(payload)
            if wanted and (not isinstance(message, Chunk) or message.digest != wanted[0]):
                raise WireError("malformed", f"{topic} holds something else")
            if not NAME.fullmatch(sender.removeprefix(topics.OPERATOR)):
                raise WireError("malformed", "the sender's name cannot be")
        except WireError as error:
            self.inbox.put(Refused(sender, error))
        else:
            self.messages_received += not isinstance(message, Offer | Want | Chunk | Announce)
            self.inbox.put(Delivery(sender, message, federation))

    def _publish(self, topic: str, message: Envelope | None, retain: bool = False) -> bool:
        data = b"" if message is None else pack(message, self.federation)
        with self._lock:
            if self._link is None or not self._link.publish(topic, data, retain):
                return False
            self.bytes_sent += len(data)
            self.messages_sent += not isinstance(message, Offer | Want | Chunk | Announce)
        return True

    # -------------------------------------------------------------------- its place

    @property
    def _is_device(self) -> bool:
        return self.address != topics.COORDINATOR and not self.address.startswith(topics.OPERATOR)

    def _is_ours(self, topic: str) -> bool:
        return any(topic == own or (own.endswith("/+") and topic.startswith(own[:-1])) for own in self._reads())

    def _writes(self) -> str:
        """Return the topic that this end writes to; the coordinator writes to many."""
        if self.address.startswith(topics.OPERATOR):
            return topics.ask(self._root, self.address.removeprefix(topics.OPERATOR))
        return topics.sent(self._root, self.address) if self._is_device else ""

    def _reads(self) -> list[str]:
        """Return the topics that this end reads all the time."""
        if self.address == topics.COORDINATOR:
            return [topics.sent(self._root, "+"), topics.ask(self._root, "+")]
        own = topics.to(self._root, self.address)
        # Its own topic first: what the announcement makes a device ask for must find it listening.
        return [own, topics.announce(self._root, self._only or "+")] if self._is_device else [own]
