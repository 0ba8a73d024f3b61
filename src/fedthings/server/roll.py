"""The roll: who may join with which key, the tokens that are out, and the keys that nobody believes any more.

It is in the state of the run directory. Of a token its public half is there, of a password its hash: nothing on the
roll lets anybody in.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from fedthings.errors import SpecError, StoreError, WireError
from fedthings.identity import passwords, tokens
from fedthings.identity.keys import fingerprint, key_id
from fedthings.identity.seal import Known
from fedthings.identity.tokens import PREFIX, Token
from fedthings.messages import Enrol
from fedthings.server.store import DEVICES, META, Store
from fedthings.transport.topics import COORDINATOR
from fedthings.wire import NAME

INVITED, WAITING, ENROLLED, QUARANTINED, REVOKED = "invited", "waiting", "enrolled", "quarantined", "revoked"
"""What a device is: it has a token of its own; it waits for approval; it takes part; it is given no work; it is out."""

TOKENS = sa.Table(
    "tokens",
    META,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("password", sa.Text, nullable=False),
    sa.Column("name", sa.String(64), nullable=False),  # of the device that it is for; "" for any
    sa.Column("group", sa.String(64), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("used", sa.Integer, nullable=False, default=0),
    sa.Column("approve", sa.Boolean, nullable=False),  # whether the operator is asked
)
REVOCATIONS = sa.Table(
    "revocations",
    META,
    sa.Column("kid", sa.LargeBinary, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
)


class Listed(NamedTuple):
    """One device on the roll; `key` is public, `password` a hash."""

    state: str
    key: bytes | None
    password: str


class Reading(NamedTuple):
    """The roll at one moment: every device by name, whose signatures are believed, and whom a broker lets in.

    `logins` are devices, and those who have a token, with the hash of each password.
    """

    devices: dict[str, Listed]
    known: Known
    logins: dict[str, str]


class Roll:
    """The roll in `store`. Each method is one transaction, and raises StoreError where it cannot be."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # ------------------------------------------------------------------ reading

    def read(self) -> Reading:
        """Return what is on it."""
        columns = sa.select(DEVICES.c.name, DEVICES.c.state, DEVICES.c.key, DEVICES.c.password)
        out = sa.select(TOKENS.c.id, TOKENS.c.password).where(TOKENS.c.expires > time.time())
        with self._store.reading() as connection:
            devices = {name: Listed(*rest) for name, *rest in connection.execute(columns.order_by(DEVICES.c.name))}
            revoked = frozenset(connection.execute(sa.select(REVOCATIONS.c.kid)).scalars())
            guests = {row.id: row.password for row in connection.execute(out)}
        inside = {name: device for name, device in devices.items() if device.state in (ENROLLED, QUARANTINED)}
        keys = {name: device.key for name, device in inside.items() if device.key is not None}
        logins = {name: device.password for name, device in inside.items()}
        return Reading(devices, Known(keys, revoked), logins | guests)

    def of(self, group: str) -> list[str]:
        """Return who is in `group`."""
        with self._store.reading() as connection:
            names = sa.select(DEVICES.c.name).where(DEVICES.c.group == group).order_by(DEVICES.c.name)
            return list(connection.execute(names).scalars())

    # ------------------------------------------------------------------- tokens

    def issue(self, out: Sequence[Token], count: int = 1, approve: bool = False, again: bool = False) -> None:
        """Note that these tokens are out, each for `count` devices.

        `again`: in place of those that their names have had, whose keys are replaced when the new ones are enrolled.
        """
        names = [token.name for token in out if token.name]
        with self._store.transaction() as connection:
            there = set(connection.execute(sa.select(DEVICES.c.name)).scalars())
            if again:
                _need(names, there)
                connection.execute(TOKENS.delete().where(TOKENS.c.name.in_(names)))
            elif taken := there & set(names):
                remedy = f"`fedthings devices rotate {min(taken)}` makes a new token"
                raise StoreError(f"the device {min(taken)} is there already: {remedy}, `remove` takes it off the list")
            rows = [
                {
                    "id": token.id,
                    "key": tokens.public(token),
                    "password": passwords.hashed(token.password),
                    "name": token.name,
                    "group": token.group,
                    "expires": token.expires,
                    "count": count,
                    "used": 0,
                    "approve": approve,
                }
                for token in out
            ]
            connection.execute(TOKENS.insert(), rows)
            new = [
                {"name": token.name, "state": INVITED, "group": token.group, "added": time.time(), "password": ""}
                for token in out
                if token.name and not again
            ]
            if new:
                connection.execute(DEVICES.insert(), new)

    def enrol(self, sender: str, enrol: Enrol) -> str:
        """Take what `sender` shows, and return in which state that device is then.

        Raises WireError with the reason that is counted and answered.
        """
        name, kid = enrol.name, key_id(enrol.key)
        with self._store.transaction() as connection:
            token = connection.execute(TOKENS.select().where(TOKENS.c.id == enrol.token)).first()
            if token is None:
                raise WireError("unknown token", f"{enrol.token[:40]}, for {name[:64]}")
            tokens.check(enrol, token.key)
            if sender not in (enrol.token, name):
                raise WireError("another's topic", f"{sender} cannot enrol {name}")
            if connection.execute(REVOCATIONS.select().where(REVOCATIONS.c.kid == kid)).first():
                raise WireError("revoked key", f"{kid.hex()} of {name}")
            device = connection.execute(DEVICES.select().where(DEVICES.c.name == name)).first()
            if device is not None and device.key == enrol.key and device.state != REVOKED:
                return str(device.state)  # the answer was lost
            _usable(token, name, device)
            if passwords.parts(enrol.password) is None:
                raise WireError("malformed", f"the password of {name} is no hash like $7$...")
            if taken := connection.execute(sa.select(DEVICES.c.name).where(DEVICES.c.key == enrol.key)).scalar():
                raise WireError("key in use", f"{kid.hex()} is the key of {taken}")
            if device is not None and device.key is not None:
                _revoke(connection, device)
            state = WAITING if token.approve else QUARANTINED if device and device.state == QUARANTINED else ENROLLED
            values: dict[str, Any] = {"state": state, "key": enrol.key, "password": enrol.password}
            if device is None:
                row = {**values, "name": name, "group": token.group, "added": time.time()}
                connection.execute(DEVICES.insert(), row)
            else:
                connection.execute(DEVICES.update().where(DEVICES.c.name == name).values(**values))
            connection.execute(TOKENS.update().where(TOKENS.c.id == token.id).values(used=token.used + 1))
            return state

    # ----------------------------------------------------------------- managing

    def approve(self, names: Sequence[str]) -> None:
        """Let those take part who wait, or are in quarantine."""
        self._move(names, (WAITING, QUARANTINED, ENROLLED), ENROLLED, "it has not enrolled its key yet")

    def quarantine(self, names: Sequence[str]) -> None:
        """Give no work to these, who stay linked."""
        self._move(names, (ENROLLED, QUARANTINED), QUARANTINED, "it takes no part yet")

    def revoke(self, names: Sequence[str]) -> None:
        """Believe the keys of these no longer; they stay on the list."""
        with self._store.transaction() as connection:
            _out(connection, names)

    def remove(self, names: Sequence[str]) -> None:
        """Take these off the list; nobody believes their keys any more."""
        with self._store.transaction() as connection:
            _out(connection, names)
            connection.execute(DEVICES.delete().where(DEVICES.c.name.in_(names)))

    def forget(self, name: str) -> None:
        """Keep nothing of `name` but what the store knows: neither its tokens nor the keys that it has had."""
        with self._store.transaction() as connection:
            for table in (TOKENS, REVOCATIONS):
                connection.execute(table.delete().where(table.c.name == name))

    def rename(self, old: str, new: str) -> None:
        """Let the device `old` be called `new`, with its key and what it has cost."""
        check(new)
        with self._store.transaction() as connection:
            _rows(connection, [old])
            if connection.execute(DEVICES.select().where(DEVICES.c.name == new)).first():
                raise StoreError(f"the device {new} is there already: choose another name for {old}")
            for table in (DEVICES, TOKENS):
                connection.execute(table.update().where(table.c.name == old).values(name=new))

    def group(self, names: Sequence[str], group: str) -> None:
        """Put these into `group`, "" for none."""
        if group:
            check(group, "a group")
        with self._store.transaction() as connection:
            _rows(connection, names)
            connection.execute(DEVICES.update().where(DEVICES.c.name.in_(names)).values(group=group))

    def _move(self, names: Sequence[str], before: tuple[str, ...], after: str, otherwise: str) -> None:
        with self._store.transaction() as connection:
            for device in _rows(connection, names):
                if device.state not in before:
                    raise StoreError(f"the device {device.name} is {device.state}: {otherwise}")
            connection.execute(DEVICES.update().where(DEVICES.c.name.in_(names)).values(state=after))


