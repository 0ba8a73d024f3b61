"""The agent: one device's side of the conversation. It is told what arrives and what time it is.

It fetches the task and the model it is assigned, trains on its own rows, and sends the report until the
receipt comes. Hello puts everything right after any loss: the coordinator answers with what is to be done.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from math import inf
from pathlib import Path

import numpy as np

from fedthings.aggregate.fold import refused
from fedthings.device.downloads import Downloads
from fedthings.device.rules import Rules, advice
from fedthings.device.shelf import Shelf
from fedthings.errors import DataError, SpecError, WireError
from fedthings.federation import Phase, fits, learner, received, schema, stage
from fedthings.learn.data import Shard
from fedthings.learn.effort import effort
from fedthings.messages import (
    Announce,
    Assignment,
    Chunk,
    Decline,
    Farewell,
    Hello,
    Model,
    Offer,
    Pause,
    Receipt,
    Refusal,
    Report,
    Want,
    Work,
)
from fedthings.protocol.events import Ticket
from fedthings.spelling import decode
from fedthings.transport.chunks import CHUNK, WINDOW, Assembly, Source
from fedthings.transport.pacing import Pacing, Rate
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery, Linked, Refused, Transport, Woken
from fedthings.vector import Key, Payload
from fedthings.wire import B, pack_body, unpack_body, unpack_file

log = logging.getLogger("fedthings.device")

LARGEST = 1 << 28
"""Bytes: the largest task or model that a device takes unless its owner says otherwise."""
SPOOLED = 4 << 20
"""Bytes: a larger body is not held in memory while it comes in, where the device has a directory."""
RETRY = 5.0
"""Seconds without a chunk or a receipt after which it is asked for again."""

PATIENCE = 60.0
"""Seconds after which a report whose chunks were sent is offered again."""


class Agent:
    """`receive` an arrival, `wake` at `alarm`; `done` when the federation has ended.

    `shard` holds the device's own rows, `directory` is where it keeps state and model (None: memory only).
    One that sleeps wakes `every` so many seconds (0: it stays linked); it is `resting` when its radio may go off.
    """

    def __init__(
        self,
        name: str,
        shard: Shard,
        transport: Transport,
        directory: Path | None = None,
        rules: Rules | None = None,
        chunk: int = CHUNK,
        largest: int = LARGEST,
        rate: float = inf,
        downloads: Downloads | None = None,
        on_news: Callable[[str], None] | None = None,
        every: float = 0.0,
    ) -> None:
        self.name, self.shard, self.transport = name, shard, transport
        self.rules, self.chunk, self.largest = rules or Rules(), chunk, largest
        self.shelf = Shelf(directory)
        self.on_news = on_news or (lambda text: None)
        self.every = every
        self.rest: float | None = None  # until when it was told to stay away
        self.pacing = Pacing(chunk)
        self.rate = Rate(rate)
        self.downloads = downloads
        self.done = False
        self._due = inf  # when what has not come is asked for again
        self.reports = 0
        self.me = secrets.token_hex(8)
        self._boot = ""  # of the coordinator
        self._federation = ""  # its name, as the owner knows it
        self._job: Assignment | None = None
        self._heard = 0.0  # when it was assigned
        self._farewell: Farewell | None = None
        self._incoming: dict[bytes, Assembly] = {}
        self._bodies: dict[bytes, bytes | Path] = {}  # whole bodies of the job at hand
        self._outgoing: Source | None = None
        self._queue: deque[tuple[int, int]] = deque()  # from and to which bytes of it are wanted
        self._hungry: list[Assembly] = []  # who asks for more when the rate allows
        self._began = 0  # where this link began with the report
        self._fetched = 0  # bytes of bodies that this link has brought
        self._lost = False  # whether the link was, and how far the report had come is not known
        self._told = ""
        self._seconds = 0.0  # that all of the local work took, when it was last done
        self._phase: tuple[bytes, Phase] | None = None  # digest of the task body, what it says

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds."""
        return min(self._due, self.rate.free) if self._queue or self._hungry else self._due

    # ---------------------------------------------------------------- arrivals

    def receive(self, arrival: Arrival, now: float) -> None:
        """Take one arrival at `now` seconds."""
        if isinstance(arrival, Linked):
            self._again(now)
        elif isinstance(arrival, Refused):
            log.warning("refused what came from %s: %s", arrival.sender, arrival.error)
        elif isinstance(arrival, Woken) and self.downloads is not None:
            for assembly in self._incoming.values():  # a download has failed, unless its owner wants something
                if assembly.offer.http:
                    assembly.retry()
                    self._ask(assembly, now)
        elif isinstance(arrival, Delivery) and arrival.sender == COORDINATOR:
            self._take(arrival, now)

    def wake(self, now: float) -> None:
        """Ask again for what has not come."""
        if now >= self.rate.free:
            self._send(now)
            while self._hungry and now >= self.rate.free:
                self._ask(self._hungry.pop(0), now)
        if now < self._due:
            return
        self._due = inf
        for assembly in self._incoming.values():
            assembly.retry()
            self._ask(assembly, now, direct=True)
        if self._outgoing is not None and self._job is not None:
            self._offer(now)

    def _take(self, delivery: Delivery, now: float) -> None:
        message = delivery.message
        if isinstance(message, Announce):
            self._announced(message, delivery.federation, now)
        elif delivery.federation != self.transport.federation:
            return
        elif isinstance(message, Assignment):
            self._assigned(message, now)
        elif isinstance(message, Chunk):
            self._chunk(message, now)
        elif isinstance(message, Want):
            self._wanted(message, now)
        elif isinstance(message, Receipt):
            self._receipt(message)
        elif isinstance(message, Farewell):
            self._ended(message, now)
        elif isinstance(message, Pause):
            self.rest = now + message.seconds
            self._tell(f"waiting: {message.reason}")
        elif isinstance(message, Refusal):
            log.warning("the coordinator refused: %s %s", message.reason, message.detail)
            self.on_news(f"refused: {message.reason} {message.detail}".rstrip())

    def _tell(self, text: str) -> None:
        """Tell the owner, but not the same thing again and again."""
        if text != self._told:
            self._told = text
            self.on_news(text)

    @property
    def resting(self) -> bool:
        """Whether there is nothing to do, and nothing more to hear of."""
        return self.rest is not None and self._job is None

    def relink(self, transport: Transport) -> None:
        """Go on with another link, after a sleep: what is to be done follows from the Hello at `Linked`."""
        transport.federation = self.transport.federation
        self.transport, self.rest, self._due = transport, None, inf

    # -------------------------------------------------------------- finding it

    def _announced(self, message: Announce, federation: str, now: float) -> None:
        ours = self.transport.federation
        if ours and federation != ours:
            return
        if not ours:
            if self.rules.federations and message.name not in self.rules.federations:
                return
            self.transport.federation = federation
        self._federation = message.name
        if message.boot != self._boot or message.state == "finished":
            self._boot = message.boot
            self._hail(now)

    def _hail(self, now: float) -> None:
        """Say that this device is here; what it has to send it offers at once, which saves a round trip."""
        self.transport.send(COORDINATOR, Hello(self.me, self.every))
        if self._outgoing is not None:
            self._offer(now)

    def _again(self, now: float) -> None:
        """After the link was lost: what was under way is asked for and offered again."""
        if not self.transport.federation:
            return
        if self._incoming:
            self.pacing.broke(self._fetched)
        elif self._outgoing is not None and not self._lost:
            self._lost = True
            if self._began < 0:  # not even the offer came through
                self.pacing.broke(0)
        self._fetched = 0
        for assembly in self._incoming.values():
            assembly.retry()
            self._ask(assembly, now)
        self._hail(now)

    # ----------------------------------------------------------------- the job

    def _assigned(self, job: Assignment, now: float) -> None:
        if job.ticket.device != self.name:
            return
        self.rest = None
        pending = self.shelf.pending
        if pending is not None and pending.ticket != job.ticket:
            self.shelf.settle(job.kept)
        if self._job is not None and self._job.ticket == job.ticket and (self._incoming or self._outgoing):
            return  # it is being fetched, or sent, already
        self._job, self._heard = job, now
        self._drop()
        self._keep_only([job.task, job.model])
        self._work(now)

    def _work(self, now: float) -> None:
        """Train when everything is here; what the owner does not want is declined before the model is fetched."""
        job = self._job
        if job is None or not self._here(job.task, now):
            return
        phase = self._accepted(job)
        if phase is None or not self._here(job.model, now):
            return
        self.shelf.enter(f"{self.transport.federation}/{job.ticket.phase}")
        pending = self.shelf.pending
        model: Payload | None = None
        if pending is None or pending.ticket != job.ticket:
            try:
                arrays = self._read(job.model, Model).arrays  # in a file they are not aligned
                model = received(phase, {name: np.require(row, requirements="A") for name, row in arrays.items()})
                self._train(phase, job, model, now)
            except WireError as error:
                self._tell(f"cannot do the task: {error}")
                self._decline(job.ticket, "does not fit")
                return
            except SpecError as error:  # the model is code of somebody's own, and that has failed
                self._tell(f"cannot do the task: {error}")
                self._decline(job.ticket, "training failed")
                return
        assert self.shelf.pending is not None
        self._outgoing, self._began, self._lost = Source(self.shelf.pending.report, self.chunk), -1, False
        self._offer(now)
        if model is not None and phase.kind == "train":  # for predictions; the fleet does not wait for it
            self.shelf.keep(phase.task.model, model["x"], job.ticket.version)

    def _accepted(self, job: Assignment) -> Phase | None:
        """Return the phase that the task body describes, or decline it: it does not fit, or the owner's rules."""
        try:
            if self._phase is not None and self._phase[0] == job.task.digest:
                return self._phase[1]
            phase = decode(self._read(job.task, Work).spec, Phase)
            refusal = self.rules.refusal(self._federation, phase)  # first: what it does not allow is not imported
            if refusal:
                self._tell(f"declined: {refusal}{advice(phase, refusal)}")
                self._decline(job.ticket, refusal)
                return None
            fits(phase, self.shard, self.name)
        except (SpecError, WireError, DataError) as error:
            self._tell(f"cannot do the task: {error}")
            self._decline(job.ticket, "does not fit")
            return None
        self._phase = (job.task.digest, phase)
        return phase

    def _train(self, phase: Phase, job: Assignment, model: Payload, now: float) -> None:
        ticket = job.ticket
        ours, chain = learner(phase), stage(phase)
        state = self.shelf.state or [ours.init(), chain.init()]
        key = Key(phase.seed, self.name, ticket.version, ticket.attempt)
        left = job.seconds - (now - self._heard)
        share = effort(self._seconds, left, self.rules.effort) if phase.partial else 1.0
        log.info("%s version %d", phase.kind, ticket.version)
        began = time.monotonic()
        fit, after = ours.one(model, state[0], self.shard, key, share)
        self._seconds = (time.monotonic() - began) / share
        rows = {name: row[None] for name, row in fit.report.items()}
        encoded, (encoded_state,) = chain.encode(rows, [state[1]], [key])
        arrays = {name: row[0] for name, row in encoded.items()}
        report = Report(ticket, arrays, np.array([fit.weight], np.int64), dict(fit.metrics))
        kept = after is not None or any(part is not None for part in encoded_state)
        if refused(schema(phase), chain.decode(encoded), report.weight)[0]:
            kept = False  # it is left out by its values, so training goes on from the state before it
        self.shelf.hold(ticket, pack_body(report), [after, encoded_state] if kept else None)
        self.reports += 1

    def _decline(self, ticket: Ticket, reason: str) -> None:
        self._job, self._incoming, self._due = None, {}, inf
        self.transport.send(COORDINATOR, Decline(ticket, reason))

    # ------------------------------------------------------------- bodies down

    def _here(self, offer: Offer, now: float) -> bool:
        """Return whether a body is here; begin to fetch it where it is not."""
        if offer.digest in self._bodies or offer.digest in self._incoming:
            return offer.digest in self._bodies
        try:
            assembly = Assembly(offer, self.largest, self.shelf.place(offer.digest) if offer.size > SPOOLED else None)
        except WireError as error:
            log.warning("an offer was refused: %s", error)
            if self._job is not None:
                self._decline(self._job.ticket, "does not fit")
            return False
        if assembly.done:
            self._bodies[offer.digest] = assembly.body
            return True
        self._incoming[offer.digest] = assembly
        self._ask(assembly, now)
        return False

    def _ask(self, assembly: Assembly, now: float, direct: bool = False) -> None:
        """Ask for the next window: from the broker where chunks are retained there, or from the coordinator."""
        self._due = now + RETRY
        offer = assembly.offer
        if now < self.rate.free:
            if assembly not in self._hungry:
                self._hungry.append(assembly)
            return
        assembly.length = min(offer.chunk, self.rate.piece(self.pacing.length))
        if self.rate.limit < inf:
            assembly.room = max(assembly.length, int(self.rate.limit))
        for want in assembly.wants():
            self.rate.took(min(len(want.starts) * want.length, offer.size), now)
            direct = direct or assembly.wrong > 0  # what came was damaged: the coordinator itself has it right
            if self.downloads is not None and not direct and self.downloads.can(offer):
                self.downloads.ask(offer, want, self.transport.federation)
            elif offer.retained and not direct and want.length == offer.chunk:
                self.transport.want_blob(offer.digest, tuple(start // offer.chunk for start in want.starts))
            else:
                self.transport.send(COORDINATOR, want)

    def _chunk(self, chunk: Chunk, now: float) -> None:
        assembly = self._incoming.get(chunk.digest)
        if assembly is None:
            return
        try:
            if assembly.add(chunk):
                self._fetched += len(chunk.data)
                self.pacing.flows(self._fetched)
        except WireError as error:
            log.warning("a chunk was refused: %s", error)
            return
        if not assembly.done:
            self._ask(assembly, now)
            return
        self._bodies[chunk.digest] = assembly.body
        del self._incoming[chunk.digest]
        self._due = now + RETRY if self._incoming else inf
        if self._farewell is not None:
            self._leave()
        else:
            self._work(now)

    def _keep_only(self, offers: list[Offer]) -> None:
        wanted = {offer.digest for offer in offers}
        self._bodies = {digest: body for digest, body in self._bodies.items() if digest in wanted}
        self._incoming = {digest: a for digest, a in self._incoming.items() if digest in wanted}
        self.shelf.keep_bodies(wanted)

    def _read(self, offer: Offer, kind: type[B]) -> B:
        """Return the body of `offer`, which is here; a large one stays on the disk. Raises WireError, KeyError."""
        body = self._bodies[offer.digest]
        return unpack_file(body, kind) if isinstance(body, Path) else unpack_body(body, kind)

    # -------------------------------------------------------------- reports up

    def _offer(self, now: float) -> None:
        assert self._outgoing is not None and self._job is not None
        source = self._outgoing
        whole = source.count == 1 and source.size <= self.rate.piece(self.pacing.length)
        self._queue.clear()  # what is missing is wanted again
        self.transport.send(COORDINATOR, source.offer("report", self._job.ticket, first=whole))
        self._due = now + RETRY

    def _wanted(self, want: Want, now: float) -> None:
        source = self._outgoing
        if source is None or want.digest != source.digest:
            return
        first = min(want.starts, default=source.size)  # nothing is missing: a gateway has it
        if self._lost or self._began < 0:
            if self._lost and self._began >= 0:
                self.pacing.broke(max(0, first - self._began))
            self._began, self._lost = first, False
        else:  # of what was asked for before, half a window may be under way
            self.pacing.flows(first - self._began - WINDOW * CHUNK // 2)
        self._queue += [(start, min(start + want.length, source.size)) for start in want.starts]
        self._due = now + PATIENCE  # the coordinator asks for what it lacks
        self._send(now)

    def _send(self, now: float) -> None:
        """Send what is wanted of the report, as long as the rate allows."""
        while self._queue and self._outgoing is not None and now >= self.rate.free:
            start, stop = self._queue.popleft()
            length = min(self.rate.piece(self.pacing.length), stop - start)
            try:
                self.transport.send(COORDINATOR, self._outgoing.part(start, length))
            except WireError as error:
                log.warning("a chunk was wanted that is not there: %s", error)
                continue
            self.rate.took(length, now)
            if start + length < stop:
                self._queue.appendleft((start + length, stop))

    def _drop(self) -> None:
        """There is nothing to send any more."""
        self._outgoing = None
        self._queue.clear()

    def _receipt(self, receipt: Receipt) -> None:
        pending = self.shelf.pending
        if pending is not None and pending.ticket == receipt.ticket:
            self.shelf.settle(receipt.ticket if receipt.kept else None)
        if self._job is not None and self._job.ticket == receipt.ticket:
            self._job, self._incoming, self._due = None, {}, inf
            self._drop()
        if receipt.reason not in ("", "late", "cancelled", "does not fit"):  # of these the owner knows
            self._tell(f"report left out: {receipt.reason}")

    # ----------------------------------------------------------------- the end

    def _ended(self, farewell: Farewell, now: float) -> None:
        self.shelf.settle(farewell.kept)
        self._job, self._farewell = None, farewell
        self._drop()
        offers = [offer for offer in (farewell.task, farewell.model) if offer is not None]
        self._keep_only(offers)
        for offer in offers:
            self._here(offer, now)
        self._leave()

    def _leave(self) -> None:
        """Keep the last model for predictions, once it is here."""
        farewell = self._farewell
        if farewell is None or self._incoming:
            return
        if farewell.task is not None and farewell.model is not None:
            try:
                phase = decode(self._read(farewell.task, Work).spec, Phase)
                model = self._read(farewell.model, Model)
                if not self.rules.refusal(self._federation, phase):
                    self.shelf.keep(phase.task.model, received(phase, model.arrays)["x"], model.version)
            except (KeyError, WireError, SpecError) as error:
                log.warning("the last model cannot be kept: %s", error)
        self.on_news(f"the federation has ended: {farewell.reason}")
        self.done = True
