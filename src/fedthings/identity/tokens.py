"""Tokens: what a device is given once, in a file of mode 0600, so that it can enrol its own key.

A token is a key pair. The device gets the private half and signs with it what it enrols; the coordinator keeps the
public half, so that nothing in a run directory lets anybody in.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from fedthings.errors import DataError, SpecError, WireError
from fedthings.identity.files import private
from fedthings.identity.keys import parsed, public_of, spelled
from fedthings.messages import Enrol

PREFIX = "token-"
"""What the id of a token begins with, which is its name at the broker."""


class Token(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that a device needs to join. `secret` is a private key, `coordinator` the public key to pin.

    `name` is fixed, or "" for whoever has the file; `expires` in seconds since 1970; `broker` may be left to the
    device; `ca` are certificates (PEM) that the broker's must be signed by, "" for the system's.
    """

    id: str
    secret: str
    coordinator: str
    expires: float
    name: str = ""
    group: str = ""
    broker: str = ""
    root: str = "ft"
    ca: str = ""

    @property
    def password(self) -> str:
        """The broker's password for the user `id`, derived from the secret (HKDF, RFC 5869)."""
        key = HKDF(SHA256(), 24, None, b"fedthings broker").derive(self.key)
        return spelled(key)

    @property
    def key(self) -> bytes:
        """The token's private key. Raises SpecError, never with what it is."""
        try:
            return parsed(self.secret, "", "")
        except SpecError:
            remedy = "ask for a new token, by `fedthings devices rotate`"
            raise SpecError(f"the secret of {self.id} is damaged: {remedy}") from None

    @property
    def pinned(self) -> bytes:
        """The coordinator's public key. Raises SpecError."""
        return parsed(self.coordinator, f"the coordinator of {self.id}", "`fedthings enrol`")

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return time.time() > self.expires

    def write(self, path: Path) -> None:
        """Write it to `path`, mode 0600. Raises StoreError."""
        private(path, msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n")


def made(coordinator: bytes, expires: float, name: str = "", group: str = "") -> Token:
    """Return a new token for the coordinator with this public key."""
    secret = secrets.token_bytes(32)
    return Token(PREFIX + secrets.token_hex(6), spelled(secret), spelled(coordinator), expires, name, group)


def read(path: str | Path) -> Token:
    """Return the token in the file `path`. Raises DataError, never with what is in it."""
    try:
        token = msgspec.json.decode(Path(path).read_bytes(), type=Token)
        _ = token.key, token.pinned
        return token
    except OSError as error:
        raise DataError(f"the token {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, SpecError):
        raise DataError(f"{path} is not a token: ask for one that `fedthings enrol` has made") from None


def presented(token: Token, name: str, key: bytes, password: str) -> Enrol:
    """Return what enrols the public `key` for `name`, with the hash of the `password` that the broker is to ask for."""
    proof = Ed25519PrivateKey.from_private_bytes(token.key).sign(_claim(name, key, password))
    return Enrol(token.id, name, key, password, proof)


def check(enrol: Enrol, public: bytes) -> None:
    """Raise WireError unless whoever says `enrol` has the token with this public key."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(enrol.proof, _claim(enrol.name, enrol.key, enrol.password))
    except (InvalidSignature, ValueError):
        raise WireError("wrong token", f"{enrol.token} was not used to sign this") from None


def public(token: Token) -> bytes:
    """Return the public half of a token: what the coordinator keeps."""
    return public_of(token.key)


def _claim(name: str, key: bytes, password: str) -> bytes:
    return b"fedthings enrol\0" + key + name.encode() + b"\0" + password.encode()
