"""Private keys of 32 bytes: made on the first start, kept in a file of their owner's, told to others as text.

A participant signs with Ed25519 (RFC 8032); the two servers of secure mode agree with X25519. For both any 32 random
bytes are a private key.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from pathlib import Path

from fedthings.errors import SpecError, StoreError
from fedthings.identity.files import private

KEY = 32
"""Bytes of a public or private key."""
ID = 8
"""Bytes that name a public key: the first of its SHA-256."""


def held(path: Path) -> bytes:
    """Return the private key in the file `path`, which is made, mode 0600, where there is none. Raises StoreError."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            private(path, os.urandom(KEY), fsync=True)
        key = path.read_bytes()
    except OSError as error:
        raise StoreError(f"the key {path} cannot be read or made: {error.strerror}") from None
    if len(key) != KEY:
        raise StoreError(f"the key {path} is damaged: it has {len(key)} bytes, not {KEY}; bring it back from a copy")
    return key


def public_of(key: bytes) -> bytes:
    """Return the public key (Ed25519) of the private `key`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()


def key_id(public: bytes) -> bytes:
    """Return the 8 bytes that name a public key."""
    return sha256(public).digest()[:ID]


def fingerprint(public: bytes) -> str:
    """Return `key_id` as people compare it: 16 hex digits."""
    return key_id(public).hex()


def spelled(key: bytes) -> str:
    """Return a public key as text: 43 letters, digits, - and _."""
    return urlsafe_b64encode(key).rstrip(b"=").decode()


def parsed(text: str, name: str, source: str) -> bytes:
    """Return the key that `text` spells; `name` is where it stands, `source` who prints it. Raises SpecError."""
    try:
        key = urlsafe_b64decode(text + "=")
    except ValueError:
        key = b""
    if len(key) != KEY or spelled(key) != text:
        raise SpecError(f"{name} is {text!r:.60}: give a public key, the 43 characters that {source} prints")
    return key
