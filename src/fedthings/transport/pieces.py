"""Where the chunks of a body lie while it is coming in: in memory, or in a file that a new process goes on with."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fedthings.errors import StoreError

_BLOCK = 1 << 18  # bytes that are read at once to be hashed
_HERE = b"\1"


class Store(Protocol):
    """The pieces of one body. Each method may raise StoreError where there is a file."""

    ready: bool
    state: bytes  # one byte a grain, 1 where it is here, as it was found

    def put(self, start: int, data: bytes, grain: int) -> None:
        """Keep `data` from byte `start` on, and then that its grains, from `grain` on, are here."""

    def read(self, start: int) -> Iterator[bytes]:
        """Yield what is here from byte `start` on."""

    def seal(self) -> None:
        """The body is whole and right."""

    def data(self) -> bytes:
        """Return the body, which is sealed."""

    def clear(self) -> None:
        """Begin anew."""

    def remove(self) -> None:
        """Leave nothing behind."""


class MemoryStore:
    """Pieces in memory: takes as much as has come, whatever the offer says."""

    ready = False

    def __init__(self, grains: int) -> None:
        self.state = bytes(grains)
        self._body = bytearray()
        self._whole = b""

    def put(self, start: int, data: bytes, grain: int) -> None:
        if len(self._body) < start:
            self._body += bytes(start - len(self._body))
        self._body[start : start + len(data)] = data

    def read(self, start: int) -> Iterator[bytes]:
        yield bytes(self._body[start:])

    def seal(self) -> None:
        self._whole, self._body = bytes(self._body), bytearray()

    def data(self) -> bytes:
        return self._whole

    def clear(self) -> None:
        self._body.clear()
        self._whole = b""

    def remove(self) -> None:
        self.clear()


class OneChunkStore(MemoryStore):
    """A body of one chunk: nothing to resume, so it is written once, when it is right.

    Killed meanwhile it leaves half a file, which nobody takes for the body: no event speaks of it yet.
    """

    def __init__(self, grains: int, path: Path) -> None:
        super().__init__(grains)
        self._path = path

    def seal(self) -> None:
        super().seal()
        with _told(self._path), _opened(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            _write(file, self._whole, 0)

    def remove(self) -> None:
        super().remove()
        with _told(self._path):
            self._path.unlink(missing_ok=True)


class FileStore:
    """Pieces in `<path>.part`, and behind the place of the last one a byte for each grain, after the offer's numbers.

    Data is written before its bytes: after kill -9 none lies. After a power cut one may; SHA-256 tells.
    """

    def __init__(self, digest: bytes, size: int, grain: int, path: Path) -> None:
        self._digest, self._size = digest, size
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._grain = grain
        self._head = digest + size.to_bytes(8, "big") + grain.to_bytes(8, "big")
        self.state = bytes(-(-size // grain))
        with _told(self._path):
            self.ready = self._is(self._path) or self._resume()

    def _resume(self) -> bool:
        """Go on with what is in the file, and return whether that is all."""
        with _opened(self._part, os.O_RDWR | os.O_CREAT) as file:
            length = os.fstat(file).st_size
            if length == self._size and self._is(self._part):
                self._part.replace(self._path)  # killed just before the file got its name
                return True
            if length == self._size + len(self._head) + len(self.state):
                found = os.pread(file, length, self._size)
                if found.startswith(self._head):
                    self.state = found[len(self._head) :]
                    return False
            self._renew(file)
        return False

    def _renew(self, file: int) -> None:
        os.truncate(file, 0)
        _write(file, self._head + bytes(len(self.state)), self._size)

    def put(self, start: int, data: bytes, grain: int) -> None:
        with _told(self._path), _opened(self._part, os.O_WRONLY) as file:
            _write(file, data, start)
            _write(file, _HERE * -(-len(data) // self._grain), self._size + len(self._head) + grain)

    def read(self, start: int) -> Iterator[bytes]:
        if start == self._size:
            return
        with _told(self._path), self._part.open("rb") as file:
            file.seek(start)
            while start < self._size:
                data = file.read(min(_BLOCK, self._size - start))
                start += len(data)
                yield data

    def seal(self) -> None:
        with _told(self._path):
            os.truncate(self._part, self._size)
            self._part.replace(self._path)

    def data(self) -> bytes:
        with _told(self._path):
            return self._path.read_bytes()

    def clear(self) -> None:
        with _told(self._path), _opened(self._part, os.O_WRONLY | os.O_CREAT) as file:
            self._renew(file)

    def remove(self) -> None:
        with _told(self._path):
            for path in (self._path, self._part):
                path.unlink(missing_ok=True)

    def _is(self, path: Path) -> bool:
        """Return whether `path` is the body, whole and right."""
        try:
            if path.stat().st_size != self._size:
                return False
        except FileNotFoundError:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == self._digest


def _write(file: int, data: bytes, at: int) -> None:
    if os.pwrite(file, data, at) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _opened(path: Path, how: int) -> Iterator[int]:
    """Open the file at `path` and close it: there may be thousands, so that none stays open."""
    file = os.open(path, how, 0o666)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn the system's error into one that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot keep {path}: {error.strerror}; is the disk full, the folder writable?") from error
