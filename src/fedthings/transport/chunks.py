"""Offer, want, chunk: both directions move a large body the same way. Pure logic and files, no network.

The sender holds a `Source`, the receiver an `Assembly`. In short:

    offer = source.offer("report", ticket)             # sender
    assembly = Assembly(offer, limit=1 << 28)           # receiver; Want(offer.digest, assembly.wants())
    for chunk in source.answer(want): ...               # sender
    assembly.add(chunk); wants = assembly.wants()       # receiver: the next window, or () for now
    assembly.retry()                                    # receiver, after Linked or a deadline; then wants()
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedthings.errors import StoreError, WireError
from fedthings.messages import Chunk, Offer, Want
from fedthings.protocol.events import Ticket

CHUNK = 64 * 1024
"""Bytes of a chunk unless set otherwise: below the 128 KiB that some brokers allow."""
WINDOW = 8
"""How many chunks are wanted at once unless set otherwise."""
LARGEST = 1 << 19
"""Bytes: an offer with larger chunks is refused, since a message holds at most 1 MiB."""


class Source:
    """A body that can be had in chunks: bytes, or a file that stays as it is while it is offered."""

    def __init__(self, body: bytes | Path, chunk: int = CHUNK) -> None:
        if not 1 <= chunk <= LARGEST:
            raise ValueError(f"a chunk of {chunk} bytes: use 1 to {LARGEST}")
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

    def offer(self, what: str, ticket: Ticket | None = None, *, retained: bool = False, first: bool = False) -> Offer:
        """Return the Offer of this body; `first` puts chunk 0 into it, which saves a round trip."""
        data = self.chunk(0).data if first else None
        return Offer(what, self.digest, self.size, self.count, self.chunk_size, retained, ticket, data)

    def chunk(self, index: int) -> Chunk:
        """Return chunk `index`. Raises WireError where there is none."""
        if not 0 <= index < self.count:
            raise WireError("malformed", f"chunk {index} is wanted of {self.count}")
        start = index * self.chunk_size
        if isinstance(self.body, Path):
            with self.body.open("rb") as file:
                file.seek(start)
                return Chunk(self.digest, index, file.read(self.chunk_size))
        return Chunk(self.digest, index, bytes(self.body[start : start + self.chunk_size]))

    def answer(self, want: Want) -> Iterator[Chunk]:
        """Yield the chunks that `want` names, in its order. Raises WireError where there is none."""
        for index in want.indexes:
            yield self.chunk(index)


class Assembly:
    """A body that is coming in, in any order, twice or not at all; whole when `done`.

    `limit` (bytes) is the largest body the receiver takes. With `path`, chunks go straight to
    `<path>.part`, and what is there is noted in `<path>.have`, so that a new process goes on where the last
    one was killed; the file is `path` when `done`. A wrong SHA-256 starts all over and counts in `wrong`.
    Raises WireError where the offer cannot be right, StoreError where the file cannot be written.
    """

    def __init__(self, offer: Offer, limit: int, path: Path | None = None, window: int = WINDOW) -> None:
        check(offer, limit)
        self.offer = offer
        self.window = window
        self.wrong = 0
        self.path = path
        self._store: _Memory | _File = _store(offer, path)
        self._asked: set[int] = set()
        self._next = 0
        self._done = self._store.ready
        if offer.first is not None and not self._done:
            self.add(Chunk(offer.digest, 0, offer.first))
        elif len(self._store) == offer.count:
            self._finish()

    @property
    def done(self) -> bool:
        """Whether all is here and the SHA-256 is right."""
        return self._done

    @property
    def missing(self) -> int:
        """How many chunks have not come."""
        return 0 if self._done else self.offer.count - len(self._store)

    @property
    def data(self) -> bytes:
        """The whole body. Raises ValueError while it is not `done`."""
        if not self._done:
            raise ValueError(f"{self.missing} of {self.offer.count} chunks are missing")
        return self._store.data()

    def wants(self) -> tuple[int, ...]:
        """Return what to ask for now and note it as asked; () while half a window is still to come."""
        if self._done or len(self._asked) > self.window // 2:
            return ()
        wants = []
        while self._next < self.offer.count and len(self._asked) < self.window:
            if self._next not in self._store:
                wants.append(self._next)
                self._asked.add(self._next)
            self._next += 1
        return tuple(wants)

    def retry(self) -> None:
        """Forget what was asked for: the link or the sender was lost, or a deadline has passed."""
        self._asked.clear()
        self._next = 0

    def add(self, chunk: Chunk) -> bool:
        """Take `chunk`; return whether it was new. Raises WireError where it is not one of this body."""
        if chunk.digest != self.offer.digest or chunk.index >= self.offer.count:
            raise WireError("malformed", f"chunk {chunk.index} is not of the body offered")
        if len(chunk.data) != _length(self.offer, chunk.index):
            raise WireError("malformed", f"chunk {chunk.index} has {len(chunk.data)} bytes")
        self._asked.discard(chunk.index)
        if self._done or chunk.index in self._store:
            return False
        self._store.put(chunk.index, chunk.data)
        if len(self._store) == self.offer.count:
            self._finish()
        return True

    def discard(self) -> None:
        """Remove the files of a body that nobody waits for any more; the assembly ends with this."""
        self._store.remove()
        self._done = False

    def _finish(self) -> None:
        if self._store.seal(self.offer.digest):
            self._done = True
        else:  # a chunk was damaged, and none says which: all over again
            self.wrong += 1
            self._store.clear()
            self.retry()


def check(offer: Offer, limit: int) -> None:
    """Raise WireError unless the numbers of `offer` agree and `size` is at most `limit` bytes."""
    if offer.size > limit:
        raise WireError("too large", f"{offer.what} of {offer.size} bytes: at most {limit} are taken")
    if not 1 <= offer.chunk <= LARGEST or offer.size < 1 or offer.count != -(-offer.size // offer.chunk):
        raise WireError(
            "malformed", f"{offer.size} bytes are not {offer.count} chunks of {offer.chunk} (1 to {LARGEST})"
        )
    if offer.first is not None and len(offer.first) != _length(offer, 0):
        raise WireError("malformed", f"the first chunk has {len(offer.first)} bytes")


def _store(offer: Offer, path: Path | None) -> _Memory | _File:
    if path is None:
        return _Memory()
    return _Whole(path) if offer.count == 1 else _File(offer, path)


def _length(offer: Offer, index: int) -> int:
    """Return how many bytes chunk `index` has: only the last is shorter."""
    return min(offer.chunk, offer.size - index * offer.chunk)


class _Memory:
    """Chunks in memory: takes as much as has come, whatever the offer says."""

    ready = False

    def __init__(self) -> None:
        self._chunks: dict[int, bytes] = {}
        self._whole = b""

    def __len__(self) -> int:
        return len(self._chunks)

    def __contains__(self, index: int) -> bool:
        return index in self._chunks

    def put(self, index: int, data: bytes) -> None:
        self._chunks[index] = data

    def seal(self, digest: bytes) -> bool:
        self._whole = b"".join(self._chunks[i] for i in range(len(self._chunks)))
        self._chunks.clear()
        return hashlib.sha256(self._whole).digest() == digest

    def data(self) -> bytes:
        return self._whole

    def clear(self) -> None:
        self._chunks.clear()
        self._whole = b""

    def remove(self) -> None:
        self.clear()


class _Whole(_Memory):
    """A body of one chunk: nothing to resume, so it is written once, when it is right."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._part = path.with_name(path.name + ".part")

    def seal(self, digest: bytes) -> bool:
        right = super().seal(digest)
        if right:
            with _told(self._path):
                self._part.write_bytes(self._whole)
                self._part.replace(self._path)
        return right

    def remove(self) -> None:
        super().remove()
        with _told(self._path):
            for path in (self._path, self._part):
                path.unlink(missing_ok=True)


