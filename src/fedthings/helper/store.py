"""What a helper must never forget: which reports it has used, for which batch, and who leads each federation."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fedthings import checkpoint
from fedthings.errors import StoreError
from fedthings.identity.files import private
from fedthings.protocol.events import Ticket

FILE, ANSWERS, NOISE = "helper.sqlite", "answers", "noise"
_TABLES = """
CREATE TABLE IF NOT EXISTS leaders (federation TEXT PRIMARY KEY, key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS batches (digest BLOB PRIMARY KEY, federation TEXT NOT NULL, reports INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS noise (federation TEXT PRIMARY KEY, batch BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS released (
    federation TEXT, device TEXT, version INTEGER, PRIMARY KEY (federation, device, version)
) WITHOUT ROWID;
"""
_REPORTS = """
CREATE TABLE IF NOT EXISTS {} (
    federation TEXT, phase INTEGER, version INTEGER, device TEXT, attempt INTEGER, batch BLOB NOT NULL,
    PRIMARY KEY (federation, phase, version, device, attempt)
) WITHOUT ROWID;
"""
_SUMMED, _CHECKED = "reports", "checked"


class Released(NamedTuple):
    """A version that was given a share with noise, and the state of the noise after it."""

    version: int
    state: dict[str, Any]


class Store:
    """The state in `directory`; what is written is on the disk before it counts. Raises StoreError."""

    def __init__(self, directory: Path) -> None:
        self._answers = directory / ANSWERS
        with _told(directory):
            self._answers.mkdir(parents=True, exist_ok=True, mode=0o700)
            (directory / NOISE).mkdir(exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(directory / FILE, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES + _REPORTS.format(_SUMMED) + _REPORTS.format(_CHECKED))
        self._directory = directory

    def close(self) -> None:
        """Let go of the files."""
        self._db.close()

    # --------------------------------------------------------------------- leaders

    def leader(self, federation: str) -> bytes | None:
        """Return the public key of who leads `federation`, where it is known."""
        with _told(self._directory):
            row = self._db.execute("SELECT key FROM leaders WHERE federation = ?", (federation,)).fetchone()
        return row and bytes(row[0])

    def pin(self, federation: str, key: bytes) -> None:
        """From now on nobody else leads `federation`."""
        with _told(self._directory):
            self._db.execute("INSERT OR IGNORE INTO leaders VALUES (?, ?)", (federation, key))

    # --------------------------------------------------------------------- batches

    def used(self, federation: str, tickets: Sequence[Ticket], norms: bool = False) -> list[Ticket]:
        """Return those of `tickets` that are in a sum already; or, for their `norms`, whose projections are known."""
        with _told(self._directory):
            return [ticket for ticket in tickets if self._batch(_CHECKED if norms else _SUMMED, federation, ticket)]

    def checked(self, federation: str, tickets: Sequence[Ticket]) -> bool:
        """Return whether the norms of `tickets` are known, of all of them from one batch."""
        with _told(self._directory):
            batches = {self._batch(_CHECKED, federation, ticket) for ticket in tickets}
        return len(batches) == 1 and None not in batches

    def _batch(self, table: str, federation: str, ticket: Ticket) -> bytes | None:
        where = "federation = ? AND phase = ? AND version = ? AND device = ? AND attempt = ?"
        row = self._db.execute(f"SELECT batch FROM {table} WHERE {where}", (federation, *ticket)).fetchone()
        return row and bytes(row[0])

    def answer(self, digest: bytes) -> Path | None:
        """Return where the answer to the batch `digest` lies; None where there is none, or not any more."""
        with _told(self._directory):
            row = self._db.execute("SELECT 1 FROM batches WHERE digest = ?", (digest,)).fetchone()
        path = self._path(digest)
        return path if row and path.exists() else None

    def noise(self, federation: str) -> dict[str, Any] | None:
        """Return the state of the noise for `federation` after the last of its batches; None before the first."""
        with _told(self._directory):
            row = self._db.execute("SELECT batch FROM noise WHERE federation = ?", (federation,)).fetchone()
            return None if row is None else checkpoint.unpack(self._noise(bytes(row[0])).read_bytes())

    def too_often(
        self, federation: str, tickets: Sequence[Ticket], version: int, apart: int, times: int
    ) -> list[Ticket]:
        """Return those whose devices are in `times` sums with noise, or in one less than `apart` before `version`."""
        ask = "SELECT count(*), max(version) FROM released WHERE federation = ? AND device = ?"
        with _told(self._directory):
            found = [(t, self._db.execute(ask, (federation, t.device)).fetchone()) for t in tickets]
        return [ticket for ticket, (count, last) in found if count and (count >= times or version - last < apart)]

    def commit(
        self,
        federation: str,
        digest: bytes,
        tickets: Sequence[Ticket],
        answer: bytes,
        norms: bool = False,
        made: Released | None = None,
    ) -> Path:
        """Write down that `tickets` are used for the batch `digest`, with its answer, and return where that lies.

        Answers of the federation's earlier batches go: who asks for the next has them in a checkpoint. What was `made`
        with noise is never made anew: before this nobody has it, and after it the next noise is another.
        """
        path = self._path(digest)
        with _told(self._directory):
            if made is not None:
                private(self._noise(digest), checkpoint.pack(made.state), fsync=True)
            private(path, answer, fsync=True)
            before = [
                bytes(row[0])
                for row in self._db.execute("SELECT digest FROM batches WHERE federation = ?", (federation,))
            ]
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute("INSERT INTO batches VALUES (?, ?, ?)", (digest, federation, len(tickets)))
                self._db.executemany(
                    f"INSERT INTO {_CHECKED if norms else _SUMMED} VALUES (?, ?, ?, ?, ?, ?)",
                    [(federation, *ticket, digest) for ticket in tickets],
                )
                if made is not None:
                    self._db.execute("INSERT OR REPLACE INTO noise VALUES (?, ?)", (federation, digest))
                    rows = [(federation, ticket.device, made.version) for ticket in tickets]
                    self._db.executemany("INSERT INTO released VALUES (?, ?, ?)", rows)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            for old in before:
                self._path(old).unlink(missing_ok=True)
                self._noise(old).unlink(missing_ok=True)
        return path

    def _noise(self, digest: bytes) -> Path:
        return self._directory / NOISE / f"{digest.hex()}.cbor"

    def _path(self, digest: bytes) -> Path:
        return self._answers / f"{digest.hex()}.cbor"


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    """Turn what the disk says into ours."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"the helper's state in {directory} cannot be kept: {error}; make room or check the directory's rights, "
            "then start again: nothing is used twice"
        ) from error
