"""The agent: one device's side of the conversation. It is told what arrives and what time it is.

It fetches the task and the model it is assigned (`bodies`), trains on its own rows, and sends the report until its
receipt comes (`upload`). Hello puts everything right after any loss: the coordinator answers with what is to be done.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

import numpy as np

from fedthings.aggregate.fold import refused
from fedthings.aggregate.ring import Ring
from fedthings.device.bodies import LARGEST, Bodies
from fedthings.device.downloads import Downloads
from fedthings.device.rules import Rules, advice
from fedthings.device.shelf import Shelf
from fedthings.device.upload import Upload
from fedthings.errors import DataError, SpecError, WireError
from fedthings.federation import Phase, fits, learner, received, schema
from fedthings.learn.data import Shard
from fedthings.learn.learner import cohort
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
from fedthings.outgoing import Outgoing
from fedthings.privacy.keys import public
from fedthings.privacy.shares import scope_of, split
from fedthings.protocol.events import Ticket
from fedthings.spelling import decode
from fedthings.transport.chunks import CHUNK
from fedthings.transport.pacing import Pacing, Rate
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery, Linked, Refused, Transport, Woken
from fedthings.vector import Array, Key, Payload
from fedthings.wire import pack_body

log = logging.getLogger("fedthings.device")

HASTE = 0.8
"""The part of the time left that training may take, where partial work is accepted (Li et al. 2020, Alg. 2)."""


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
        self.rules, self.shelf = rules or Rules(), Shelf(directory)
        self.on_news = on_news or (lambda text: None)
        self.every = every
        self.rest: float | None = None  # until when it was told to stay away
        self.pacing, self.rate = Pacing(chunk), Rate(rate)
        self.bodies = Bodies(transport, self.shelf, self.pacing, self.rate, largest, downloads)
        self.upload = Upload(transport, self.pacing, self.rate, chunk)
        self.done = False
        self.reports = 0
        self.me = secrets.token_hex(8)
        self._boot = ""  # of the coordinator
        self._hailed = False  # whether it has said hello on this link
        self._slept = False  # whether this link follows a sleep, and has not brought its announcement yet
        self._federation = ""  # its name, as the owner knows it
        self._job: Assignment | None = None
        self._deadline = inf  # of the job
        self._farewell: Farewell | None = None
        self._told = ""
        self._seconds = 0.0  # that all of the local work took, when it was last done
        self._phase: tuple[bytes, Phase] | None = None  # digest of the task body, what it says

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds."""
        return min(self.bodies.alarm, self.upload.alarm)

    # ---------------------------------------------------------------- arrivals

    def receive(self, arrival: Arrival, now: float) -> None:
        """Take one arrival at `now` seconds."""
        if isinstance(arrival, Linked):
            self._again(now)
        elif isinstance(arrival, Refused):
            log.warning("refused what came from %s: %s", arrival.sender, arrival.error)
        elif isinstance(arrival, Woken):
            self.bodies.failed(now)
        elif isinstance(arrival, Delivery) and arrival.sender == COORDINATOR:
            self._take(arrival, now)

    def wake(self, now: float) -> None:
        """Ask again for what has not come."""
        self.upload.wake(now)
        self.bodies.wake(now)

    def _take(self, delivery: Delivery, now: float) -> None:
        message = delivery.message
        if isinstance(message, Announce):
            self._announced(message, delivery.federation, now)
        elif delivery.federation != self.transport.federation:
            return
        elif isinstance(message, Assignment):
            self._assigned(message, now)
        elif isinstance(message, Chunk):
            if self.bodies.add(message, now):
                self._go_on(now)
        elif isinstance(message, Want):
            self.upload.wanted(message, now)
        elif isinstance(message, Receipt):
            self._receipt(message, now)
        elif isinstance(message, Farewell):
            self._ended(message, now)
        elif isinstance(message, Pause):
            self.rest = now + message.seconds
            self._tell(f"waiting: {message.reason}")
        elif isinstance(message, Refusal):
            log.warning("the coordinator refused: %s %s", message.reason, message.detail)
            self.on_news(f"refused: {message.reason} {message.detail}".rstrip())
            if message.reason == "not here" and not self._hailed:  # its task may be over since it slept
                self._hail(now)

    def _tell(self, text: str) -> None:
        """Tell the owner, but not the same thing again and again."""
        if text != self._told:
            self._told = text
            self.on_news(text)

    @property
    def resting(self) -> bool:
        """Whether there is nothing to do, and nothing more to hear of."""
        return self.rest is not None and self._job is None

    def unlink(self) -> None:
        """Fetch nothing more over this link: the radio goes off."""
        self.bodies.unlink()

    def relink(self, transport: Transport) -> None:
        """Go on with another link, after a sleep; at `Linked` it asks what to do, or goes on with what it was doing."""
        transport.federation = self.transport.federation
        self.transport, self.rest, self._slept = transport, None, True
        self.bodies.relink(transport)
        self.upload.relink(transport)

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
        greeted, self._slept = self._slept and self._hailed, False  # by the hello that this link began with
        if message.boot != self._boot or (message.state == "finished" and not greeted):
            self._boot = message.boot
            self._hail(now)

    def _hail(self, now: float) -> None:
        """Say that this device is here; what it has to send it offers at once, which saves a round trip."""
        self._hailed = True
        self.transport.send(COORDINATOR, Hello(self.me, self.every))
        self.upload.offer(now)

    def _again(self, now: float) -> None:
        """After the link was lost: what was under way is asked for and offered again.

        After a sleep a device that knows what to do does not ask: each message keeps the radio on.
        """
        self._hailed = False
        if not self.transport.federation:
            return
        self.upload.broke()
        self.bodies.again(now)
        if self._slept and self._job is not None and now < self._deadline:
            self.upload.offer(now)
        else:
            self._hail(now)

    # ----------------------------------------------------------------- the job

    def _assigned(self, job: Assignment, now: float) -> None:
        if job.ticket.device != self.name:
            return
        self.rest, self._deadline = None, now + job.seconds
        pending = self.shelf.pending
        if pending is not None and pending.ticket != job.ticket:
            self.shelf.settle(job.kept)
        if self._job is not None and self._job.ticket == job.ticket and (self.bodies.coming or self.upload.going):
            return  # it is being fetched, or sent, already
        self._job = job
        self.upload.drop()
        self.bodies.keep_only([job.task, job.model])
        self._work(now)

    def _go_on(self, now: float) -> None:
        """A body that was waited for is here."""
        if self._farewell is not None:
            self._leave()
        else:
            self._work(now)

    def _here(self, offer: Offer, now: float) -> bool:
        """Return whether a body is here; begin to fetch it where it is not, or decline the job that needs it."""
        try:
            return self.bodies.here(offer, now)
        except WireError as error:
            log.warning("an offer was refused: %s", error)
            if self._job is not None:
                self._decline(self._job.ticket, "does not fit")
            return False

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
                arrays = self.bodies.read(job.model, Model).arrays  # in a file they are not aligned
                model = received(phase, {name: np.require(row, requirements="A") for name, row in arrays.items()})
                self._train(phase, job, model)
            except WireError as error:
                self._tell(f"cannot do the task: {error}")
                self._decline(job.ticket, "does not fit")
                return
            except SpecError as error:  # the model is code of somebody's own, and that has failed
                self._tell(f"cannot do the task: {error}")
                self._decline(job.ticket, "training failed")
                return
        assert self.shelf.pending is not None
        self.upload.begin(job.ticket, self.shelf.pending.report, now)
        if model is not None and phase.kind == "train":  # for predictions; the fleet does not wait for it
            self.shelf.keep(phase.task.model, model["x"], job.ticket.version)

    def _accepted(self, job: Assignment) -> Phase | None:
        """Return the phase that the task body describes, or decline it: it does not fit, or the owner's rules."""
        try:
            if self._phase is not None and self._phase[0] == job.task.digest:
                return self._phase[1]
            phase = decode(self.bodies.read(job.task, Work).spec, Phase)
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

    def _train(self, phase: Phase, job: Assignment, model: Payload) -> None:
        ticket = job.ticket
        ours, outgoing = learner(phase), Outgoing(phase)
        state = self.shelf.state or [ours.init(), outgoing.stage.init()]
        key = Key(phase.seed, self.name, ticket.version, ticket.attempt)
        effort = self._effort(job.seconds) if phase.strategy.partial and phase.kind == "train" else 1.0
        log.info("%s version %d", phase.kind, ticket.version)
        began = time.monotonic()
        fit, after = ours.one(model, state[0], self.shard, key, effort)
        self._seconds = (time.monotonic() - began) / effort
        sent, (encoded_state,), (unseen,) = outgoing.encode(cohort(fit), [state[1]], [key])
        arrays = {name: rows[0] for name, rows in sent.report.items()}
        metrics = {name: rows[0] for name, rows in sent.metrics.items()}
        kept = after is not None or any(part is not None for part in encoded_state)
        if outgoing.ring is not None:
            arrays = self._split(phase, outgoing.ring, job, arrays)
        elif refused(schema(phase), outgoing.stage.decode(sent.report), sent.weight)[0]:
            kept = False  # it is left out by its values, so training goes on from the state before it
        if unseen:
            kept = False
            self._tell(f"report left out: {unseen}")
        report = Report(ticket, arrays, sent.weight, metrics)
        self.shelf.hold(ticket, pack_body(report), [after, encoded_state] if kept else None)
        self.reports += 1

    def _split(self, phase: Phase, ring: Ring, job: Assignment, arrays: dict[str, Array]) -> dict[str, Array]:
        """Return the coordinator's share of the report `arrays`, and the helper's, sealed."""
        assert phase.secure is not None
        scope = scope_of(phase.secure, ring, self.transport.federation, job.task.digest)
        return split(arrays, public(phase.secure.helper, "secure.helper"), scope, job.ticket)

    def _effort(self, seconds: float) -> float:
        """Return the share of the local work that the owner allows and the deadline leaves time for."""
        fits_in = HASTE * seconds / self._seconds if self._seconds else 1.0
        return max(0.01, min(self.rules.effort, fits_in))

    def _decline(self, ticket: Ticket, reason: str) -> None:
        self._job = None
        self.bodies.stop()
        self.transport.send(COORDINATOR, Decline(ticket, reason))

    # ------------------------------------------------------------- the receipt

    def _receipt(self, receipt: Receipt, now: float) -> None:
        pending = self.shelf.pending
        if pending is not None and pending.ticket == receipt.ticket:
            self.shelf.settle(receipt.ticket if receipt.kept else None)
        if self._job is not None and self._job.ticket == receipt.ticket:
            self._job = None
            self.bodies.stop()
            self.upload.drop()
            if receipt.seconds is None and not self._hailed:  # it was not needed any more: what is?
                self._hail(now)
        if receipt.seconds is not None and self._job is None:  # also of what it has declined
            self.rest = now + receipt.seconds
        if receipt.reason not in ("", "late", "cancelled", "does not fit"):  # of these the owner knows
            self._tell(f"report left out: {receipt.reason}")

    # ----------------------------------------------------------------- the end

    def _ended(self, farewell: Farewell, now: float) -> None:
        self.shelf.settle(farewell.kept)
        self._job, self._farewell = None, farewell
        self.upload.drop()
        offers = [offer for offer in (farewell.task, farewell.model) if offer is not None]
        self.bodies.keep_only(offers)
        for offer in offers:
            self._here(offer, now)
        self._leave()

    def _leave(self) -> None:
        """Keep the last model for predictions, once it is here."""
        farewell = self._farewell
        if farewell is None or self.bodies.coming:
            return
        if farewell.task is not None and farewell.model is not None:
            try:
                phase = decode(self.bodies.read(farewell.task, Work).spec, Phase)
                model = self.bodies.read(farewell.model, Model)
                if not self.rules.refusal(self._federation, phase):
                    self.shelf.keep(phase.task.model, received(phase, model.arrays)["x"], model.version)
            except (KeyError, WireError, SpecError) as error:
                log.warning("the last model cannot be kept: %s", error)
        self.on_news(f"the federation has ended: {farewell.reason}")
        self.done = True
