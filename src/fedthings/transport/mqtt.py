"""The transport over MQTT 3.1.1, QoS 1: one end of the conversation, linked again whenever the link is lost.

One network thread an end reads and unpacks into the inbox; it never calls its owner. Each link starts
clean on both sides, so no broker has to remember anything.
"""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from math import inf

from fedthings.errors import SpecError, StoreError, TransportError, WireError
from fedthings.messages import Announce, Bye, Chunk, Envelope, Offer, Want
from fedthings.transport import topics
from fedthings.transport.link import Address, Link
from fedthings.transport.transport import Delivery, Inbox, Linked, Plain, Refused, Seal, Unlinked
from fedthings.wire import NAME

KEEPALIVE = 60
"""Seconds of silence after which either side asks whether the other is there."""
BACKOFF = (1.0, 60.0)
"""Seconds before a try to link again: doubled from the first to the last, and jittered."""
NEXT_AFTER = 30.0
"""Seconds without a link after which the next of several brokers is tried, unless set otherwise."""
RETURN = 300.0
"""Seconds after which one that is linked to another than the first broker looks whether that is there again."""
_STOOD = 10.0  # seconds after which a link counts as good, so that the next back-off begins anew


class MqttTransport:
    """One end of the conversation; see `transport.Transport` for what its methods promise.

    `address` is "coordinator", a device's name or "operator/<client>". The constructor waits for the first
    link; `timeout` is in seconds; `inbox` takes the place of one of its own. With several URLs, the next broker is
    tried after `next_after` seconds without a link, in turn; every `go_back` seconds it
    is looked whether the first is there again. `seal` signs what is sent and checks what comes. A `guest`, who
    enrols, says no Bye; this tells it from others with its address.
    Raises TransportError, or SpecError for a URL or name that cannot be.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        address: str,
        federation: str = "",
        *,
        root: str = topics.ROOT,
        keepalive: int = KEEPALIVE,
        backoff: tuple[float, float] = BACKOFF,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
        inbox: Inbox | None = None,
        seal: Seal | None = None,
        guest: str = "",
        next_after: float = NEXT_AFTER,
        go_back: float = RETURN,
    ) -> None:
        urls = (url,) if isinstance(url, str) else url
        self.brokers = tuple(dict.fromkeys(map(Address.parse, urls)))
        self.broker = self.brokers[0]
        self.address = address
        self.federation = federation
        self._only = federation  # a device made without one hears of all, also when it takes part in one
        self.inbox = inbox or Inbox()
        self._seal: Seal = seal or Plain()
        self._guest = guest
        self.bytes_sent = 0
        self.bytes_received = 0
        self.messages_sent = 0  # what moves bodies, and announcements, apart
        self.messages_received = 0
        self._root = topics.check_root(root)
        self._own, self._reads = self._writes(), self._listens()
        self._keepalive = keepalive
        self._backoff = backoff
        self._timeout = timeout
        self._tls = (tls or ssl.create_default_context()) if any(broker.tls for broker in self.brokers) else None
        self._next_after, self._go_back = next_after, go_back
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._wanted: dict[str, tuple[bytes, int]] = {}
        self._held: list[str] = []
        self._returns = False  # whether the first broker is there again, and to be linked to
        self._reason = ""
        self._refused: dict[Address, str] = {}  # before the first link: why which broker gave none
        self._first = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mqtt {address}", daemon=True)
        self._thread.start()
        if not self._first.wait(2 * timeout * len(self.brokers)) or not self.linked:
            self._refused.setdefault(self.broker, f"no answer within {timeout:g} seconds")
            self.close()
            shown = [f"{broker}: {reason}" for broker, reason in self._refused.items()]
            raise TransportError(f"no link to the broker at {', nor to that at '.join(shown)}")

    @property
    def linked(self) -> bool:
        """Whether the link stands now."""
        return self._link is not None

    def send(self, to: str, message: Envelope, federation: str = "") -> bool:
        """Send to the address `to`; False where the link is down, the queue full, or `to` no address."""
        if self.address != topics.COORDINATOR:
            return self._publish(self._own, message, federation)
        try:
            topic = topics.to(self._root, to)
        except SpecError:
            return False
        return self._publish(topic, message, federation)

    def announce(self, message: Announce, federation: str = "") -> bool:
        """Keep `message` at the broker for every device, now and later."""
        topic = topics.announce(self._root, federation or self.federation)
        return self._publish(topic, message, federation, retain=True)

    def retract(self, federation: str = "") -> bool:
        """Take the announcement away from the broker."""
        return self._publish(topics.announce(self._root, federation or self.federation), None, retain=True)

    def publish_blob(self, index: int, chunk: Chunk, federation: str = "") -> bool:
        """Keep a chunk at the broker."""
        return self._publish(topics.blob(self._root, chunk.digest, index), chunk, federation, retain=True)

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
            if self._has_will and bye:
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
        pause, since = self._backoff[0], time.monotonic()
        while not self._closing.is_set():
            try:
                link = self._new_link()
            except StoreError as error:  # the disk is full, say: tried again like a lost link
                self._reason, before = str(error), self._reason
                if self._reason != before:
                    self.inbox.put(Unlinked(self._reason))
                if not self._first.is_set():
                    self._refused[self.broker] = self._reason
                    self._first.set()
                self._closing.wait(pause)
                pause = min(2 * pause, self._backoff[1])
                continue
            stood = link.run()
            with self._lock:
                known, self._link = self._link is not None, None
                self._wanted.clear()
                self._held.clear()
            link.free()
            if known:
                since = time.monotonic()
            if not self._closing.is_set() and (known or link.reason != self._reason):
                self._reason = link.reason
                self.inbox.put(Unlinked(self._told(link.reason)))
            if not self._first.is_set():
                self._refused[self.broker] = link.reason
                if len(self._refused) == len(self.brokers):
                    self._first.set()
            if self._moves(known, time.monotonic() - since):
                pause, since = self._backoff[0], time.monotonic()
                continue
            if stood > _STOOD:
                pause = self._backoff[0]
            # Jitter keeps a fleet from coming back all at once; the first try after a link is quick.
            share = random.uniform(0.05, 0.5) if known else random.uniform(0.5, 1.0)
            left = since + self._next_after - time.monotonic() if len(self.brokers) > 1 else inf
            self._closing.wait(max(0.0, min(pause * share, left)))
            pause = min(2 * pause, self._backoff[1])

    def _moves(self, known: bool, seconds: float) -> bool:
        """Take the broker to try next, and return whether it is another; `seconds` have gone without a link.

        Before the first link, and when the first broker is looked for in vain, the next is tried at once.
        """
        if len(self.brokers) == 1 or self._closing.is_set():
            return False
        before, place = self.broker, self.brokers.index(self.broker)
        if known and self._returns:
            self.broker = self.brokers[0]
        elif not known and (self._returns or not self._first.is_set() or seconds >= self._next_after):
            self.broker = self.brokers[(place + 1) % len(self.brokers)]
            self._returns = False
            if self._first.is_set():
                self.inbox.put(Unlinked(f"{before} was out of reach for {seconds:.0f} seconds, now {self.broker}"))
        return self.broker != before

    def _told(self, reason: str) -> str:
        """Return `reason` with what follows from it."""
        if len(self.brokers) == 1:
            return reason
        other = self.brokers[(self.brokers.index(self.broker) + 1) % len(self.brokers)]
        return f"{self.broker}: {reason}; after {self._next_after:g} seconds {other} is tried"

    def _look_back(self, link: Link) -> None:
        """While `link` stands, which is not to the first broker, look whether that is there again; then go back."""
        home = self.brokers[0]
        while not self._closing.wait(self._go_back) and self._link is link:
            try:
                socket.create_connection((home.host, home.port), self._timeout).close()
            except OSError:
                continue
            self._returns = True
            self._end(link, Link.cut)  # with its will: what is behind this broker need not wait for us
            return

    def _new_link(self) -> Link:
        self._seal.link()
        name = f"{self._root}-{self.address}".replace("/", "-")
        will = (self._own, self._seal.close(self._own, Bye(), self.federation, will=True)) if self._has_will else None
        link = Link(
            self.broker,
            f"{name}-{self._guest}" if self._guest else name,
            reads=self._reads,
            will=will,
            stands=lambda: self._stands(link),
            came=self._came,
            keepalive=self._keepalive,
            timeout=self._timeout,
            tls=self._tls if self.broker.tls else None,
        )
        return link

    def _stands(self, link: Link) -> None:
        with self._lock:
            self._link = link
        self._reason, self._returns = "", False
        if self.broker != self.brokers[0]:
            threading.Thread(target=self._look_back, args=(link,), name="look back", daemon=True).start()
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
            federation, message = self._seal.open(topic, payload)
            if wanted and (not isinstance(message, Chunk) or message.digest != wanted[0]):
                raise WireError("malformed", f"{topic} holds something else")
            if not NAME.fullmatch(sender.removeprefix(topics.OPERATOR)):
                raise WireError("malformed", "the sender's name cannot be")
        except WireError as error:
            self.inbox.put(Refused(sender, error))
        else:
            self.messages_received += not isinstance(message, Offer | Want | Chunk | Announce)
            self.inbox.put(Delivery(sender, message, federation))

    def _publish(self, topic: str, message: Envelope | None, federation: str = "", retain: bool = False) -> bool:
        with self._lock:
            if self._link is None:
                return False
            # Signed here: numbers must grow in the order in which messages go.
            data = b"" if message is None else self._seal.close(topic, message, federation or self.federation)
            if not self._link.publish(topic, data, retain):
                return False
            self.bytes_sent += len(data)
            self.messages_sent += not isinstance(message, Offer | Want | Chunk | Announce)
        return True

    # -------------------------------------------------------------------- its place

    @property
    def _has_will(self) -> bool:
        return self._is_device and not self._guest

    @property
    def _is_device(self) -> bool:
        return self.address != topics.COORDINATOR and not self.address.startswith(topics.OPERATOR)

    def _is_ours(self, topic: str) -> bool:
        return topic in self._reads or topic[: topic.rfind("/")] + "/+" in self._reads

    def _writes(self) -> str:
        """Return the topic that this end writes to; the coordinator writes to many."""
        if self.address.startswith(topics.OPERATOR):
            return topics.ask(self._root, self.address.removeprefix(topics.OPERATOR))
        return topics.sent(self._root, self.address) if self._is_device else ""

    def _listens(self) -> list[str]:
        """Return the topics that this end reads all the time."""
        if self.address == topics.COORDINATOR:
            return [topics.sent(self._root, "+"), topics.ask(self._root, "+")]
        own = topics.to(self._root, f"{self.address}/{self._guest}" if self._guest else self.address)
        # Its own topic first: what the announcement makes a device ask for must find it listening.
        return [own, topics.announce(self._root, self._only or "+")] if self._has_will else [own]
