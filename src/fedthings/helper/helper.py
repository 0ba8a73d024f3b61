"""The helper's side of the conversation: it is asked for its share of a sum, and gives it once a report and no more.

It sees sealed seeds, tickets and hashes, never a report. Its answer is on the disk before anybody has it, so that it
may be killed at any point: the same batch gets the same answer, and no report is in two.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedthings.aggregate.ring import EXACT, X
from fedthings.bodies import Batch, Sealed, Share
from fedthings.errors import WireError
from fedthings.helper.rules import Rules
from fedthings.helper.store import Released, Store
from fedthings.identity.keys import held, spelled
from fedthings.messages import Announce, Chunk, Hello, Message, Offer, Receipt, Refusal, Verdict, Want
from fedthings.privacy import masks, noise, sketch
from fedthings.privacy.central import Claim
from fedthings.privacy.distributed import Stream, read
from fedthings.privacy.keys import public_of
from fedthings.privacy.shares import Channel, Scope, about, commitment, parted, unseal
from fedthings.transport.chunks import Assembly, Source
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Arrival, Delivery, Linked, Transport
from fedthings.wire import pack_body, unpack_body

log = logging.getLogger("fedthings.helper")

KEY_FILE = "helper.key"
LARGEST = 1 << 27
"""Bytes: the largest batch that is taken, of about 150 bytes a report."""
WIDEST = 1 << 28
"""Numbers of the largest report."""


class Asked(NamedTuple):
    """What has been asked last, by the digest of the offer, and the answer."""

    question: bytes
    answer: Source


class Helper:
    """`receive` an arrival; nothing has to be done in between. `directory` holds its key and its state.

    `key` makes that of the noise for a federation with a privacy claim: a secret one, except in tests.
    Raises StoreError where the directory cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        transport: Transport,
        rules: Rules | None = None,
        on_news: Callable[[str], None] = lambda text: None,
        key: Callable[[], bytes] = noise.fresh,
    ) -> None:
        self.transport, self.rules, self.on_news = transport, rules or Rules(), on_news
        self._fresh = key
        self.key = held(directory / KEY_FILE)
        self.public = public_of(self.key)
        self.store = Store(directory)
        self.given = 0  # shares of sums
        self.reports = 0  # in them
        self._names: dict[str, str] = {}  # federation -> what its owner calls it
        self._boots: dict[str, str] = {}
        self._incoming: dict[str, Assembly] = {}  # federation -> the batch that comes in
        self._asked: dict[str, Asked] = {}  # federation -> what has been answered last

    def receive(self, arrival: Arrival, now: float) -> None:
        """Take one arrival."""
        if isinstance(arrival, Linked):
            self._boots.clear()  # the announcements come again, and each leader may have said something meanwhile
        elif isinstance(arrival, Delivery) and arrival.sender == COORDINATOR:
            try:
                self._take(arrival.federation, arrival.message)
            except WireError as error:
                self._refuse(arrival.federation, error)

    def close(self) -> None:
        """Let go of the files."""
        self.store.close()

    def _take(self, federation: str, message: Message) -> None:
        match message:
            case Announce(name=name, boot=boot):
                self._names[federation] = name
                if self._boots.get(federation) != boot and self.store.leader(federation) is not None:
                    self._send(federation, Hello(self.public.hex()[:16]))
                self._boots[federation] = boot
            case Offer(what="batch"):
                self._offered(federation, message)
            case Chunk() if federation in self._incoming:
                assembly = self._incoming[federation]
                if message.digest == assembly.offer.digest:
                    assembly.add(message)
                    self._proceed(federation, assembly)
            case Want() if federation in self._asked:
                answer = self._asked[federation].answer
                for chunk in answer.answer(message) if answer.digest == message.digest else ():
                    self._send(federation, chunk)

    def _offered(self, federation: str, offer: Offer) -> None:
        asked = self._asked.get(federation)
        if asked is not None and asked.question == offer.digest:  # our offer was lost
            self._send(federation, asked.answer.offer("share"))
            return
        before = self._incoming.get(federation)
        if before is not None and before.offer.digest == offer.digest:
            before.retry()
        else:
            self._incoming[federation] = Assembly(offer, LARGEST)
        self._proceed(federation, self._incoming[federation])

    def _proceed(self, federation: str, assembly: Assembly) -> None:
        if not assembly.done:
            for want in assembly.wants():
                self._send(federation, want)
            return
        del self._incoming[federation]
        answer = self._answered(federation, unpack_body(assembly.data, Sealed))
        if isinstance(answer, Verdict):
            self._send(federation, answer)
            return
        self._asked[federation] = Asked(assembly.offer.digest, Source(answer))
        self._send(federation, self._asked[federation].answer.offer("share"))

    # ---------------------------------------------------------------------- a batch

    def _answered(self, federation: str, sealed: Sealed) -> Verdict | Path:
        """Return where the answer to a batch lies, or why there is none. Raises WireError."""
        pinned = self.store.leader(federation)
        if (pinned or sealed.sender) != sealed.sender:
            raise WireError("another leader", f"{spelled(pinned or b'')} leads {federation} here")
        if self.rules.leaders and spelled(sealed.sender) not in self.rules.leaders:
            raise WireError("unknown leader", f"{spelled(sealed.sender)} is not in this helper's rules")
        channel = Channel(self.key, sealed.sender)
        batch = unpack_body(channel.open(sealed.data, about("batch", federation)), Batch)
        scope, shares, seeds = self._read(federation, batch)
        sums = batch.sums or (len(batch.tickets),)
        if commitment(scope, batch.tickets, shares, seeds, batch.draw, sums) != batch.digest:
            return Verdict(batch.digest, False, reason="different sets")
        if (known := self.store.answer(batch.digest)) is not None:
            return known
        name = self._names.get(federation, "")
        if self.rules.federations and name not in self.rules.federations:
            return Verdict(batch.digest, False, reason="not this federation")
        if min(sums) < max(self.rules.min_batch, batch.min_batch):
            return Verdict(batch.digest, False, reason="batch below the minimum")
        used = self.store.used(federation, batch.tickets, norms=bool(batch.draw))
        out = dict.fromkeys(used, "used already")
        if scope.norms and not batch.draw and not self.store.checked(federation, batch.tickets):
            return Verdict(batch.digest, False, reason="norms first")
        opened = []
        stream, kept = None, self.store.noise(federation)
        if kept is not None and kept["claim"] != scope.claim:  # its noise goes on, and nothing leaves without
            return Verdict(batch.digest, False, reason="another claim")
        if (claim := _claim(batch, scope)) is not None:
            stream = Stream(claim, self._fresh())
            if kept is not None:
                stream.restore(kept)
            if not stream.version < batch.version <= claim.versions:
                return Verdict(batch.digest, False, reason="no noise for this version")
            often = self.store.too_often(federation, batch.tickets, batch.version, claim.apart, claim.times)
            out |= dict.fromkeys(often, "too often")
        for ticket, share, seed in zip(batch.tickets, shares, seeds, strict=True):
            try:
                opened.append(unseal(seed, self.key, scope.of(ticket, share)))
            except WireError as error:
                out.setdefault(ticket, error.reason)
        if out:
            receipts = tuple(Receipt(ticket, False, reason) for ticket, reason in sorted(out.items()))
            return Verdict(batch.digest, False, receipts)
        arrays = _sketches(scope, opened, batch) if batch.draw else _summed(scope, opened, sums)
        if stream is not None:
            arrays[X] += stream.at(batch.version).astype(arrays[X].dtype)
        answer = channel.close(pack_body(Share(batch.digest, arrays)), about("share", federation))
        self.store.pin(federation, sealed.sender)
        body = pack_body(Sealed(self.public, answer))
        made = None if stream is None else Released(batch.version, {**stream.snapshot(), "claim": scope.claim})
        path = self.store.commit(federation, batch.digest, batch.tickets, body, norms=bool(batch.draw), made=made)
        if batch.draw:
            return path
        self.given += 1
        self.reports += len(opened)
        version = max(ticket.version for ticket in batch.tickets) + 1
        self.on_news(f"{name or federation}: gave its share of {len(opened)} reports for version {version}")
        return path

    def _read(self, federation: str, batch: Batch) -> tuple[Scope, list[bytes], list[bytes]]:
        """Return what the batch's seeds are good for, the hash of each leader's share, and each sealed seed.

        Raises WireError where they cannot be.
        """
        n = len(batch.tickets)
        if batch.bits not in (16, 32) or batch.dim > WIDEST or not 0 < batch.exact <= WIDEST:
            raise WireError("malformed", f"reports of {batch.dim} numbers of {batch.bits} bits, {batch.exact} of 64")
        if batch.draw and (not batch.norms or len(batch.draw) != sketch.SEED or batch.dim < sketch.LEAST):
            raise WireError("malformed", f"norms of reports of {batch.dim} numbers, for which no device has asked")
        if len(set(batch.tickets)) != n or not n:
            raise WireError("malformed", "a batch has tickets that differ")
        if batch.sums and (sum(batch.sums) != n or len(batch.sums) * batch.dim > WIDEST):
            raise WireError("malformed", f"{n} tickets in sums of {list(batch.sums[:8])}")
        shares, seeds = map(list, zip(*parted(batch.arrays, n), strict=True))
        claim = sha256(batch.claim).digest() if batch.claim else b""
        scope = Scope(federation, batch.task, batch.min_batch, batch.norms, batch.bits, batch.dim, batch.exact, claim)
        return scope, shares, seeds

    # ------------------------------------------------------------------------ parts

    def _refuse(self, federation: str, error: WireError) -> None:
        log.warning("refused what %s asks: %s", federation, error)
        self.on_news(f"refused what {self._names.get(federation, federation)} asks: {error}")
        self._send(federation, Refusal(error.reason, str(error)[:200]))

    def _send(self, federation: str, message: Message) -> None:
        self.transport.federation = federation
        self.transport.send(COORDINATOR, message)  # type: ignore[arg-type]