def check(name: str, what: str = "a device") -> None:
    """Raise SpecError unless `name` can be a device's: part of a topic and of a file's name."""
    if not NAME.fullmatch(name) or not name.strip("."):
        raise SpecError(f"{what} cannot be called {name!r}: use 1 to 64 of A-Z a-z 0-9 . _ -")
    if name == COORDINATOR:
        raise SpecError(f"{what} cannot be called {name!r}, which is the coordinator's: choose another name")
    if name.startswith(PREFIX):
        raise SpecError(f"{what} cannot be called {name!r}: names that begin with {PREFIX} are those of tokens")


def _usable(token: Any, name: str, device: Any) -> None:
    """Raise WireError unless `token` may enrol a new key for `name`, whose row is `device`, None where it is new."""
    if time.time() > token.expires:
        raise WireError("expired token", f"{token.id}, for {name}: ask for a new one")
    if token.name and token.name != name:
        raise WireError("another's token", f"{token.id} is for {token.name}, not for {name[:64]}")
    if token.used >= token.count:
        raise WireError("token used twice", f"{token.id} was for {token.count}, and {name} comes with another key")
    if device is not None and token.name != name:
        raise WireError("name taken", f"{name} is on the list, and {token.id} is for new devices")
    try:
        check(name)
    except SpecError as error:
        raise WireError("malformed", str(error)) from None


