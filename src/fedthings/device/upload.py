"""What goes up, a report or a gateway's sum: offered, sent as it is wanted, offered again until it is answered."""

from __future__ import annotations

import logging
from collections import deque
from math import inf

from fedthings.device.bodies import RETRY
from fedthings.errors import WireError
from fedthings.messages import Want
from fedthings.protocol.events import Ticket
from fedthings.transport.chunks import CHUNK, WINDOW, Source
from fedthings.transport.pacing import Pacing, Rate
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Transport

log = logging.getLogger("fedthings.device")

PATIENCE = 60.0
"""Seconds after which a report whose chunks were sent is offered again."""


class Upload:
    """`begin` with a body, send what is `wanted` of it, `wake` at `alarm`, and `drop` it at its receipt or verdict."""

    def __init__(self, transport: Transport, pacing: Pacing, rate: Rate, chunk: int) -> None:
        self._transport, self._pacing, self._rate = transport, pacing, rate
        self.chunk = chunk
        self._body: tuple[Ticket | None, Source] | None = None
        self._queue: deque[tuple[int, int]] = deque()  # from and to which bytes of it are wanted
        self._began = -1  # where this link began with the report; -1: nothing of it is wanted yet
        self._lost = False  # whether the link was, and how far the report had come is not known
        self._due = inf  # when it is offered again

    @property
    def going(self) -> bool:
        """Whether a body is not answered yet."""
        return self._body is not None

    @property
    def digest(self) -> bytes:
        """The SHA-256 of that body; b"" where there is none."""
        return b"" if self._body is None else self._body[1].digest

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds."""
        return min(self._due, self._rate.free) if self._queue else self._due

    def begin(self, ticket: Ticket | None, body: bytes, now: float) -> None:
        """Offer the finished report of `ticket`, or a subtotal, which has none."""
        self._body = ticket, Source(body, self.chunk)
        self._began, self._lost = -1, False
        self.offer(now)

    def offer(self, now: float) -> None:
        """Offer the body, if there is one; the whole of it where it is one chunk."""
        if self._body is None:
            return
        ticket, source = self._body
        whole = source.count == 1 and source.size <= self._rate.piece(self._pacing.length)
        self._queue.clear()  # what is missing is wanted again
        self._transport.send(COORDINATOR, source.offer("subtotal" if ticket is None else "report", ticket, first=whole))
        self._due = now + RETRY

    def wanted(self, want: Want, now: float) -> None:
        """Send what `want` names of the report."""
        if self._body is None or want.digest != self._body[1].digest:
            return
        size = self._body[1].size
        first = min(want.starts, default=size)  # nothing is missing: a gateway has it
        if self._lost or self._began < 0:
            if self._lost and self._began >= 0:
                self._pacing.broke(max(0, first - self._began))
            self._began, self._lost = first, False
        else:  # of what was asked for before, half a window may be under way
            self._pacing.flows(first - self._began - WINDOW * CHUNK // 2)
        self._queue += [(start, min(start + want.length, size)) for start in want.starts]
        self._due = now + PATIENCE  # the coordinator asks for what it lacks
        self._send(now)

    def wake(self, now: float) -> None:
        """Send what the rate allows again; offer the report again where nothing was heard of it."""
        self._send(now)
        if now >= self._due:
            self.offer(now)

    def broke(self) -> None:
        """The link was lost: how far the report has come, the next want will tell."""
        if self._body is not None and not self._lost:
            self._lost = True
            if self._began < 0:  # not even the offer came through
                self._pacing.broke(0)

    def relink(self, transport: Transport) -> None:
        """Go on with another link, once it stands."""
        self._transport, self._due = transport, inf

    def drop(self) -> None:
        """There is nothing to send any more."""
        self._body, self._due = None, inf
        self._queue.clear()

    def _send(self, now: float) -> None:
        while self._queue and self._body is not None and now >= self._rate.free:
            start, stop = self._queue.popleft()
            length = min(self._rate.piece(self._pacing.length), stop - start)
            try:
                self._transport.send(COORDINATOR, self._body[1].part(start, length))
            except WireError as error:
                log.warning("a chunk was wanted that is not there: %s", error)
                continue
            self._rate.took(length, now)
            if start + length < stop:
                self._queue.appendleft((start + length, stop))