class _File:
    """Chunks in `<path>.part`, and one bit for each in `<path>.have` behind the offer's numbers.

    Data is written before its bit: after kill -9 a bit never lies. After a power cut it may; SHA-256 tells.
    """

    def __init__(self, offer: Offer, path: Path) -> None:
        self._offer = offer
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._note = path.with_name(path.name + ".have")
        self._head = offer.digest + offer.size.to_bytes(8, "big") + offer.chunk.to_bytes(8, "big")
        self._bits = bytearray(-(-offer.count // 8))
        self._n = 0
        with _told(path):
            self.ready = path.is_file() and path.stat().st_size == offer.size and self._right(path)
            if self.ready:  # killed just after it was sealed, the note may be left
                self._note.unlink(missing_ok=True)
            else:
                self._resume()

    def _resume(self) -> None:
        note = self._note.read_bytes() if self._note.is_file() and self._part.is_file() else b""
        if note[: len(self._head)] == self._head and len(note) == len(self._head) + len(self._bits):
            self._bits[:] = note[len(self._head) :]
            self._n = sum(i in self for i in range(self._offer.count))
        else:
            self._part.write_bytes(b"")
            self._note.write_bytes(self._head + bytes(self._bits))

    def __len__(self) -> int:
        return self._n

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] & 1 << (index & 7))

    def put(self, index: int, data: bytes) -> None:
        self._bits[index >> 3] |= 1 << (index & 7)
        self._n += 1
        with _told(self._path):
            _write(self._part, index * self._offer.chunk, data)
            _write(self._note, len(self._head) + (index >> 3), self._bits[index >> 3 : (index >> 3) + 1])

    def seal(self, digest: bytes) -> bool:
        with _told(self._path):
            right = self._right(self._part)
            if right:
                self._part.replace(self._path)
                self._note.unlink()
        return right

    def data(self) -> bytes:
        with _told(self._path):
            return self._path.read_bytes()

    def clear(self) -> None:
        self._bits[:] = bytes(len(self._bits))
        self._n = 0
        with _told(self._path):
            self._part.write_bytes(b"")
            self._note.write_bytes(self._head + bytes(self._bits))

    def remove(self) -> None:
        with _told(self._path):
            for path in (self._path, self._part, self._note):
                path.unlink(missing_ok=True)

    def _right(self, path: Path) -> bool:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == self._offer.digest


def _write(path: Path, at: int, data: bytes | bytearray) -> None:
    file = os.open(path, os.O_WRONLY)  # a buffered file would cost as much as the chunk's way through MQTT
    try:
        if os.pwrite(file, data, at) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn the system's error into one that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot keep {path}: {error.strerror}; is the disk full, the folder writable?") from error