def _rows(connection: sa.Connection, names: Sequence[str]) -> Sequence[Any]:
    rows = connection.execute(DEVICES.select().where(DEVICES.c.name.in_(names))).all()
    if len(rows) < len(set(names)):
        _need(names, connection.execute(sa.select(DEVICES.c.name).order_by(DEVICES.c.name)).scalars())
    return rows


def _need(names: Iterable[str], there: Iterable[str]) -> None:
    known = sorted(there)
    for name in names:
        if name not in known:
            shown = ", ".join(known[:10]) or "nobody"
            raise StoreError(f"the device {name!r} is not on the list, which has {shown}")


def _out(connection: sa.Connection, names: Sequence[str]) -> None:
    for device in _rows(connection, names):
        _revoke(connection, device)
    gone = {"state": REVOKED, "key": None, "password": ""}
    connection.execute(DEVICES.update().where(DEVICES.c.name.in_(names)).values(**gone))
    connection.execute(TOKENS.delete().where(TOKENS.c.name.in_(names)))


def _revoke(connection: sa.Connection, device: Any) -> None:
    if device.key is None:
        return
    kid = key_id(device.key)
    if not connection.execute(REVOCATIONS.select().where(REVOCATIONS.c.kid == kid)).first():
        connection.execute(REVOCATIONS.insert(), {"kid": kid, "name": device.name})


def shown(device: Mapping[str, Any]) -> str:
    """Return the fingerprint of a device's key, "-" where it has none."""
    return fingerprint(device["key"]) if device["key"] else "-"
