"""Who a device is, in its own directory: its key, the coordinators that it has enrolled with, and its passwords.

Gateways and helpers are devices in this. All files have mode 0600, and the key leaves its file never.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from fedthings.errors import SpecError, StoreError
from fedthings.identity import passwords
from fedthings.identity.files import private
from fedthings.identity.keys import fingerprint, held, key_id, parsed, public_of
from fedthings.identity.links import Links
from fedthings.identity.seal import DeviceSeal
from fedthings.identity.tokens import Token
from fedthings.privacy import signing
from fedthings.privacy.signing import Signing
from fedthings.transport.topics import ROOT

FILE, KEY_FILE, LINKS_FILE = "identity.json", "identity.key", "identity.links"


class Standing(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How this device stands with one coordinator: by which token, under which key and password of its own.

    `token` is kept until it is `enrolled`, and with it the standing `before`, whose key it is to replace.
    """

    id: str
    coordinator: str
    password: str
    enrolled: bool = False
    token: Token | None = None
    before: Standing | None = None
    broker: str = ""
    root: str = ROOT
    ca: str = ""

    @property
    def pinned(self) -> bytes:
        """The coordinator's public key."""
        return parsed(self.coordinator, f"the coordinator of {self.id}", "`fedthings enrol`")


class _Saved(Struct, forbid_unknown_fields=True):
    standings: list[Standing]


class Identity:
    """The device `name` in `directory`, with the new `tokens` that it has been given, if any, in the brokers' order.

    Raises StoreError where the directory cannot be used, SpecError for a device that has no token and never had one.
    """

    def __init__(self, directory: Path, name: str, tokens: Sequence[Token] = ()) -> None:
        self.directory, self.name = directory, name
        self._path = directory / FILE
        known = self._read()
        self.standings = list(known.standings) if known is not None else []
        if not self._replacing:
            self._forget()  # here, since it may have been killed before
        new = [given for given in enumerate(tokens) if all(given[1].id != known.id for known in self.standings)]
        self._check([token for _, token in new])
        theirs = {token.coordinator for _, token in new}
        if self.standings and all(k.coordinator in theirs and not k.enrolled and not k.before for k in self.standings):
            self._remove(directory / KEY_FILE)  # it was refused, or taken off the list: no list takes it again
        for place, token in new:
            self._take(place, token)
        if self._replacing and not self._aside.exists():
            self._move(directory / KEY_FILE, self._aside)  # here, for the same reason
        if not self.standings:
            raise SpecError(
                f"{name} has no token, and {directory} was never enrolled: give the file that `fedthings enrol "
                f"{name}` makes with --token"
            )

    @property
    def _replacing(self) -> bool:
        """Whether the key is to replace one that is put aside, until all who know that one have answered."""
        return any(standing.before for standing in self.standings)

    def _check(self, new: Sequence[Token]) -> None:
        """Raise SpecError where the `new` tokens replace a key that a coordinator knows for whom none of them is."""
        theirs = {token.coordinator for token in new}
        known = [standing for standing in self.standings if standing.enrolled and not self._replacing]
        left = [standing for standing in known if standing.coordinator not in theirs]
        if left and len(left) < len(known):
            shown = ", ".join(f"{fingerprint(standing.pinned)} by {standing.id}" for standing in left)
            raise SpecError(
                f"{self.name} has one key for all its coordinators, and the new token replaces it, while these know "
                f"the old one: {shown}; let each rotate it (`fedthings devices rotate {self.name}`), and give all "
                "the new tokens together, a --token each"
            )

    def _take(self, place: int, token: Token) -> None:
        """Take a new token; where the same coordinator knows a key, another is made, and that one put aside."""
        before = next((known for known in self.standings if known.coordinator == token.coordinator), None)
        if before is not None:
            place = self.standings.index(before)
            self.standings.remove(before)
            token = replace(token, broker=token.broker or before.broker)
            before = before if before.enrolled else before.before
        new = Standing(
            token.id,
            token.coordinator,
            passwords.drawn(),
            token=token,
            before=before,
            broker=token.broker,
            root=token.root,
            ca=token.ca,
        )
        self.standings.insert(place, new)
        self._write()

    def enrolled(self, standing: Standing) -> None:
        """Note that a coordinator knows this device's key by now. Raises StoreError."""
        at = [known.id for known in self.standings].index(standing.id)
        self.standings[at] = replace(standing, enrolled=True, token=None, before=None)
        self._write()
        if not self._replacing:
            self._forget()

    def refused(self, standing: Standing) -> None:
        """Go back to the key that the coordinators know, where a new one was refused. Raises StoreError.

        Once another knows the new one there is no way back: the token stays, until it or another is accepted.
        """
        if standing.before is not None and not any(known.enrolled for known in self.standings):
            self._move(self._aside, self.directory / KEY_FILE)
            self.standings = [known.before or known for known in self.standings]
            self._write()

    @property
    def _aside(self) -> Path:
        return self.directory / f"{KEY_FILE}.before"

    def _forget(self) -> None:
        self._remove(self._aside)

    def _remove(self, key: Path) -> None:
        try:
            key.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"the old key {key} cannot be removed: {error.strerror}") from None

    def _move(self, key: Path, to: Path) -> None:
        try:
            if key.exists():
                key.replace(to)
        except OSError as error:
            raise StoreError(f"the key {key} cannot be put aside: {error.strerror}") from None

    @property
    def key(self) -> bytes:
        """The private key, which is made where there is none. Raises StoreError."""
        return held(self.directory / KEY_FILE)

    @property
    def public(self) -> bytes:
        """The public key."""
        return public_of(self.key)

    def signing(self) -> Signing:
        """Return what signs for this device what is passed on to other devices."""
        return signing.by(self.key)

    def seal(self) -> DeviceSeal:
        """Return what signs for this device, and believes the coordinators that it has enrolled with."""
        pinned = [standing.pinned for standing in self.standings]
        return DeviceSeal(self.key, Links(self.directory / LINKS_FILE), {key_id(key): key for key in pinned})

    def standing(self, place: int) -> Standing:
        """Return the standing at the broker that is named at this `place`: its own, or the one for all."""
        return self.standings[place] if place < len(self.standings) else self.standings[0]

    def _read(self) -> _Saved | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Saved) if self._path.exists() else None
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read: {error.strerror}") from None
        except msgspec.MsgspecError:
            raise StoreError(f"{self._path} is damaged: bring it back from a copy, or enrol anew") from None

    def _write(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreError(f"{self.directory} cannot be made: {error.strerror}") from None
        saved = _Saved(self.standings)
        private(self._path, msgspec.json.format(msgspec.json.encode(saved), indent=1).decode() + "\n", fsync=True)


def trust(ca: str, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """Return how a broker's certificate is checked: against those in `ca` (PEM), or the system's where it is "".

    `certificate` and `key` are files of this end's own, for mutual TLS. Raises SpecError.
    """
    try:
        context = ssl.create_default_context(cadata=ca or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (ssl.SSLError, OSError, ValueError, TypeError) as error:  # TypeError: not ASCII
        raise SpecError(f"the certificates cannot be used ({error}): give PEM files") from None
    return context
