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
        self._written = bytearray()

    def recv(self, size: int) -> memoryview:
        """Return at most `size` bytes, none at the end; they stay as they are until the next call. Raises OSError."""
        if self._start == self._stop:
            self._start, self._stop = 0, self._connection.recv_into(self._read)
        start, self._start = self._start, min(self._start + size, self._stop)
        return self._read[start : self._start]

    def pending(self) -> int:
        """Return how many bytes are here to be read."""
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
