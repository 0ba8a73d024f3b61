"""The gateway: a device to what is above it, a coordinator to what is below. It is told what arrives and the time.

It relays hellos, assignments and receipts, serves tasks and models from its cache, holds reports, and sends
sums of them up. Who is in a version, and which report is kept, only the coordinator decides (docs/gateways.md).
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Collection
from math import inf
from pathlib import Path

from msgspec.structs import replace

from fedthings.device.bodies import RETRY
from fedthings.device.rules import Rules
from fedthings.device.upload import Upload
from fedthings.errors import WireError
from fedthings.gateway import above, below
from fedthings.gateway.cache import Cache
from fedthings.gateway.hold import Hold, Version
from fedthings.gateway.tasks import Tasks
from fedthings.messages import (
    Announce,
    Assignment,
    Decline,
    Envelope,
    Farewell,
    Hello,
    Offer,
    Receipt,
    Refusal,
    Relay,
    Verdict,
    Want,
)
from fedthings.protocol.events import Ticket
from fedthings.server.gateways import hollow
from fedthings.transport.chunks import CHUNK
from fedthings.transport.pacing import Pacing, Rate
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery, Linked, Refused, Transport, Unlinked
from fedthings.wire import pack

log = logging.getLogger("fedthings.gateway")

INTERVAL = 1.0
"""Seconds that a report waits for others of its version, unless set otherwise."""
MODELS = 4
"""Models kept beside those that open assignments name."""


class Gateway:
    """`from_above` and `from_below` take arrivals, `wake` at `alarm`.

    `up` links it, under its own name, to the coordinator's broker or that of a gateway above; `down` is the
    coordinator's end of its own broker or topic root. A sum goes up at `count` tickets (0: no count), after
    `interval` seconds, or when nothing more is awaited. `allowed` says who may take part, `held` who gets no
    work, `gateways` who of them may speak for others. Raises StoreError where `directory` cannot be written.
    """

    def __init__(
        self,
        up: Transport,
        down: Transport,
        directory: Path,
        *,
        count: int = 0,
        interval: float = INTERVAL,
        allowed: Callable[[str], bool] = lambda name: True,
        held: Callable[[str], bool] = lambda name: False,
        gateways: Collection[str] = (),
        rules: Rules | None = None,
        chunk: int = CHUNK,
        on_news: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.up, self.down, self.directory = up, down, directory
        self.count, self.interval, self.chunk = count, interval, chunk
        self.allowed, self.held, self.gateways = allowed, held, gateways
        self.rules, self.on_news = rules or Rules(), on_news
        self.tasks = Tasks()
        self.announced: Announce | None = None
        self.epoch = secrets.token_hex(4)  # new with each link: what was said before may be lost
        self.present: dict[str, Hello] = {}  # device -> what it has said
        self.resting: dict[str, Hello] = {}  # who is in quarantine, and has said Hello
        self.routes: dict[str, str] = {}  # device -> the gateway below that it came by
        self.assigned: dict[str, tuple[Assignment, float]] = {}  # device -> what it works on, until when
        self.waiting: dict[
            str, tuple[Assignment | Farewell, float]
        ] = {}  # for bodies: what is to be said, when it came
        self.receipts: dict[str, Receipt] = {}  # device -> the last that it was given
        self.refusals: Counter[str] = Counter()
        self.merged = self.sums = 0  # reports that the coordinator has from here, and the subtotals they came in
        self.wanting: list[tuple[str, Want]] = []  # who below waits for which part of a model
        self._models: list[bytes] = []  # newest last
        self._above: dict[bytes, Offer] = {}  # models that are to be had there, and have not been wanted here
        self.pacing = Pacing(chunk)  # of the link upward
        self.upload = Upload(up, self.pacing, Rate(), chunk)  # of the sum under way
        self.ask_at = inf
        self.now = self.began = 0.0

    # -------------------------------------------------------------- arrivals

    def from_above(self, arrival: Arrival, now: float) -> None:
        """Take one arrival of the link upward, at `now` seconds."""
        self.now, self.began = now, self.began or now
        if isinstance(arrival, Linked):
            self.epoch = secrets.token_hex(4)  # the announcement that follows makes every device say Hello
            if self.bound:
                self.cache.again()
            self.upload.broke()
        elif isinstance(arrival, Unlinked):
            self.upload.relink(self.up)
        elif isinstance(arrival, Refused):
            log.warning("refused what came from above: %s", arrival.error)
        elif isinstance(arrival, Delivery) and arrival.sender == COORDINATOR:
            try:
                above.take(self, arrival.message, arrival.federation)
            except WireError as error:
                self.refusals[error.reason] += 1
                log.warning("refused what came from above: %s", error)
        self._sum()

    def from_below(self, arrival: Arrival, now: float) -> None:
        """Take one arrival of the link downward, at `now` seconds."""
        self.now, self.began = now, self.began or now
        if isinstance(arrival, Linked):
            self.epoch = secrets.token_hex(4)
            if self.bound:
                self.cache.publish()
            self.announce()
        elif isinstance(arrival, Refused):
            self._refuse(arrival.sender, arrival.error)
        elif isinstance(arrival, Delivery):
            try:
                below.take(self, arrival.sender, arrival.message, arrival.federation)
            except WireError as error:
                self._refuse(arrival.sender, error)
        self._sum()

    def _refuse(self, sender: str, error: WireError) -> None:
        self.refusals[error.reason] += 1
        count = self.refusals[error.reason]
        if count & (count - 1) == 0:  # a flood of garbage is not to become a flood of lines
            log.warning("refused a message from %s: %s (the %d. of its kind)", sender, error, count)
        if sender not in ("", COORDINATOR):
            self.down.send(sender, Refusal(error.reason, str(error)[:200]))

    # ------------------------------------------------------------------ time

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds."""
        due = min(self.ask_at, self.upload.alarm)
        if self._may_sum:
            due = min(due, *(since + self.interval for since in self.hold.since.values()), inf)
        if self.bound:
            due = min(due, self.hold.turns.alarm)
        return due

    def wake(self, now: float) -> None:
        """Ask again for what has not come, and send sums that have waited long enough."""
        self.now = now
        if now >= self.ask_at:
            self.ask_at = inf
            self.ask(direct=True)
        if now >= self.upload.alarm:
            self.again()
        if self.bound and now >= self.hold.turns.alarm:
            self.take_turns()
        self._sum()

    def ask(self, direct: bool = False) -> None:
        """Ask for the bodies on their way, `direct` once more and of the coordinator itself."""
        if direct:
            self.cache.retry(direct)
        else:
            self.cache.ask()
        self.ask_at = self.now + RETRY if self.cache.fetching else inf

    # ------------------------------------------------------------ federation

    @property
    def bound(self) -> bool:
        """Whether it takes part in a federation."""
        return bool(self.up.federation)

    def bind(self, federation: str, name: str) -> None:
        """Take part in `federation`, called `name`, from now on, with what is in the directory of it."""
        self.tasks = Tasks(name, self.rules)
        self.up.federation = self.down.federation = federation
        place = self.directory / federation
        self.cache = Cache(place / "bodies", self.up, self.down, self.pacing, self.chunk)
        self.hold = Hold(place)
        for digest in self.cache.tasks():
            self.tasks.learn(digest, self.cache.body(digest))
        for ticket in [t for t in self.hold.reports.values() if self.tasks.known(t.phase) is None]:
            self.hold.drop(ticket)

    def announce(self) -> None:
        """Say below what is going on above; retained at the broker."""
        message = self.announced
        if message is not None:
            boot = f"{message.boot}.{self.epoch}"
            self.down.announce(Announce(boot, message.name, message.state, message.phase, message.version))

    def forget(self) -> None:
        """Leave nothing of the federation at the broker below."""
        self.cache.keep_only(())

    @property
    def done(self) -> bool:
        """Whether the federation has ended, and everyone below who was there has its last model."""
        return self.announced is not None and self.announced.state == "finished" and not self.present

    # --------------------------------------------------------------- downward

    def tell(self, device: str, message: Envelope) -> None:
        """Send `message` to `device`, by way of the gateway below that it came by."""
        via = self.routes.get(device)
        if via is None:
            self.down.send(device, message)
        else:
            self.down.send(via, Relay(device, pack(hollow(message), self.down.federation)))

    def take_turns(self) -> None:
        """Ask those for their next window whose turn it is."""
        for device, want in self.hold.turns.wants(self.now, self.hold.upload):
            self.down.send(device, want)

    def pass_on(self, device: str, message: Assignment | Farewell, came: float) -> None:
        """Pass on what names bodies once they are here, with offers of one's own; `came` is when it came."""
        # What differs is as good for all that hold the same; all of the model is fetched when one does not (`fetch`).
        offers = [offer for offer in (message.task, message.delta or message.model) if offer is not None]
        try:
            lacking = [offer for offer in offers if not self.cache.here(offer)]
            named = None if lacking else message.task
            refusal = "" if named is None else self.tasks.learn(named.digest, self.cache.body(named.digest))
        except WireError as error:
            lacking, refusal = [], error.reason
        if lacking:
            self.waiting[device] = message, came
            self.ask()
            return
        self.waiting.pop(device, None)
        told = (message.task, message.delta, message.model)
        task, delta, model = (None if offer is None or refusal else self._ours(offer) for offer in told)
        if isinstance(message, Farewell):
            self.tell(device, Farewell(message.reason, task, model, message.kept, delta))
        elif task is None or model is None:
            self.assigned.pop(device, None)
            self.relay(device, Decline(message.ticket, f"gateway: {refusal}"))
        else:
            left = max(0.0, message.seconds - (self.now - came))
            self.tell(device, Assignment(message.ticket, task, model, left, message.kept, delta))

    def _ours(self, offer: Offer) -> Offer:
        if offer.what == "model" and offer.digest not in self._models:
            self._models.append(offer.digest)
            self._forget()
        if self.cache.has(offer.digest):
            return self.cache.offer(offer.digest)
        self._above[offer.digest] = offer
        return replace(offer, retained=False, first=None, http="", token="")

    def fetch(self, sender: str, want: Want) -> bool:
        """Note that `sender` wants of a model that is not here, and fetch it; return whether it is to be had above."""
        offer = self._above.get(want.digest)
        if offer is None:
            return False
        self.wanting.append((sender, want))
        if self.cache.here(offer):
            self.serve()
        else:
            self.ask()
        return True

    def serve(self) -> None:
        """Send what is waited for of models that are here by now."""
        waiting, self.wanting = self.wanting, []
        for sender, want in waiting:
            if self.cache.has(want.digest):
                self._above.pop(want.digest, None)
                below.wanted(self, sender, want)
            elif want.digest in self._above:
                self.wanting.append((sender, want))

    def _forget(self) -> None:
        """Keep the newest models, and those that a device may still fetch."""
        messages = [entry[0] for entry in (*self.assigned.values(), *self.waiting.values())]
        needed = {offer.digest for m in messages for offer in (m.task, m.model, m.delta) if offer is not None}
        self._models = [d for i, d in enumerate(self._models) if d in needed or i >= len(self._models) - MODELS]
        self._above = {digest: offer for digest, offer in self._above.items() if digest in {*needed, *self._models}}
        self.cache.keep_only({*needed, *self._models, *self.tasks.digests})

    def settle(self, receipt: Receipt) -> None:
        """Pass on a receipt: its report need not be held any more."""
        ticket = receipt.ticket
        self.hold.drop(ticket)
        self.close(ticket)
        self.receipts[ticket.device] = receipt
        self.tell(ticket.device, receipt)

    def close(self, ticket: Ticket) -> None:
        """Note that nothing more is awaited of `ticket`."""
        entry = self.assigned.get(ticket.device)
        if entry is not None and entry[0].ticket == ticket:
            del self.assigned[ticket.device]

    # ----------------------------------------------------------------- upward

    def relay(self, device: str, message: Envelope) -> bool:
        """Send up what `device` says; False where the link is down."""
        return self.up.send(COORDINATOR, Relay(device, pack(message, self.up.federation)))

    @property
    def _may_sum(self) -> bool:
        return self.bound and self.announced is not None and self.up.linked and self.hold.out is None

    def _sum(self) -> None:
        """Send up what is due: one sum at a time, the oldest first."""
        if not self._may_sum:
            return
        for version, since in sorted(self.hold.since.items(), key=lambda item: item[1]):
            known = self.tasks.known(version[0])
            if known is None or not self._due(version, since):
                continue
            self.hold.out = self.hold.sum(version, known.partial)
            if self.hold.out is not None:
                self.hold.most = 0
                self.upload.begin(None, self.hold.out.body, self.now)
                return
            digest = self.hold.smallest(version)
            found = None if digest is None else self.hold.release(digest)
            if found is not None and digest is not None:  # too large for what the version still takes
                self.down.send(found.sender, Verdict(digest, False, most=self.hold.most))

    def _due(self, version: Version, since: float) -> bool:
        if self.hold.most or self.now >= since + self.interval:
            return True
        if self.count and len(self.hold.tickets(version)) >= self.count:
            return True
        return not any(
            job.ticket[:2] == version and device in self.present and self.now < until and not self.hold.has(job.ticket)
            for device, (job, until) in self.assigned.items()
        )

    def again(self) -> None:
        """Offer the sum under way again, or another where some of its tickets are dealt with by now."""
        out = self.hold.out
        if out is not None and all(self.hold.has(ticket) for ticket in out.reasons):
            self.upload.offer(self.now)
        else:
            self.hold.out = None
            self.upload.drop()
