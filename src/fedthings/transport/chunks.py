"""Offer, want, chunk: both directions move a large body the same way. Pure logic, no network.

The sender holds a `Source`, the receiver an `Assembly`. In short:

    offer = source.offer("report", ticket)             # sender
    assembly = Assembly(offer, limit=1 << 28)           # receiver
    for want in assembly.wants(): ...                   # receiver: the next window, or nothing for now
    for chunk in source.answer(want): ...               # sender
    assembly.add(chunk)                                 # receiver; then wants() again
    assembly.retry()                                    # receiver, after Linked or a deadline; then wants()

A chunk says at which byte it begins, so its length may change while a body is under way (`pacing`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fedthings.errors import WireError
from fedthings.messages import Chunk, Offer, Want
from fedthings.protocol.events import Ticket
from fedthings.transport.pieces import FileStore, MemoryStore, OneChunkStore, Store

CHUNK = 64 * 1024
"""Bytes of a chunk unless set otherwise: below the 128 KiB that some brokers allow."""
WINDOW = 8
"""How many chunks are wanted at once unless set otherwise."""
MOST = 64
"""Chunks that one Want may name."""
LARGEST = 1 << 19
"""Bytes: an offer with larger chunks is refused, since a message holds at most 1 MiB."""
GRAIN = 512
"""Bytes: chunks begin at multiples of this, or of the offered chunk where that is smaller."""
GRAINS = 1 << 20
"""A body of more grains is refused: one byte is kept for each."""
TOGETHER = 4
"""Chunks that are stored, and hashed, together where they follow each other: a process that is killed asks again."""

MISSING, HERE, ASKED = b"\0", b"\1", b"\2"


class Source:
    """A body that can be had in chunks: bytes, or a file that stays as it is while it is offered."""

    def __init__(self, body: bytes | Path, chunk: int = CHUNK) -> None:
        if not _fits(chunk):
            raise ValueError(f"a chunk of {chunk} bytes: use 1 to {GRAIN}, or a multiple of it up to {LARGEST}")
        self.body = body
        self.chunk_size = chunk
        if isinstance(body, Path):
            with body.open("rb") as file:
                self.digest = hashlib.file_digest(file, "sha256").digest()
                self.size = file.tell()
        else:
            self.digest = hashlib.sha256(body).digest()
            self.size = len(body)
        if not self.size:
            raise ValueError("an empty body cannot be offered")
        self.count = -(-self.size // chunk)

    def offer(
        self,
        what: str,
        ticket: Ticket | None = None,
        *,
        retained: bool = False,
        first: bool = False,
        http: str = "",
        token: str = "",
    ) -> Offer:
        """Return the Offer of this body; `first` puts chunk 0 into it, which saves a round trip."""
        data = self.chunk(0).data if first else None
        return Offer(what, self.digest, self.size, self.count, self.chunk_size, retained, ticket, data, http, token)

    def chunk(self, index: int) -> Chunk:
        """Return chunk `index` of those offered. Raises WireError where there is none."""
        return self.part(index * self.chunk_size, self.chunk_size)

    def part(self, start: int, length: int) -> Chunk:
        """Return `length` bytes from `start` on, or what is left there. Raises WireError where there is nothing."""
        if not 0 <= start < self.size or not 1 <= length <= LARGEST:
            raise WireError("malformed", f"{length} bytes from {start} on are wanted of {self.size}")
        if isinstance(self.body, Path):
            with self.body.open("rb") as file:
                file.seek(start)
                return Chunk(self.digest, start, file.read(length))
        return Chunk(self.digest, start, bytes(self.body[start : start + length]))

    def answer(self, want: Want, most: int = LARGEST) -> Iterator[Chunk]:
        """Yield what `want` names, in its order, in chunks of at most `most` bytes. Raises WireError."""
        for start in want.starts:
            for at in range(start, min(start + want.length, max(self.size, start + 1)), most):
                yield self.part(at, min(most, start + want.length - at))


class Assembly:
    """A body that is coming in, in any order, twice or not at all; whole when `done`.

    `limit` (bytes) is the largest body the receiver takes; `window` is in chunks of the offer, `room` in bytes.
    With `path`, chunks go straight to `<path>.part`, so that a new process goes on where the last one was killed; the
    file is `path` when `done`. A wrong SHA-256 starts all over and counts in `wrong`. `length` (bytes) is how long the
    chunks are that are asked for; it and `room` may be set at any time.
    Raises WireError where the offer cannot be right, StoreError where the file cannot be written.
    """

    def __init__(self, offer: Offer, limit: int, path: Path | None = None, window: int = WINDOW) -> None:
        check(offer, limit)
        self.offer = offer
        self.length = offer.chunk
        self.room = window * offer.chunk
        self.wrong = 0
        self.path = path
        self._grain = min(GRAIN, offer.chunk)
        self._store = _store(offer, path)
        self._state = bytearray(self._store.state)  # one byte a grain: MISSING, HERE or ASKED
        self._here, self._asked = self._state.count(HERE), 0  # how many of them
        self._next = 0  # what is before it is here or asked for
        self._begin()
        self._done = self._store.ready
        if offer.first is not None and not self._done:
            self.add(Chunk(offer.digest, 0, offer.first))
        elif not self._done and self._here == len(self._state):
            self._finish()

    @property
    def done(self) -> bool:
        """Whether all is here and the SHA-256 is right."""
        return self._done

    @property
    def missing(self) -> int:
        """How many bytes have not come, in whole grains."""
        return 0 if self._done else (len(self._state) - self._here) * self._grain

    @property
    def asked(self) -> int:
        """How many bytes are asked for and have not come, in whole grains."""
        return self._asked * self._grain

    @property
    def hungry(self) -> bool:
        """Whether it is time to ask for more: less than half a window is still to come."""
        missing = len(self._state) - self._here - self._asked
        return not self._done and missing > 0 and self.asked <= self._room // 2

    @property
    def _room(self) -> int:
        return max(self.length, min(self.room, MOST * self.length))

    @property
    def data(self) -> bytes:
        """The whole body. Raises ValueError while it is not `done`."""
        if not self._done:
            raise ValueError(f"{self.missing} of {self.offer.size} bytes are missing")
        return self._store.data()

    @property
    def body(self) -> bytes | Path:
        """The whole body where it lies: the file of a body that has one. Raises ValueError while it is not `done`."""
        return self.data if self.path is None else self.path

    def wants(self) -> list[Want]:
        """Return what to ask for now and note it as asked; nothing while half a window is still to come."""
        if not self.hungry:
            return []
        room = self._room
        found: list[tuple[int, list[int]]] = []
        per = max(1, self.length // self._grain)
        while self.asked < room and (gap := self._gap(per)) is not None:
            start, stop = gap
            self._state[start:stop] = ASKED * (stop - start)
            self._asked += stop - start
            whole = stop - start == per or stop == len(self._state)
            length = self.length if whole else (stop - start) * self._grain
            if not found or found[-1][0] != length or len(found[-1][1]) == MOST:
                found.append((length, []))
            found[-1][1].append(start * self._grain)
        return [Want(self.offer.digest, tuple(starts), length) for length, starts in found]

    def _gap(self, per: int) -> tuple[int, int] | None:
        """Return the next missing grains, at most `per` and within one multiple of it, so that chunks stay aligned."""
        start = self._state.find(MISSING, self._next)
        if start < 0:
            self._next = len(self._state)
            return None
        stop = min((start // per + 1) * per, len(self._state))
        for taken in (HERE, ASKED):
            found = self._state.find(taken, start, stop)
            stop = stop if found < 0 else found
        self._next = stop
        return start, stop

    def retry(self) -> None:
        """Forget what was asked for: the link or the sender was lost, or a deadline has passed."""
        self._state = self._state.replace(ASKED, MISSING)
        self._asked = self._next = 0

    def add(self, chunk: Chunk) -> bool:
        """Take `chunk`; return whether any of it was new. Raises WireError where it is not one of this body."""
        start, stop = chunk.start, chunk.start + len(chunk.data)
        if chunk.digest != self.offer.digest or not start < stop <= self.offer.size:
            raise WireError("malformed", f"{len(chunk.data)} bytes from {start} on are not of the body offered")
        if start % self._grain or (stop % self._grain and stop != self.offer.size):
            raise WireError("malformed", f"a chunk from {start} to {stop}: use multiples of {self._grain}")
        if self._done:
            return False
        first, last = start // self._grain, -(-stop // self._grain)
        state = self._state[first:last]
        if HERE not in state:
            self._put(start, chunk.data)
        elif state.count(HERE) == len(state):
            return False
        else:  # what is here stays as it is: it may be hashed already
            for grain in range(first, last):
                if self._state[grain] != HERE[0]:
                    at = grain * self._grain - start
                    self._put(at + start, chunk.data[at : at + self._grain])
        if self._here == len(self._state):
            self._finish()
        return True

    def discard(self) -> None:
        """Remove the files of a body that nobody waits for any more; the assembly ends with this."""
        self._held.clear()
        self._store.remove()
        self._done = False

    def _begin(self) -> None:
        self._sha = hashlib.sha256()
        self._hashed = 0
        self._held: list[bytes] = []  # from `_start` to `_stop`, not stored yet
        self._start = self._stop = 0

    def _put(self, start: int, data: bytes) -> None:
        first, last = start // self._grain, -(-(start + len(data)) // self._grain)
        self._asked -= self._state.count(ASKED, first, last)
        self._here += last - first  # none of it was here
        self._state[first:last] = HERE * (last - first)
        if start != self._stop:
            self._keep()
            self._start = start
        self._held.append(data)
        self._stop = start + len(data)
        if len(self._held) == TOGETHER or not self._asked:
            self._keep()

    def _keep(self) -> None:
        """Store what is held, and hash it where all before it is: without reading the file again."""
        if not self._held:
            return
        data = b"".join(self._held)
        self._held.clear()
        self._store.put(self._start, data, self._start // self._grain)
        if self._start == self._hashed:
            self._sha.update(data)
            self._hashed += len(data)
        self._start = self._stop

    def _finish(self) -> None:
        self._keep()
        for data in self._store.read(self._hashed):
            self._sha.update(data)
        if self._sha.digest() == self.offer.digest:
            self._store.seal()
            self._done = True
        else:  # a chunk was damaged, and none says which: all over again
            self.wrong += 1
            self._store.clear()
            self._state = bytearray(len(self._state))
            self._here = self._asked = self._next = 0
            self._begin()


def check(offer: Offer, limit: int) -> None:
    """Raise WireError unless the numbers of `offer` agree and `size` is at most `limit` bytes."""
    if offer.size > limit:
        raise WireError("too large", f"{offer.what} of {offer.size} bytes: at most {limit} are taken")
    if not _fits(offer.chunk) or offer.size < 1 or offer.count != -(-offer.size // offer.chunk):
        raise WireError(
            "malformed",
            f"{offer.size} bytes are not {offer.count} chunks of {offer.chunk} (1 to {GRAIN}, "
            f"or a multiple of it up to {LARGEST})",
        )
    if -(-offer.size // min(GRAIN, offer.chunk)) > GRAINS:
        raise WireError("malformed", f"{offer.size} bytes in chunks of {offer.chunk}: use larger ones")
    if offer.first is not None and len(offer.first) != min(offer.chunk, offer.size):
        raise WireError("malformed", f"the first chunk has {len(offer.first)} bytes")


def _fits(chunk: int) -> bool:
    return 1 <= chunk <= LARGEST and (chunk <= GRAIN or chunk % GRAIN == 0)


def _store(offer: Offer, path: Path | None) -> Store:
    grain = min(GRAIN, offer.chunk)
    grains = -(-offer.size // grain)
    if path is None:
        return MemoryStore(grains)
    if offer.count == 1:
        return OneChunkStore(grains, path)
    return FileStore(offer.digest, offer.size, grain, path)
