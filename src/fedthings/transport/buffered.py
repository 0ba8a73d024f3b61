"""A socket that asks the system once for many packets: paho asks five times to read one, and once to write each."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

_READ = 1 << 18  # bytes that one call may bring
_WRITE = 1 << 16  # bytes that wait to be written together


class Buffered:
    """What paho needs of the socket `connection`, which does not block; `flush` is its owner's to call."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._read = memoryview(bytearray(_READ))
        self._start = self._stop = 0
        self._partial = False  # what is here begins a PUBLISH whose rest has not come
        self._written = bytearray()

    def recv(self, size: int) -> memoryview:
        """Return at most `size` bytes, none at the end; they stay as they are until the next call. Raises OSError."""
        if self._start == self._stop:
            self._start, self._stop = 0, self._connection.recv_into(self._read)
        start, self._start = self._start, min(self._start + size, self._stop)
        return self._read[start : self._start]

    def published(self) -> tuple[bytes, bytes, bytes] | None:
        """Return topic, packet id and payload of the next packet, where it is a PUBLISH of QoS 1 and all is here.

        MQTT 3.1.1, section 3.3. What else there is, or is wrong, is for paho. Raises OSError.
        """
        at, end = self._bounds()
        while not at and self._fill():
            at, end = self._bounds()
        if at <= 0:
            return None
        read, self._start = self._read, end
        named = at + 2 + int.from_bytes(read[at : at + 2], "big")
        return bytes(read[at + 2 : named]), bytes(read[named : named + 2]), bytes(read[named + 2 : end])

    def acknowledge(self, mid: bytes) -> None:
        """Let a PUBACK wait to be written (MQTT 3.1.1, section 3.4)."""
        self._written += b"\x40\x02" + mid
        if len(self._written) >= _WRITE:
            with suppress(OSError):  # the reader meets it too, and tells paho
                self.flush()

    def _bounds(self) -> tuple[int, int]:
        """Return where the next packet's topic begins and the packet ends: 0 where not all is here, -1 for another."""
        read, at, stop = self._read, self._start + 1, self._stop
        if at > stop:
            return 0, 0
        if read[at - 1] & 0xF6 != 0x32:
            return -1, 0
        length = shift = 0
        while at < stop and shift < 28:
            byte = read[at]
            at, length, shift = at + 1, length | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                if at + length > stop:
                    return 0, 0
                topic = int.from_bytes(read[at : at + 2], "big")
                return (at, at + length) if 4 + topic <= length else (-1, 0)
        return (0, 0) if shift < 28 else (-1, 0)

    def _fill(self) -> bool:
        """Bring what the system has behind what is here; False where there is nothing now, no room, or the end."""
        rest = self._stop - self._start
        self._read[:rest] = self._read[self._start : self._stop]
        self._start, self._stop, self._partial = 0, rest, False
        if rest == len(self._read):
            return False
        try:
            came: int = self._connection.recv_into(self._read[rest:])
        except (BlockingIOError, ssl.SSLWantReadError):
            self._partial = rest > 0
            return False
        self._stop += came
        return came > 0

    @property
    def partial(self) -> bool:
        """Whether the rest of a packet is to be waited for."""
        return self._partial

    def pending(self) -> int:
        """Return how many bytes are here to be read, none where the rest of their packet has not come."""
        if self._partial:
            return 0
        deciphered: int = self._connection.pending() if isinstance(self._connection, ssl.SSLSocket) else 0
        return self._stop - self._start + deciphered

    def send(self, data: bytes | bytearray) -> int:
        """Take `data`, all of it, to be written. Raises OSError; BlockingIOError where too much waits already."""
        if len(self._written) >= _WRITE:
            self.flush()
            if len(self._written) >= _WRITE:
                raise BlockingIOError
        self._written += data
        return len(data)

    @property
    def unwritten(self) -> int:
        """Return how many bytes wait until the system takes more."""
        return len(self._written)

    def flush(self) -> None:
        """Write as much of what waits as the system takes now. Raises OSError."""
        with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self._written:
                del self._written[: self._connection.send(self._written)]

    def close(self) -> None:
        """Write what can be, and close."""
        with suppress(OSError):
            self.flush()
        self._connection.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
