"""The leader's side of two servers: what the coordinator keeps for its helper, asks it, and has from it.

Reports lie in the spool as always; here are their sealed seeds until the helper has answered for the set that they
are in. The answer is a file until the checkpoint, like a report (law 8).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedthings.aggregate.ring import Ring, X
from fedthings.bodies import Batch, Sealed, Share, Subtotal
from fedthings.errors import WireError
from fedthings.identity.keys import held, spelled
from fedthings.messages import Bye, Chunk, Envelope, Hello, Offer, Refusal, Verdict, Want
from fedthings.partial import alike
from fedthings.privacy import sketch
from fedthings.privacy.distributed import written
from fedthings.privacy.keys import public, public_of
from fedthings.privacy.secagg import SecAgg
from fedthings.privacy.shares import (
    Channel,
    Hidden,
    TwoServers,
    about,
    commitment,
    joined,
    scope_of,
)
from fedthings.protocol import events
from fedthings.protocol.events import Ticket
from fedthings.protocol.settlement import Settlement
from fedthings.server import reception
from fedthings.subtotal import hidden
from fedthings.transport.chunks import Assembly, Source
from fedthings.vector import Payload
from fedthings.wire import pack_body, unpack_body

if TYPE_CHECKING:
    from fedthings.engine import Engine
    from fedthings.server.service import Service

KEY_FILE = "leader.key"
RETRY = (5.0, 60.0)
"""Seconds after which the helper is asked again: doubled from the first to the last while nothing comes."""


class Leader:
    """It knows one set at a time, that of `service.settlement`. Raises StoreError, SpecError."""

    def __init__(self, spec: TwoServers, directory: Path, fsync: bool = False) -> None:
        self.spec, self._directory, self._fsync = spec, directory / "shares", fsync
        self._directory.mkdir(parents=True, exist_ok=True)
        self._key = held(directory / KEY_FILE)
        self.public = public_of(self._key)
        self._channel = Channel(self._key, public(spec.helper, "secure.helper"))
        self.alarm = inf  # when it is asked again
        self._pause = RETRY[0]
        self.refusal = ""  # why the helper has not answered, where it has said
        self.answer = b""  # the file that the version being made has its sum from
        self._kept: dict[Ticket, Hidden] = {}
        self.within: dict[Ticket, bytes] = {}  # the subtotal that a report has come in
        self.suspects: set[str] = set()  # devices of which the helper has refused a report that came in one
        self._batch = b""  # what stands for the set that is asked about
        self.sender = spec.name  # whose messages are for it
        self._draw = b""  # what we add to the draw of the norms that are asked for; "" while the sum is
        self._tickets: tuple[Ticket, ...] = ()  # of the set, in order
        self._sums: tuple[int, ...] = ()  # how many of them are summed together
        self._question: Source | None = None
        self._assembly: Assembly | None = None

    def keep(self, ticket: Ticket, hidden: Hidden) -> None:
        """Note what the helper will need of a report that is kept."""
        self._kept[ticket] = hidden

    def keep_sum(self, engine: Engine, digest: bytes, subtotal: Subtotal) -> None:
        """Note it of those in a `subtotal` that is kept, which lies in the file `digest`."""
        for ticket, report in hidden(engine.partial, subtotal).items():
            self.keep(ticket, report)
            self.within[ticket] = digest

    def summed(self, service: Service, ticket: Ticket) -> Payload:
        """Return what is in the sums of the report of `ticket`: our share, or that of all it came summed with."""
        digest = self.within.get(ticket)
        return service.spool.read(ticket).arrays if digest is None else service.inbound.read(digest).arrays

    # ------------------------------------------------------------------------ asking

    def ask(self, service: Service, norms: bool) -> None:
        """Put the settlement's set into words, of its `norms` or of its sum; the helper hears of it at `wake`."""
        engine = service.engine
        ring = engine.partial.ring
        assert ring is not None
        claim = engine.spec.claim
        scope = scope_of(self.spec, ring, service.transport.federation, service.bodies.task(engine).digest, claim)
        lags = Counter(service.settlement.fixed.values())
        parts = engine.partial.lags(lags) if not norms else (tuple(lags),)
        self._sums = tuple(sum(lags[lag] for lag in some) for some in parts)
        place = {lag: at for at, some in enumerate(parts) for lag in some}
        tickets = tuple(sorted(fixed := service.settlement.fixed, key=lambda ticket: (place[fixed[ticket]], ticket)))
        reports = [self._kept[ticket] for ticket in tickets]
        shares, seeds = zip(*reports, strict=True)
        draw = b""
        if norms:  # the same after a restart, or the helper would see another set
            draw = sha256(self._key + commitment(scope, tickets, shares, seeds)).digest()[: sketch.SEED]
        self._draw, self._tickets = draw, tickets
        self._batch = commitment(scope, tickets, shares, seeds, draw, self._sums)
        batch = Batch(
            self._batch,
            scope.task,
            tickets,
            joined(reports),
            scope.bits,
            scope.dim,
            scope.exact,
            scope.min_batch,
            scope.norms,
            draw,
            self._sums,
            service.settlement.version,
            b"" if claim is None else written(claim),
        )
        data = self._channel.close(pack_body(batch), about("batch", scope.federation))
        self._question = Source(pack_body(Sealed(self.public, data)))
        self.alarm, self._pause, self.refusal = service.now, RETRY[0], ""
        self._forget()

    def wake(self, service: Service, now: float) -> None:
        """Ask, or ask again, for what has not come."""
        self.alarm, self._pause = now + self._pause, min(2 * self._pause, RETRY[1])
        if self._question is None:
            return
        if self._assembly is not None:
            self._assembly.retry()
        service.send(self.spec.name, self._question.offer("batch", first=self._question.count == 1))

    def over(self) -> None:
        """Ask no longer: the set has its sum, or never will."""
        self.alarm, self._question, self.refusal, self.answer = inf, None, "", b""
        self._forget()

    @property
    def facts(self) -> dict[str, str]:
        """What an operator is told: our public key, the helper's, and why it has not answered, where it has said."""
        return {"leader": spelled(self.public), "helper": self.spec.helper, "refusal": self.refusal}

    # ----------------------------------------------------------------------- answers

    def take(self, service: Service, message: Envelope, federation: str, now: float) -> None:
        """Take the helper's `message`. Raises WireError with the reason that is counted and answered."""
        if not service.allowed(self.spec.name):
            name = self.spec.name
            raise WireError("unknown helper", f"{name} is not on the list: let it in with `fedthings enrol {name}`")
        ours = service.transport.federation
        if federation != ours and not isinstance(message, Bye):
            raise WireError("another federation", federation)
        if service.held(self.spec.name) and not isinstance(message, Bye):
            raise reception.idle(self.spec.name)
        match message:
            case Hello():  # it has started anew, or its link has
                if self._question is not None:
                    self.wake(service, now)
            case Want():
                self._answer(service, message)
            case Offer(what="share"):
                self._offered(service, message, now)
            case Chunk():
                if self._assembly is not None and message.digest == self._assembly.offer.digest:
                    self._assembly.add(message)
                    self._proceed(service, self._assembly, now)
            case Verdict(digest=batch) if batch == self._batch and self._question is not None:
                self.refusal = message.reason
                for receipt in message.out:
                    self._exclude(service, receipt.ticket, receipt.reason, now)
            case Refusal(reason=reason):
                self.refusal = reason
            case Verdict() | Bye():
                pass
            case _:
                raise WireError("unexpected", f"a helper does not send {type(message).__name__}")

    def _exclude(self, service: Service, ticket: Ticket, reason: str, now: float) -> None:
        """Leave out a report that the helper refuses, and those that came summed with it: no share of it is here."""
        digest = self.within.get(ticket)
        beside: list[Ticket] = []
        if digest is not None:
            self.suspects.add(ticket.device)
            beside = [other for other, one in self.within.items() if one == digest and other != ticket]
        service.on(events.Excluded((ticket, *beside), reason), now)

    def _answer(self, service: Service, want: Want) -> None:
        if self.find(want) is None:
            return  # of a set that was asked about before
        for chunk in reception.chunks(want, self):
            service.send(self.spec.name, chunk)

    def find(self, want: Want) -> Source | None:
        """Return what the helper is asked, where `want` is for it."""
        return self._question if self._question is not None and self._question.digest == want.digest else None

    def _offered(self, service: Service, offer: Offer, now: float) -> None:
        if self._question is None:
            return  # it is settled already
        if self._assembly is None or self._assembly.offer.digest != offer.digest:
            self._forget()
            ring = service.engine.partial.ring
            assert ring is not None
            most = sum(row.nbytes for row in self._due(ring).values()) + reception.SLACK
            self._assembly = Assembly(offer, most, self._path(offer.digest))
        self._proceed(service, self._assembly, now)

    def _proceed(self, service: Service, assembly: Assembly, now: float) -> None:
        self.alarm, self._pause = now + RETRY[0], RETRY[0]
        if not assembly.done:
            for want in assembly.wants():
                service.send(self.spec.name, want)
            return
        self._assembly = None
        path = self._path(assembly.offer.digest)
        try:
            arrays = self._read(service, assembly.offer.digest)
        except WireError as error:
            path.unlink(missing_ok=True)
            self.refusal = error.reason
            raise
        if self._draw:
            path.unlink()
            service.on(events.Checked(self._beyond(service, arrays)), now)
            return
        if self._fsync:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        service.on(events.Settled(assembly.offer.digest), now)

    def _read(self, service: Service, digest: bytes) -> Payload:
        """Return the helper's share in the file `digest`. Raises WireError where it is not one of the set asked for."""
        ring = service.engine.partial.ring
        assert ring is not None
        sealed = unpack_body(self._path(digest).read_bytes(), Sealed)
        data = self._channel.open(sealed.data, about("share", service.transport.federation))
        share = unpack_body(data, Share)
        if share.digest != self._batch:
            raise WireError("different sets", "the helper has answered for other reports than those asked about")
        alike("array", share.arrays, self._due(ring))
        return share.arrays

    def _due(self, ring: Ring) -> Payload:
        """Return arrays like those of the answer."""
        if not self._draw:
            rows = ring.zeros(1)
            return {
                name: np.zeros(rows[name].size * (len(self._sums) if name == X else 1), rows[name].dtype)
                for name in rows
            }
        sketches = np.zeros(len(self._tickets) * sketch.PROJECTIONS, ring.dtype)
        return {"sketches": sketches, "draw": np.zeros(sketch.SEED, np.uint8)}

    def _beyond(self, service: Service, arrays: Payload) -> tuple[Ticket, ...]:
        """Return whose reports are longer than they may be, by our projections and the helper's together."""
        ring = service.engine.partial.ring
        assert ring is not None
        seed = sketch.joint(self._draw, arrays["draw"].tobytes(), self._batch)
        buckets = sketch.buckets(seed, ring.dim)
        theirs = arrays["sketches"].reshape(-1, sketch.PROJECTIONS)
        found = []
        for ticket, their in zip(self._tickets, theirs, strict=True):
            ours = sketch.sketch(service.spool.read(ticket).arrays[X], buckets)
            if sketch.norm(ours + their) > sketch.SLACK * ring.longest:
                found.append(ticket)
        return tuple(found)

    # ----------------------------------------------------------------------- the end

    def share(self, service: Service) -> Payload:
        """Return the helper's share of the set that is settled."""
        return self._read(service, self.answer)

    def tidy(self, tickets: Collection[Ticket]) -> None:
        """Forget all that no set to come needs: the checkpoint has it, or it is asked for again."""
        self._kept = {ticket: kept for ticket, kept in self._kept.items() if ticket in tickets}
        self.within = {ticket: digest for ticket, digest in self.within.items() if ticket in tickets}
        for file in self._directory.iterdir():
            file.unlink()

    def _forget(self) -> None:
        if self._assembly is not None:
            self._assembly.discard()
            self._assembly = None

    def _path(self, digest: bytes) -> Path:
        return self._directory / f"{digest.hex()}.cbor"


def settlement(engine: Engine) -> Settlement:
    """Return what lies between the sets of `engine` and their sums: in secure mode the helper is asked."""
    spec = engine.federation.secure
    if spec is None:
        return Settlement()
    if isinstance(spec, SecAgg):
        return Settlement("devices", spec.min_batch, spec.patience, kind="devices")
    norms = [number for number, phase in enumerate(engine.phases) if phase.kind == "train" and spec.norms]
    return Settlement(spec.name, spec.min_batch, spec.patience, norms)
