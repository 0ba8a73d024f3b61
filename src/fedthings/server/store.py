"""The coordinator's durable state: journal, checkpoint, history and devices, in SQLite (WAL) or by URL.

What happens is journaled, and committed before anybody is told what follows from it, so that a restart replays what
was going on (law 8). Events that come together are one transaction: it costs more than what it writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from fedthings import checkpoint, run
from fedthings.errors import StoreError
from fedthings.history import Line

META = sa.MetaData()
JOURNAL = sa.Table(
    "journal",
    META,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("now", sa.Float, nullable=False),
    sa.Column("event", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary),  # the report that arrived, where it lies in no file
)
CHECKPOINT = sa.Table(
    "checkpoint",
    META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("now", sa.Float, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
HISTORY = sa.Table(
    "history",
    META,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("line", sa.Text, nullable=False),
)
DEVICES = sa.Table(
    "devices",
    META,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("password", sa.Text, nullable=False, default=""),
    sa.Column("state", sa.String(16), nullable=False, default="enrolled"),
    sa.Column("key", sa.LargeBinary, index=True),
    sa.Column("group", sa.String(64), nullable=False, default=""),
    sa.Column("added", sa.Float, nullable=False),
    sa.Column("seen", sa.Float),
    sa.Column("reports", sa.Integer, nullable=False, default=0),
    sa.Column("bytes_up", sa.BigInteger, nullable=False, default=0),
    sa.Column("bytes_down", sa.BigInteger, nullable=False, default=0),
)
PARTS = sa.Table(
    "parts",
    META,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("devices", sa.Text, nullable=False),  # of whose reports it was made, a line each
)
FILE = run.STATE
_PAGE = 64  # rows of the journal that are read at once


class Saved(NamedTuple):
    """What a restart begins from: the last checkpoint, and the events journaled since with the reports in them."""

    now: float
    last: float  # when the last event came, or `now`
    state: dict[str, Any]
    events: Iterator[tuple[float, list[Any], bytes | None]]


class Usage(NamedTuple):
    """What one device has cost so far: reports kept, bytes of bodies up and down (law 12)."""

    reports: int
    bytes_up: int
    bytes_down: int


class Store:
    """The state of one run directory. Raises StoreError where it cannot be opened or written.

    `fsync`: every write is on the disk before it counts, which covers a loss of power too.
    """

    def __init__(self, directory: Path, fsync: bool = False, url: str | None = None) -> None:
        self._engine = sa.create_engine(url or f"sqlite:///{directory / FILE}")
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _pragmas(fsync))
        self._journaled: list[dict[str, Any]] = []
        with _told():
            META.create_all(self._engine)
            self._connection = self._engine.connect()

    def close(self) -> None:
        """Let go of the files."""
        self._connection.close()
        self._engine.dispose()

    # ------------------------------------------------------------- the journal

    def journal(self, now: float, event: Sequence[Any], body: bytes | None = None) -> None:
        """Note `event`, plain data, at `now` seconds, and the report that arrived with it; durable with `commit`."""
        self._journaled.append({"now": now, "event": checkpoint.pack(event), "body": body})

    def commit(self) -> None:
        """Write down what was journaled: nobody may be told what follows from it before."""
        if self._journaled:
            with self.transaction() as connection:
                connection.execute(JOURNAL.insert(), self._journaled)
            self._journaled = []

    def checkpoint(
        self,
        now: float,
        state: Mapping[str, Any],
        lines: Sequence[Line],
        usage: Mapping[str, Usage],
        made: int | None = None,
        parts: Iterable[str] = (),
    ) -> None:
        """Make `state`, which knows all that was journaled, the one that a restart begins from; with the history.

        `parts` are those from whose reports the version `made` was made.
        """
        with self.transaction() as connection:
            connection.execute(CHECKPOINT.delete())
            connection.execute(CHECKPOINT.insert(), {"id": 1, "now": now, "state": checkpoint.pack(dict(state))})
            connection.execute(JOURNAL.delete())
            if lines:
                connection.execute(
                    HISTORY.insert(),
                    [{"version": line["version"], "line": json.dumps(line)} for line in lines],
                )
            if usage:
                connection.execute(_USED, [{"device": name, **u._asdict()} for name, u in usage.items()])
            if made is not None:
                connection.execute(PARTS.insert(), {"version": made, "devices": "\n".join(parts)})
        self._journaled = []

    def saved(self) -> Saved | None:
        """Return what to begin from, or None in a new directory."""
        with self.reading() as connection:
            row = connection.execute(sa.select(CHECKPOINT.c.now, CHECKPOINT.c.state)).first()
            last = connection.execute(sa.select(sa.func.max(JOURNAL.c.now))).scalar()
        if row is None:
            return None
        state = checkpoint.unpack(row.state)
        if not isinstance(state, dict) or "terms" not in state:
            raise StoreError("the checkpoint is damaged: bring the run's state back from a copy, or begin anew")
        return Saved(row.now, row.now if last is None else last, state, self._events())

    def _events(self) -> Iterator[tuple[float, list[Any], bytes | None]]:
        """Yield the journal, a few rows in memory at a time."""
        after = -1
        while True:
            page = sa.select(JOURNAL).where(JOURNAL.c.number > after).order_by(JOURNAL.c.number).limit(_PAGE)
            with self.reading() as connection:
                rows = connection.execute(page).all()
            if not rows:
                return
            for row in rows:
                yield row.now, checkpoint.unpack(row.event), row.body
            after = rows[-1].number

    def history(self) -> list[Line]:
        """Return the lines of history that are complete."""
        with self.reading() as connection:
            rows = connection.execute(sa.select(HISTORY.c.line).order_by(HISTORY.c.version)).all()
        try:
            return [json.loads(row.line) for row in rows]
        except ValueError as error:
            raise StoreError(f"the history is damaged ({error}): bring it back from a copy, or begin anew") from None

    # --------------------------------------------------------------- devices

    def know(self, passwords: Mapping[str, str]) -> None:
        """Count what these devices cost here; the list is kept elsewhere, with these hashes of passwords."""
        with self.transaction() as connection:
            known = set(connection.execute(sa.select(DEVICES.c.name)).scalars())
            for name in passwords.keys() - known:
                device = {"name": name, "password": passwords[name], "added": time.time()}
                connection.execute(DEVICES.insert(), device)
            for name in known - passwords.keys():
                connection.execute(DEVICES.delete().where(DEVICES.c.name == name))

    def devices(self) -> list[dict[str, Any]]:
        """Return every device that may join, with what it has cost."""
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(sa.select(DEVICES).order_by(DEVICES.c.name)).mappings()]

    def versions(self, name: str) -> list[int]:
        """Return which versions were made from reports of `name`."""
        with self.reading() as connection:
            rows = connection.execute(sa.select(PARTS).order_by(PARTS.c.version))
            return [row.version for row in rows if name in row.devices.split("\n")]

    def forget(self, name: str, brought: Callable[[list[Any]], bool]) -> None:
        """Remove what is stored of `name`, and the reports in the journal that such events `brought`.

        Nothing of it stays in the file's free pages either.
        """
        with self.transaction() as connection:
            rows = connection.execute(sa.select(JOURNAL.c.number, JOURNAL.c.event)).all()
            arrivals = [row.number for row in rows if brought(checkpoint.unpack(row.event))]
            connection.execute(DEVICES.delete().where(DEVICES.c.name == name))
            for row in connection.execute(sa.select(PARTS)).all():
                names = row.devices.split("\n")
                if name in names:
                    rest = "\n".join(other for other in names if other != name)
                    connection.execute(PARTS.update().where(PARTS.c.number == row.number).values(devices=rest))
            connection.execute(JOURNAL.update().where(JOURNAL.c.number.in_(arrivals)).values(body=None))
        if self._engine.dialect.name == "sqlite":
            with _told(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as alone:
                alone.exec_driver_sql("VACUUM")
                alone.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Read tables, all as they are at one moment; others may write meanwhile. Raises StoreError."""
        with _told():
            try:
                self._begin("BEGIN")
                yield self._connection
            finally:
                self._connection.rollback()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Read and write tables, all of it or nothing; nobody writes in between. Raises StoreError."""
        with _told():
            try:
                self._begin("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.commit()
            except BaseException:
                self._connection.rollback()
                raise

    def _begin(self, words: str) -> None:
        """Begin now: sqlite3 by itself begins with the first write, after what that write rests on was read."""
        if self._engine.dialect.name == "sqlite":
            self._connection.exec_driver_sql(words)


_USED = (
    DEVICES.update()
    .where(DEVICES.c.name == sa.bindparam("device"))
    .values(
        reports=DEVICES.c.reports + sa.bindparam("reports", type_=sa.Integer),
        bytes_up=DEVICES.c.bytes_up + sa.bindparam("bytes_up", type_=sa.BigInteger),
        bytes_down=DEVICES.c.bytes_down + sa.bindparam("bytes_down", type_=sa.BigInteger),
    )
)


def _pragmas(fsync: bool) -> Any:
    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # `Store` begins its transactions
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
        cursor.execute("PRAGMA busy_timeout=5000")
        cursor.close()

    return connected


@contextmanager
def _told() -> Iterator[None]:
    """Turn a database's errors into ours."""
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error)
        if "not a database" in cause or "malformed" in cause:
            raise StoreError(
                f"the run's state is damaged ({cause}): bring it back from a copy, or begin anew"
            ) from error
        raise StoreError(
            f"the run's state cannot be kept: {cause}; make room or check the directory's rights, "
            "then start again: nothing acknowledged is lost"
        ) from error
