"""The bodies that come down: tasks and models, fetched in chunks, checked, and held while the job needs them.

A body comes from the broker where its chunks are retained there, over HTTP where it can be had so, and otherwise, or
when that fails, from the coordinator.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import inf
from pathlib import Path

from fedthings.bodies import Change, Model
from fedthings.compress.delta import patched
from fedthings.device.downloads import Downloads
from fedthings.device.shelf import Shelf
from fedthings.errors import WireError
from fedthings.messages import Assignment, Chunk, Farewell, Offer
from fedthings.phase import Phase, differs
from fedthings.transport.chunks import Assembly
from fedthings.transport.pacing import Pacing, Rate
from fedthings.transport.topics import COORDINATOR
from fedthings.transport.transport import Transport
from fedthings.wire import B, unpack_body, unpack_file

log = logging.getLogger("fedthings.device")

LARGEST = 1 << 28
"""Bytes: the largest task or model that a device takes unless its owner says otherwise."""
SPOOLED = 4 << 20
"""Bytes: a larger body is not held in memory while it comes in, where the device has a directory."""
RETRY = 5.0
"""Seconds without a chunk or a receipt after which it is asked for again."""


class Bodies:
    """`here` begins to fetch what is not; `add` takes a chunk, `wake` is due at `alarm`. `largest` is in bytes."""

    def __init__(
        self, transport: Transport, shelf: Shelf, pacing: Pacing, rate: Rate, largest: int, downloads: Downloads | None
    ) -> None:
        self._transport, self._shelf, self._pacing, self._rate = transport, shelf, pacing, rate
        self._largest, self._downloads = largest, downloads
        self._whole: dict[bytes, bytes | Path] = {}
        self._incoming: dict[bytes, Assembly] = {}
        self._hungry: list[Assembly] = []  # who asks for more when the rate allows
        self._useless: set[bytes] = set()  # bodies that have not made the model that was announced
        self._fetched = 0  # bytes that this link has brought
        self._due = inf  # when what has not come is asked for again

    @property
    def coming(self) -> bool:
        """Whether a body is on its way."""
        return bool(self._incoming)

    @property
    def alarm(self) -> float:
        """When `wake` is due at the latest, in seconds."""
        return min(self._due, self._rate.free) if self._hungry else self._due

    def here(self, offer: Offer, now: float) -> bool:
        """Return whether a body is here; begin to fetch it where it is not. Raises WireError for a wrong offer."""
        if offer.digest in self._whole or offer.digest in self._incoming:
            return offer.digest in self._whole
        assembly = Assembly(offer, self._largest, self._shelf.place(offer.digest) if offer.size > SPOOLED else None)
        if assembly.done:
            self._whole[offer.digest] = assembly.body
            return True
        self._incoming[offer.digest] = assembly
        self._ask(assembly, now)
        return False

    def read(self, offer: Offer, kind: type[B]) -> B:
        """Return the body of `offer`, which is here; a large one stays on the disk. Raises WireError, KeyError."""
        body = self._whole[offer.digest]
        return unpack_file(body, kind) if isinstance(body, Path) else unpack_body(body, kind)

    def way(self, said: Assignment | Farewell) -> Offer | None:
        """Return the offer by which the model of `said` is fetched: what differs from the one held, or all of it."""
        held, delta = self._shelf.held, said.delta
        if delta is None or held is None or held.ticket != said.kept or delta.digest in self._useless:
            return said.model
        return delta

    def model(self, offer: Offer, phase: Phase) -> tuple[Model, bytes]:
        """Return the model of `offer`, which is here, and its body, empty where no other is told by it.

        Raises WireError, after which `way` leads to all of the model; KeyError.
        """
        if not differs(phase):
            return self.read(offer, Model), b""
        try:
            said, held = self.read(offer, Change), self._shelf.held
            body = patched(said, held.body if said.base and held is not None else b"", self._largest)
            return unpack_body(body, Model), body
        except WireError:
            self._useless.add(offer.digest)
            raise

    def add(self, chunk: Chunk, now: float) -> bool:
        """Take a chunk; return whether a body is whole with it."""
        assembly = self._incoming.get(chunk.digest)
        if assembly is None:
            return False
        wrong = assembly.wrong
        try:
            if assembly.add(chunk):
                self._fetched += len(chunk.data)
                self._pacing.flows(self._fetched)
        except WireError as error:
            log.warning("a chunk was refused: %s", error)
            return False
        if assembly.wrong > wrong:
            log.warning(
                "a %s was refused: wrong digest, what came is not what was offered; the coordinator is asked for it",
                assembly.offer.what,
            )
        if not assembly.done:
            self._ask(assembly, now)
            return False
        self._whole[chunk.digest] = assembly.body
        del self._incoming[chunk.digest]
        self._due = now + RETRY if self._incoming else inf
        return True

    def wake(self, now: float) -> None:
        """Ask for what the rate allows again, and for what has not come."""
        while self._hungry and now >= self._rate.free:
            self._ask(self._hungry.pop(0), now)
        if now >= self._due:
            self._due = inf
            self._retry(list(self._incoming.values()), now, direct=True)

    def failed(self, now: float) -> None:
        """A download over HTTP may have failed: ask for it again."""
        if self._downloads is not None:
            self._retry([assembly for assembly in self._incoming.values() if assembly.offer.http], now)

    def again(self, now: float) -> None:
        """After the link was lost, ask again for all that was under way."""
        if self._incoming:
            self._pacing.broke(self._fetched)
        self._fetched = 0
        self._retry(list(self._incoming.values()), now)

    def unlink(self) -> None:
        """Fetch nothing more: the radio goes off."""
        if self._downloads is not None:
            self._downloads.stop()

    def relink(self, transport: Transport) -> None:
        """Go on with another link, once it stands."""
        self._transport, self._due = transport, inf

    def keep_only(self, said: Assignment | Farewell) -> None:
        """Forget all but what `said` offers."""
        wanted = {offer.digest for offer in (said.task, said.model, said.delta) if offer is not None}
        self._useless &= wanted
        self._whole = {digest: body for digest, body in self._whole.items() if digest in wanted}
        self._incoming = {digest: a for digest, a in self._incoming.items() if digest in wanted}
        self._hungry = [assembly for assembly in self._hungry if assembly.offer.digest in wanted]
        self._shelf.keep_bodies(wanted)

    def stop(self) -> None:
        """Fetch no more: there is no job."""
        self._incoming, self._hungry, self._due = {}, [], inf

    def _retry(self, assemblies: Sequence[Assembly], now: float, direct: bool = False) -> None:
        for assembly in assemblies:
            assembly.retry()
            self._ask(assembly, now, direct)

    def _ask(self, assembly: Assembly, now: float, direct: bool = False) -> None:
        """Ask for the next window: `direct` is from the coordinator itself."""
        self._due = now + RETRY
        offer = assembly.offer
        if now < self._rate.free:
            if assembly not in self._hungry:
                self._hungry.append(assembly)
            return
        assembly.length = min(offer.chunk, self._rate.piece(self._pacing.length))
        if self._rate.limit < inf:
            assembly.room = max(assembly.length, int(self._rate.limit))
        for want in assembly.wants():
            self._rate.took(min(len(want.starts) * want.length, offer.size), now)
            direct = direct or assembly.wrong > 0  # what came was damaged: the coordinator itself has it right
            if self._downloads is not None and not direct and self._downloads.can(offer):
                self._downloads.ask(offer, want, self._transport.federation)
            elif offer.retained and not direct and want.length == offer.chunk:
                self._transport.want_blob(offer.digest, tuple(start // offer.chunk for start in want.starts))
            else:
                self._transport.send(COORDINATOR, want)
