"""The agent: one device's side of the conversation with one federation. It is told what arrives and what time it is.

It fetches the task and the model it is assigned (`bodies`), trains on its own rows, and sends the report until its
receipt comes (`upload`). Hello puts everything right after any loss: the coordinator answers with what is to be done.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path

from fedthings.bodies import Work
from fedthings.device.acceptance import UNFIT, WORDS, Declined, accepted, does
from fedthings.device.bodies import LARGEST, Bodies
from fedthings.device.downloads import Downloads
from fedthings.device.kept import aligned, keep
from fedthings.device.member import Member
from fedthings.device.report import made
from fedthings.device.rules import Rules
from fedthings.device.shelf import Shelf
from fedthings.device.spending import Spending
from fedthings.device.training import Training
from fedthings.device.upload import Upload
from fedthings.errors import SpecError, WireError
from fedthings.learn.data import Shard
from fedthings.learn.learner import Fit
from fedthings.messages import (
    Announce,
    Assignment,
    Chunk,
    Decline,
    Farewell,
    Hello,
    Neighbours,
    Offer,
    Pause,
    Receipt,
    Refusal,
    Shares,
    Unmask,
    Want,
)
from fedthings.phase import Phase, received
from fedthings.privacy.secagg import Scope
from fedthings.privacy.signing import Signing
from fedthings.protocol.events import Ticket
from fedthings.spelling import decode
from fedthings.stage import State
from fedthings.transport.chunks import CHUNK
from fedthings.transport.pacing import Pacing, Rate
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery, Linked, Refused, Transport, Woken
from fedthings.vector import Payload
from fedthings.wire import pack_body

log = logging.getLogger("fedthings.device")


class Agent:
    """`receive` an arrival, `wake` at `alarm`; `done` when the federation has ended.

    `transport` bears the federation's id, `shard` holds the device's own rows, `directory` is where it keeps state and
    model (None: memory only). One that sleeps wakes `every` so many seconds (0: it stays linked); it is `resting` when
    its radio may go off. `signing` is by its identity; `spending` counts what its answers cost, in all federations.
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
        rate: Rate | None = None,
        downloads: Downloads | None = None,
        on_news: Callable[[str], None] | None = None,
        every: float = 0.0,
        signing: Signing | None = None,
        spending: Spending | None = None,
    ) -> None:
        self.name, self.shard, self.transport = name, shard, transport
        self.rules, self.shelf = rules or Rules(), Shelf(directory)
        self.on_news = on_news or (lambda text: None)
        self.every = every
        self.rest: float | None = None  # until when it was told to stay away
        self.pacing, self.rate = Pacing(chunk), rate or Rate()
        self.bodies = Bodies(transport, self.shelf, self.pacing, self.rate, largest, downloads)
        self.upload = Upload(transport, self.pacing, self.rate, chunk)
        self.member = Member(transport, directory, signing)
        self.training, self.spending = Training(), spending or Spending(directory)
        self.done = False
        self.heard = False  # whether the coordinator has said anything to it
        self.reports = 0
        self.me = secrets.token_hex(8)
        self._boot = ""  # of the coordinator
        self._hailed = False  # whether it has said hello on this link
        self._slept = False  # whether this link follows a sleep, and has not brought its announcement yet
        self.federation = ""  # its name, as the owner knows it
        self._job: Assignment | None = None
        self._heard = 0.0  # when it was assigned
        self._farewell: Farewell | None = None
        self._told = ""
        self._phase: tuple[bytes, Phase] | None = None  # digest of the task body, what it says

    @property
    def busy(self) -> bool:
        """Whether it has a task."""
        return self._job is not None

    @property
    def until(self) -> float:
        """When the time for its task is over, in seconds; -inf where it has none."""
        return -inf if self._job is None else self._heard + self._job.seconds

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds."""
        return min(self.bodies.alarm, self.upload.alarm, self.member.alarm)

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
        self.member.wake(now)

    def _take(self, delivery: Delivery, now: float) -> None:
        message = delivery.message
        if delivery.federation != self.transport.federation:
            return
        self.heard = self.heard or not isinstance(message, Announce)
        if isinstance(message, Announce):
            self._announced(message, now)
        elif isinstance(message, Assignment):
            self._assigned(message, now)
        elif isinstance(message, Chunk):
            if self.bodies.add(message, now):
                self._go_on(now)
        elif isinstance(message, Want):
            self.upload.wanted(message, now)
        elif isinstance(message, Neighbours | Shares | Unmask):
            self._seated(message, now)
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
        self.transport, self.rest, self._slept = transport, None, True
        self.bodies.relink(transport)
        self.member.relink(transport)
        self.upload.relink(transport)

    # ----------------------------------------------------------------- presence

    def _announced(self, message: Announce, now: float) -> None:
        self.federation = message.name
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
        if not self._boot:
            return  # it is announced yet who coordinates
        self.upload.broke()
        self.bodies.again(now)
        if self._slept and self._job is not None and now < self.until:
            self.upload.offer(now)
        else:
            self._hail(now)

    # ----------------------------------------------------------------- the job

    def _assigned(self, job: Assignment, now: float) -> None:
        if job.ticket.device != self.name:
            return
        self.rest = None
        pending = self.shelf.pending
        if pending is not None and pending.ticket != job.ticket:
            self.shelf.settle(job.kept)
        if self._job is not None and self._job.ticket == job.ticket and (self.bodies.coming or self.upload.going):
            return  # it is being fetched, or sent, already
        self._job, self._heard = job, now
        self.upload.drop()
        self.bodies.keep_only(job)
        self._work(now)

    def _go_on(self, now: float) -> None:
        """A body that was waited for is here."""
        if self._farewell is not None:
            self._leave(now)
        else:
            self._work(now)

    def _here(self, offer: Offer, now: float) -> bool:
        """Return whether a body is here; begin to fetch it where it is not, or decline the job that needs it."""
        try:
            return self.bodies.here(offer, now)
        except WireError as error:
            log.warning("an offer was refused: %s", error)
            if self._job is not None:
                self._decline(self._job.ticket, UNFIT)
            return False

    def _work(self, now: float) -> None:
        """Train when everything is here; what the owner does not want is declined before the model is fetched."""
        job = self._job
        if job is None or not self._here(job.task, now):
            return
        phase, way = self._accepted(job), self.bodies.way(job)
        if phase is None or way is None:
            return
        scope, hidden = Scope(self.transport.federation, job.task.digest), self.shelf.holds(job.ticket)
        seated = hidden or self.member.join(phase.secure, scope, job.ticket, now)  # while the model comes
        if not self._here(way, now) or not seated:
            return
        self.shelf.enter(f"{self.transport.federation}/{job.ticket.phase}", phase.kind == "evaluate")
        model: Payload | None = None
        if not self.shelf.holds(job.ticket):
            if refusal := self.spending.refusal(phase, self.rules.epsilon):
                self._decline(job.ticket, refusal, f"declined: {refusal}")
                return
            try:
                found, body = self.bodies.model(way, phase)
                model = received(phase, aligned(found.arrays))
                self._train(phase, job, model, body, now)
            except (WireError, SpecError) as error:
                if isinstance(error, WireError) and way != self.bodies.way(job):
                    log.warning("all of the model is fetched: %s", error)
                    self._work(now)
                    return
                why = UNFIT if isinstance(error, WireError) else "training failed"  # by code of somebody's own
                self._decline(job.ticket, why, f"cannot do the task: {error}")
                return
        if self.shelf.pending is not None:  # an edge's rounds take their time
            self.upload.begin(job.ticket, self.shelf.pending.report, now)
        if model is not None and phase.kind == "train":  # for predictions; the fleet does not wait for it
            keep(self.shelf, self.name, phase, model, job.ticket.version)

    def _seated(self, message: Neighbours | Shares | Unmask, now: float) -> None:
        """Take what is said of the set it is in; what it should not do it does not, and says so."""
        try:
            agreed = self.member.take(message, now)
        except WireError as error:
            self._tell(f"will not hide its report like this: {error}")
            if self._job is not None and self._job.ticket == message.ticket:
                self._decline(message.ticket, error.reason)
            return
        if agreed and self._job is not None:
            self._work(now)

    def _accepted(self, job: Assignment) -> Phase | None:
        """Return the phase that the task body describes, or decline it: it does not fit, or the owner's rules."""
        if self._phase is None or self._phase[0] != job.task.digest:
            phase = accepted(partial(self.bodies.read, job.task, Work), self.rules, self.federation, self._fits)
            if isinstance(phase, Declined):
                self._decline(job.ticket, phase.reason, phase.told)
                return None
            self._phase = (job.task.digest, phase)
        return self._phase[1]

    def _fits(self, phase: Phase) -> None:
        does(self.shard, self.name, self.every > 0, phase)

    def _train(self, phase: Phase, job: Assignment, model: Payload, body: bytes, now: float) -> None:
        log.info("%s version %d", phase.kind, job.ticket.version)
        self.spending.spend(phase, self._tell)  # first: what has left cannot be taken back
        ticket, state, left = job.ticket, self.shelf.state, self.until - now
        fit, after = self.training.train(phase, ticket, model, state, self.shard, left, self.rules.effort)
        self._hold(phase, ticket, fit, after, body)

    def _hold(self, phase: Phase, ticket: Ticket, fit: Fit, after: State, body: bytes) -> None:
        """Make the report of what came of the work, and keep it until its receipt."""
        assert self._phase is not None
        before = self.shelf.state[1] if self.shelf.state else None
        federation, digest = self.transport.federation, self._phase[0]
        report, state, counts, unseen = made(phase, ticket, fit, before, federation, digest, self.member)
        if unseen:
            self._tell(f"report left out: {unseen}")
        keeps = counts and (after is not None or any(part is not None for part in state))
        self.shelf.hold(ticket, pack_body(report), [after, state] if keeps else None, body)
        self.reports += 1

    def _decline(self, ticket: Ticket, reason: str, told: str = "") -> None:
        """Decline for this `reason`, of which the owner is `told`."""
        if told:
            self._tell(told)
        self._job = None
        self.bodies.stop()
        self.member.stop()
        self.transport.send(COORDINATOR, Decline(ticket, reason.removeprefix(f"{self.name}: ")[:WORDS]))

    # ------------------------------------------------------------- the receipt

    def _receipt(self, receipt: Receipt, now: float) -> None:
        if self.shelf.holds(receipt.ticket):
            self.shelf.settle(receipt.ticket if receipt.kept else None)
        if self._job is not None and self._job.ticket == receipt.ticket:
            self._job = None
            self.bodies.stop()
            self.member.stop()
            self.upload.drop()
            if receipt.seconds is None and not self._hailed:  # it was not needed any more: what is?
                self._hail(now)
        if receipt.seconds is not None and self._job is None:  # also of what it has declined
            self.rest = now + receipt.seconds
        if receipt.reason not in ("", "late", "cancelled", UNFIT):  # of these the owner knows
            self._tell(f"report left out: {receipt.reason}")

    # ----------------------------------------------------------------- the end

    def _ended(self, farewell: Farewell, now: float) -> None:
        self.shelf.settle(farewell.kept)
        self._job, self._farewell = None, farewell
        self.upload.drop()
        self.bodies.keep_only(farewell)
        self._leave(now)

    def _leave(self, now: float) -> None:
        """Keep the last model for predictions, once it is here."""
        farewell = self._farewell
        if farewell is None:
            return
        task, way = farewell.task, self.bodies.way(farewell)
        here = [self._here(offer, now) for offer in (task, way) if offer is not None]  # both at once
        if not all(here) and self.bodies.coming:
            return
        if task is not None and way is not None:
            try:
                work = self.bodies.read(task, Work)
                phase = decode(work.spec, Phase)
                model, _ = self.bodies.model(way, phase)
                if not self.rules.refusal(self.federation, phase):
                    self._last(work.phase, phase, model.version, received(phase, aligned(model.arrays)))
            except (KeyError, WireError, SpecError) as error:
                if way != self.bodies.way(farewell):
                    self._leave(now)
                    return
                log.warning("the last model cannot be kept: %s", error)
        self.on_news(f"the federation has ended: {farewell.reason}")
        self.done = True

    def _last(self, number: int, phase: Phase, version: int, model: Payload) -> None:
        """Keep the last model, `version` of the phase with this number."""
        if not phase.query:
            keep(self.shelf, self.name, phase, model, version)
