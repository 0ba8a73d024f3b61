"""A transport in memory: one hub, its coordinator and its devices, no threads and no clock.

Everything goes through `wire`. With `post` a driver in virtual time decides when each arrival is delivered.
"""

from __future__ import annotations

from collections.abc import Callable

from fedthings.errors import WireError
from fedthings.messages import Announce, Bye, Chunk, Envelope
from fedthings.transport import topics
from fedthings.transport.topics import COORDINATOR, OPERATOR, ROOT
from fedthings.transport.transport import Arrival, Delivery, Inbox, Linked, Plain, Refused, Seal, Unlinked


class Hub:
    """What a broker is to the others: it hands on what is sent, and keeps announcements and chunks.

    `post(address, arrival)` is called for everything that is on its way; it must call
    `deliver(address, arrival)`, now (the default) or later, or never.
    """

    def __init__(self, post: Callable[[str, Arrival], None] | None = None) -> None:
        self._post = post or self.deliver
        self._ends: dict[str, MemoryTransport] = {}
        self._announced: dict[str, bytes] = {}
        self._blobs: dict[tuple[bytes, int], bytes] = {}

    def coordinator(self, federation: str, seal: Seal | None = None) -> MemoryTransport:
        """Return the coordinator's end, linked; `seal` signs and checks its messages."""
        return self._join(COORDINATOR, federation, seal)

    def device(self, name: str, federation: str = "", seal: Seal | None = None) -> MemoryTransport:
        """Return the end of the device `name`, linked; a second one with this name replaces the first."""
        return self._join(name, federation, seal)

    def operator(self, client: str, federation: str = "") -> MemoryTransport:
        """Return the end of the operator `client`, linked."""
        return self._join(OPERATOR + client, federation)

    def deliver(self, address: str, arrival: Arrival) -> None:
        """Put `arrival` into the inbox of `address`; it is lost where the link is down."""
        end = self._ends.get(address)
        if end is not None and (end.linked or isinstance(arrival, Unlinked)):
            end.inbox.put(arrival)

    def inject(self, sender: str, to: str, data: bytes, topic: str = "") -> None:
        """Hand on `data` as it is: what a faulty or malicious end may send."""
        end = self._ends.get(to)
        if end is None or not end.linked:
            return
        end.bytes_received += len(data)
        try:
            federation, message = end.seal.open(topic or _topic(sender, to), data)
        except WireError as error:
            self._post(to, Refused(sender, error))
        else:
            self._post(to, Delivery(sender, message, federation))

    def unlink(self, address: str, reason: str = "the link is lost") -> None:
        """Cut the link of `address`; a device's will is delivered."""
        end = self._ends[address]
        if end.linked:
            end.linked = False
            self._post(address, Unlinked(reason))
            if address != COORDINATOR and not address.startswith(OPERATOR):
                self.inject(address, COORDINATOR, end.will)

    def sleep(self, address: str) -> None:
        """Take down the link of `address` in order: no will is delivered."""
        self._ends[address].linked = False

    def link(self, address: str) -> None:
        """Mend the link of `address`; a device gets what is announced."""
        end = self._ends[address]
        end.linked = True
        end.seal.link()
        if address != COORDINATOR and not address.startswith(OPERATOR):
            end.will = end.seal.close(topics.sent(ROOT, address), Bye(), end.federation, will=True)
        self._post(address, Linked())
        if address != COORDINATOR:
            for federation, data in self._announced.items():
                self.inject(COORDINATOR, address, data, topics.announce(ROOT, federation))

    def forget(self) -> None:
        """Lose what is kept, as a broker does that starts anew without a store."""
        self._announced.clear()
        self._blobs.clear()

    def _join(self, address: str, federation: str, seal: Seal | None = None) -> MemoryTransport:
        self._ends[address] = end = MemoryTransport(self, address, federation, seal)
        self.link(address)
        return end

    def _announce(self, federation: str, data: bytes) -> None:
        self._announced[federation] = data
        for address in list(self._ends):
            if address != COORDINATOR:
                self.inject(COORDINATOR, address, data, topics.announce(ROOT, federation))


class MemoryTransport:
    """One end at a `Hub`; see `transport.Transport` for what its methods promise."""

    def __init__(self, hub: Hub, address: str, federation: str, seal: Seal | None = None) -> None:
        self.seal: Seal = seal or Plain()
        self.will = b""
        self.address = address
        self.federation = federation
        self.inbox = Inbox()
        self.linked = False
        self.bytes_sent = 0
        self.bytes_received = 0
        self._hub = hub

    def send(self, to: str, message: Envelope, federation: str = "") -> bool:
        """Send to the address `to`; a device that is not there misses it."""
        data = self._pack(_topic(self.address, to), message, federation)
        if data:
            self._hub.inject(self.address, to, data)
        return bool(data)

    def announce(self, message: Announce, federation: str = "") -> bool:
        """Keep `message` for every device, now and later."""
        data = self._pack(topics.announce(ROOT, federation or self.federation), message, federation)
        if data:
            self._hub._announce(federation or self.federation, data)
        return bool(data)

    def retract(self, federation: str = "") -> bool:
        """Take the announcement away."""
        if self.linked:
            self._hub._announced.pop(federation or self.federation, None)
        return self.linked

    def publish_blob(self, index: int, chunk: Chunk, federation: str = "") -> bool:
        """Keep a chunk at the hub."""
        packed = self._pack(topics.blob(ROOT, chunk.digest, index), chunk, federation)
        if packed:
            self._hub._blobs[chunk.digest, index] = packed
        return bool(packed)

    def clear_blob(self, digest: bytes, count: int) -> bool:
        """Take the chunks of a body away."""
        if self.linked:
            for index in range(count):
                self._hub._blobs.pop((digest, index), None)
        return self.linked

    def want_blob(self, digest: bytes, indexes: tuple[int, ...]) -> bool:
        """Fetch these chunks; one that is not there never comes."""
        if self.linked:
            for index in indexes:
                if packed := self._hub._blobs.get((digest, index)):
                    self._hub.inject(COORDINATOR, self.address, packed, topics.blob(ROOT, digest, index))
        return self.linked

    def close(self) -> None:
        """Leave; a device says Bye first."""
        if self.linked and self.address != COORDINATOR and not self.address.startswith(OPERATOR):
            self.send(COORDINATOR, Bye())
        self.linked = False

    def _pack(self, topic: str, message: Envelope, federation: str) -> bytes:
        """Return `message` packed and counted, or nothing where the link is down."""
        if not self.linked:
            return b""
        data = self.seal.close(topic, message, federation or self.federation)
        self.bytes_sent += len(data)
        return data


def _topic(sender: str, to: str) -> str:
    """Return on which topic `sender` says something to `to`."""
    if sender == COORDINATOR:
        return topics.to(ROOT, to)
    return topics.ask(ROOT, sender.removeprefix(OPERATOR)) if sender.startswith(OPERATOR) else topics.sent(ROOT, sender)
