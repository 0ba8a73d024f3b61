"""Large bodies by HTTP range requests: a thread that fetches what is wanted and puts it into the inbox as chunks.

To the agent they are chunks like those that come over MQTT; when HTTP fails it asks the coordinator instead.
"""

from __future__ import annotations

import http.client
import logging
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress

from fedthings.messages import Chunk, Offer, Want
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Delivery, Inbox

log = logging.getLogger("fedthings.device")

TRIES = 3
"""Failures in a row after which a place is given up."""
PATIENCE = 10.0
"""Seconds without a byte after which a download has failed."""


class Downloads:
    """Fetches from `host`, and from no other; `context` says whom TLS trusts (None: whom the system does)."""

    def __init__(self, host: str, inbox: Inbox, context: ssl.SSLContext | None = None) -> None:
        self.bytes_received = 0
        self._host, self._inbox, self._context = host, inbox, context
        self._failed: dict[str, int] = {}  # place -> failures in a row
        self._queue: queue.SimpleQueue[tuple[int, Offer, Want, str] | None] = queue.SimpleQueue()
        self._stops = 0  # how often `stop` was called: what was asked for before is not fetched
        self._connection: http.client.HTTPConnection | None = None
        self._at = ""
        self._thread: threading.Thread | None = None

    def follow(self, host: str) -> None:
        """Fetch from `host` from now on: the device is linked to a broker there."""
        if host != self._host:
            self._host, self._at = host, ""
            self._failed.clear()

    def can(self, offer: Offer) -> bool:
        """Return whether the body of `offer` can be had here."""
        scheme, _, port = offer.http.partition(":")
        good = scheme in ("http", "https") and port.isdecimal() and 0 < int(port) < 65536
        return good and self._failed.get(offer.http, 0) < TRIES

    def ask(self, offer: Offer, want: Want, federation: str) -> None:
        """Fetch what `want` names; it comes as chunks from the coordinator, and when it fails the inbox is woken."""
        if self._thread is None:  # most devices never need one
            self._thread = threading.Thread(target=self._run, name="downloads", daemon=True)
            self._thread.start()
        self._queue.put((self._stops, offer, want, federation))

    def stop(self) -> None:
        """Fetch nothing of what was asked for so far, and break off what is under way; no failure counts for it."""
        self._stops += 1
        connection = self._connection
        if connection is not None and isinstance(connection.sock, socket.socket):
            with suppress(OSError):  # the socket's own shutdown: that of TLS takes it from the thread that reads
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Ask for no more; what is under way ends by its own patience."""
        self._queue.put(None)

    def _run(self) -> None:
        while (asked := self._queue.get()) is not None:
            stops, offer, want, federation = asked
            if stops != self._stops or not self.can(offer):
                continue  # given up meanwhile; the inbox has been woken
            try:
                for start, stop in _spans(want, offer.size):
                    self._fetch(offer, start, stop, want.length, federation, stops)
                self._failed[offer.http] = 0
            except (OSError, http.client.HTTPException) as error:
                if stops != self._stops:
                    self._end()
                    continue
                self._failed[offer.http] = self._failed.get(offer.http, 0) + 1
                log.warning("a download over %s failed: %s", offer.http, error)
                self._end()
                while not self._queue.empty():  # what else was asked for is asked for again
                    if self._queue.get() is None:
                        return
                self._inbox.wake()
        self._end()

    def _fetch(self, offer: Offer, start: int, stop: int, length: int, federation: str, stops: int) -> None:
        """Fetch bytes `start` to `stop`. Raises OSError, HTTPException."""
        if self._connection is None or self._at != offer.http:
            self._end()
            scheme, _, port = offer.http.partition(":")
            if scheme == "https":
                context = self._context or ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(self._host, int(port), timeout=PATIENCE, context=context)
            else:
                self._connection = http.client.HTTPConnection(self._host, int(port), timeout=PATIENCE)
            self._at = offer.http
        headers = {"Authorization": f"Bearer {offer.token}", "Range": f"bytes={start}-{stop - 1}"}
        self._connection.request("GET", f"/{offer.digest.hex()}", headers=headers)
        answer = self._connection.getresponse()
        if answer.status != 206 or answer.headers.get("Content-Range", "").split("/")[0] != f"bytes {start}-{stop - 1}":
            raise http.client.HTTPException(f"{answer.status} {answer.reason}")
        for at in range(start, stop, length):
            due = min(length, stop - at)
            data = answer.read(due)
            if len(data) != due:
                raise http.client.IncompleteRead(data, due - len(data))
            if stops != self._stops:
                raise http.client.HTTPException("it was stopped")
            self.bytes_received += due
            self._inbox.put(Delivery(COORDINATOR, Chunk(offer.digest, at, data), federation))
        answer.read()  # its end, so that the connection can be used again

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _spans(want: Want, size: int) -> Iterator[tuple[int, int]]:
    """Yield from and to which byte what `want` names reaches, neighbours together: a request for each."""
    begin = end = -1
    for start in want.starts:
        if start != end:
            if begin < end:
                yield begin, min(end, size)
            begin = start
        end = start + want.length
    if begin < end:
        yield begin, min(end, size)
