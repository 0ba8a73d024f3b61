"""The report that goes up: offered, sent as it is wanted, and offered again until its receipt comes."""

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
    """`begin` with a report, send what is `wanted` of it, `wake` at `alarm`, and `drop` it at its receipt."""

    def __init__(self, transport: Transport, pacing: Pacing, rate: Rate, chunk: int) -> None:
        self._transport, self._pacing, self._rate = transport, pacing, rate
        self.chunk = chunk
        self._report: tuple[Ticket, Source] | None = None
        self._queue: deque[tuple[int, int]] = deque()  # from and to which bytes of it are wanted
        self._began = -1  # where this link began with the report; -1: nothing of it is wanted yet
        self._lost = False  # whether the link was, and how far the report had come is not known
        self._due = inf  # when it is offered again

    @property
    def going(self) -> bool:
        """Whether a report has no receipt yet."""
        return self._report is not None

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds."""
        return min(self._due, self._rate.free) if self._queue else self._due

    def begin(self, ticket: Ticket, report: bytes, now: float) -> None:
        """Offer the finished report of `ticket`."""
        self._report = ticket, Source(report, self.chunk)
        self._began, self._lost = -1, False
        self.offer(now)

    def offer(self, now: float) -> None:
        """Offer the report, if there is one; the whole of it where it is one chunk."""
        if self._report is None:
            return
        ticket, source = self._report
        whole = source.count == 1 and source.size <= self._rate.piece(self._pacing.length)
        self._queue.clear()  # what is missing is wanted again
        self._transport.send(COORDINATOR, source.offer("report", ticket, first=whole))
        self._due = now + RETRY

    def wanted(self, want: Want, now: float) -> None:
        """Send what `want` names of the report."""
        if self._report is None or want.digest != self._report[1].digest:
            return
        size = self._report[1].size
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
        if self._report is not None and not self._lost:
            self._lost = True
            if self._began < 0:  # not even the offer came through
                self._pacing.broke(0)

    def relink(self, transport: Transport) -> None:
        """Go on with another link, once it stands."""
        self._transport, self._due = transport, inf

    def drop(self) -> None:
        """There is nothing to send any more."""
        self._report, self._due = None, inf
        self._queue.clear()

    def _send(self, now: float) -> None:
        while self._queue and self._report is not None and now >= self._rate.free:
            start, stop = self._queue.popleft()
            length = min(self._rate.piece(self._pacing.length), stop - start)
            try:
                self._transport.send(COORDINATOR, self._report[1].part(start, length))
            except WireError as error:
                log.warning("a chunk was wanted that is not there: %s", error)
                continue
            self._rate.took(length, now)
            if start + length < stop:
                self._queue.appendleft((start + length, stop))