def _claim(batch: Batch, scope: Scope) -> Claim | None:
    """Return what is claimed of the sum of `batch`. Raises WireError where its noise would not do."""
    if not batch.claim:
        return None
    claim = read(batch.claim)
    if batch.draw or len(batch.sums) > 1 or claim.size != scope.dim:
        raise WireError("malformed", "a claim of another sum")
    if len({ticket.device for ticket in batch.tickets}) != len(batch.tickets):  # its noise hides one report of each
        raise WireError("malformed", "a device stands twice in a sum with noise")
    return claim


def _summed(scope: Scope, seeds: list[bytes], sums: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the sum of the masks of `seeds`, in the rings of the reports; of "x" one for each of `sums`."""
    exact, rest = np.zeros(scope.exact, np.uint64), iter(seeds)
    rows = np.zeros((len(sums), scope.dim), f"u{scope.bits // 8}")
    for row, size in zip(rows, sums, strict=True):
        total = {X: row, EXACT: exact} if scope.dim else {EXACT: exact}
        masks.apply(total, ((seed, np.add) for seed in islice(rest, size)))
    return {X: rows.reshape(-1), EXACT: exact} if scope.dim else {EXACT: exact}


def _sketches(scope: Scope, seeds: list[bytes], batch: Batch) -> dict[str, np.ndarray]:
    """Return the projections of the mask of each of `seeds`, and what we have drawn for them."""
    draw = os.urandom(sketch.SEED)
    buckets = sketch.buckets(sketch.joint(batch.draw, draw, batch.digest), scope.dim)
    rows = np.empty((len(seeds), sketch.PROJECTIONS), f"u{scope.bits // 8}")
    for row, seed in zip(rows, seeds, strict=True):
        own = np.zeros(scope.dim, row.dtype)
        masks.apply({X: own}, [(seed, np.add)])
        row[:] = sketch.sketch(own, buckets)
    return {"sketches": rows.reshape(-1), "draw": np.frombuffer(draw, np.uint8)}
