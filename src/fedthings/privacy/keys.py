"""Keys of a server (X25519): made on the first start, kept in a file of its owner's, told to others as text."""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from fedthings.errors import SpecError, StoreError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY = 32
"""Bytes of a public or private key."""


def held(path: Path) -> bytes:
    """Return the private key in the file `path`, which is made, mode 0600, where there is none. Raises StoreError."""
    try:
        if not path.exists():
            from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

            fresh = path.with_name(path.name + ".new")
            fresh.unlink(missing_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(X25519PrivateKey.generate().private_bytes_raw())
                os.fsync(file.fileno())
            fresh.replace(path)
        key = path.read_bytes()
    except OSError as error:
        raise StoreError(f"the key {path} cannot be read or made: {error.strerror}") from None
    if len(key) != KEY:
        raise StoreError(f"the key {path} is damaged: it has {len(key)} bytes, not {KEY}; bring it back from a copy")
    return key


def private(key: bytes) -> X25519PrivateKey:
    """Return the private `key` as the library wants it."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(key)


def public_of(key: bytes) -> bytes:
    """Return the public key of the private `key`."""
    return private(key).public_key().public_bytes_raw()


def spelled(key: bytes) -> str:
    """Return a public key as text: 43 letters, digits, - and _."""
    return urlsafe_b64encode(key).rstrip(b"=").decode()


def public(text: str, name: str) -> bytes:
    """Return the public key that `text` spells; `name` is where it stands. Raises SpecError."""
    try:
        key = urlsafe_b64decode(text + "=")
    except ValueError:
        key = b""
    if len(key) != KEY or spelled(key) != text:
        raise SpecError(f"{name} is {text!r:.60}: give a public key, the 43 characters that `fedthings helper` prints")
    return key
