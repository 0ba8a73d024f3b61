"""Thousands of devices in one process: a small asyncio client of MQTT 3.1.1, and a device that speaks our protocol.

A connection costs some kilobytes and no thread, so the load is the coordinator's and the broker's, not the tool's.
The messages are the real ones (`fedthings.wire`); what a device would do between them is given by its owner.
"""

from __future__ import annotations

import asyncio
import resource
import struct
from collections.abc import Callable, Iterable, Mapping

from fedthings.identity import cose
from fedthings.identity.links import Links
from fedthings.identity.seal import DeviceSeal
from fedthings.messages import Bye, Chunk, Envelope, Offer
from fedthings.transport import topics
from fedthings.transport.chunks import Source
from fedthings.transport.link import Address
from fedthings.transport.transport import Plain, Seal
from fedthings.wire import unpack

KEEPALIVE = 60  # seconds, as real devices have it
CONNACK, PUBLISH, PUBACK, SUBACK = 2, 3, 4, 9


def open_files() -> int:
    """Let this process, and those that it starts, open as many files as the system allows; return how many."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Connection(asyncio.Protocol):
    """One MQTT 3.1.1 connection, QoS 1: `reads` is subscribed to at once, `stands` is set when it is.

    `came(topic, payload)` is called for what arrives, which is acknowledged before. What is published is not sent
    again: a broker on the same machine loses nothing.
    """

    def __init__(self, name: str, at: Address, reads: Iterable[str], came: Callable[[str, bytes], None]) -> None:
        self.stands = asyncio.get_running_loop().create_future()
        self.unacknowledged = 0
        self.received = 0
        self._name, self._at, self._reads, self._came = name, at, list(reads), came
        self._will: tuple[str, bytes] | None = None
        self._buffer = bytearray()
        self._id = 0

    @classmethod
    async def link(
        cls,
        name: str,
        url: str,
        reads: Iterable[str],
        came: Callable[[str, bytes], None],
        will: tuple[str, bytes] | None = None,
        made: Callable[[Connection], None] = lambda connection: None,
    ) -> Connection:
        """Return a connection that stands; `made` gets it before anything comes. Raises OSError, ConnectionError."""
        at = Address.parse(url)

        def make() -> Connection:
            connection = cls(name, at, reads, came)
            connection._will = will
            made(connection)
            return connection

        _, connection = await asyncio.get_running_loop().create_connection(make, at.host, at.port)
        await connection.stands
        return connection

    # ------------------------------------------------------------------ saying

    def publish(self, topic: str, payload: bytes) -> None:
        """Send `payload`, QoS 1."""
        self.unacknowledged += 1
        self._write(0x32, _text(topic) + self._next() + payload)

    def subscribe(self, names: Iterable[str]) -> None:
        """Read these topics too."""
        self._write(0x82, self._next() + b"".join(_text(name) + b"\1" for name in names))

    def unsubscribe(self, names: Iterable[str]) -> None:
        """Read these topics no longer."""
        self._write(0xA2, self._next() + b"".join(_text(name) for name in names))

    def ping(self) -> None:
        """Say that this end is there."""
        self._write(0xC0, b"")

    def close(self) -> None:
        """Leave in order."""
        self._write(0xE0, b"")
        self._transport.close()

    def _next(self) -> bytes:
        self._id = self._id % 65535 + 1
        return struct.pack(">H", self._id)

    def _write(self, head: int, body: bytes) -> None:
        size, length = len(body), b""
        while True:
            size, digit = divmod(size, 128)
            length += bytes([digit | (128 if size else 0)])
            if not size:
                break
        self._transport.write(bytes([head]) + length + body)

    # ----------------------------------------------------------- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT with user, password and will, clean session."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        flags = 0x02 | (0xC0 if self._at.user else 0) | (0x0C if self._will else 0)
        words = [_text(self._name)]
        if self._will:
            words += [_text(self._will[0]), _field(self._will[1])]
        if self._at.user:
            words += [_text(self._at.user), _text(self._at.password or "")]
        self._write(0x10, _text("MQTT") + bytes([4, flags]) + struct.pack(">H", KEEPALIVE) + b"".join(words))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits for the link."""
        if not self.stands.done():
            self.stands.set_exception(error or ConnectionError(f"the broker refuses {self._name}"))

    def data_received(self, data: bytes) -> None:
        """Take the packets that are whole."""
        buffer = self._buffer
        buffer += data
        at = 0
        while (found := _packet(buffer, at)) is not None:
            head, start, stop = found
            self._take(head, bytes(buffer[start:stop]))
            at = stop
        if at:
            del buffer[:at]

    def _take(self, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == PUBLISH:
            end = 2 + int.from_bytes(body[:2], "big")
            topic, start = body[2:end].decode(), end
            if head & 6:
                start += 2
                self._transport.write(b"\x40\x02" + body[end:start])
            self.received += len(body) - start
            self._came(topic, body[start:])
        elif kind == PUBACK:
            self.unacknowledged -= 1
        elif kind == CONNACK and body[1] == 0:
            self.subscribe(self._reads)
        elif kind == SUBACK and not self.stands.done():
            self.stands.set_result(None)


class Trusting(DeviceSeal):
    """Signs as a device does, and takes what comes without checking it: that work is a real device's own."""

    def open(self, topic: str, data: bytes) -> tuple[str, Envelope]:
        """Return what is in `data`."""
        if not cose.is_signed(data):
            return unpack(data)
        signed = cose.parse(data)
        federation, message = unpack(signed.payload)
        self._took(signed, federation, message)
        return federation, message


class Device:
    """One device: `hear(device, message)` is called for what the coordinator says, but chunks it asked for."""

    def __init__(
        self, name: str, hear: Callable[[Device, Envelope], None], root: str = topics.ROOT, seal: Seal | None = None
    ) -> None:
        self.name = name
        self.seal: Seal = seal or Plain()
        self.federation = ""
        self.source: Source | None = None  # its report
        self.since = 0.0  # when it was last told something, for its owner
        self._hear, self._root = hear, root
        self._waiting: dict[bytes, tuple[dict[int, bytes], Offer, Callable[[bytes], None]]] = {}

    async def link(self, url: str) -> None:
        """Link to the broker at `url`."""
        reads = [topics.to(self._root, self.name), topics.announce(self._root, "+")]
        self.seal.link()
        own = topics.sent(self._root, self.name)
        will = own, self.seal.close(own, Bye(), "", will=True)

        def made(connection: Connection) -> None:
            self.connection = connection

        await Connection.link(f"{self._root}-{self.name}", url, reads, self._came, will, made)

    def send(self, message: Envelope) -> None:
        """Send `message` to the coordinator."""
        own = topics.sent(self._root, self.name)
        self.connection.publish(own, self.seal.close(own, message, self.federation))

    def fetch(self, offer: Offer, done: Callable[[bytes], None]) -> None:
        """Give the body of `offer`, retained or inside it, to `done`."""
        if offer.first is not None:
            done(offer.first)
        else:
            self._waiting[offer.digest] = ({}, offer, done)
            self.connection.subscribe(topics.blob(self._root, offer.digest, i) for i in range(offer.count))

    def _came(self, topic: str, payload: bytes) -> None:
        if not payload:
            return
        federation, message = self.seal.open(topic, payload)
        if self.federation in ("", federation):
            self.federation = federation
            if isinstance(message, Chunk):
                self._chunk(message)
            else:
                self._hear(self, message)

    def _chunk(self, chunk: Chunk) -> None:
        if chunk.digest not in self._waiting:
            return
        pieces, offer, done = self._waiting[chunk.digest]
        pieces[chunk.start] = chunk.data
        if len(pieces) == offer.count:
            del self._waiting[chunk.digest]
            self.connection.unsubscribe(topics.blob(self._root, offer.digest, i) for i in range(offer.count))
            done(b"".join(pieces[i] for i in sorted(pieces)))


def crowd(
    keys: Mapping[str, bytes], pinned: Mapping[bytes, bytes], hear: Callable[[Device, Envelope], None]
) -> list[Device]:
    """Return devices with these private keys, which sign."""
    return [Device(name, hear, seal=Trusting(key, Links(), pinned)) for name, key in keys.items()]


async def link_all(devices: Iterable[Device], url: Callable[[str], str], at_once: int = 200) -> None:
    """Link the devices, some `at_once`."""
    turn = asyncio.Semaphore(at_once)

    async def link(device: Device) -> None:
        async with turn:
            await device.link(url(device.name))

    async with asyncio.TaskGroup() as group:
        for device in devices:
            group.create_task(link(device))


async def keep_alive(devices: list[Device]) -> None:
    """Ping for all, spread over the keep-alive."""
    while True:
        for device in devices:
            device.connection.ping()
            await asyncio.sleep(0.8 * KEEPALIVE / len(devices))


def _text(text: str) -> bytes:
    return _field(text.encode())


def _field(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _packet(buffer: bytearray, at: int) -> tuple[int, int, int] | None:
    """Return the head of the packet at `at`, where its body begins and ends, or None while it is not whole."""
    length = shift = 0
    for place in range(at + 1, min(at + 5, len(buffer))):
        digit = buffer[place]
        length |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            stop = place + 1 + length
            return (buffer[at], place + 1, stop) if stop <= len(buffer) else None
    return None
