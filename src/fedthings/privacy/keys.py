"""Keys on which the two servers of secure mode agree (X25519); `identity.keys` holds and spells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedthings.identity.keys import KEY, held, parsed, spelled

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

__all__ = ["KEY", "held", "private", "public", "public_of", "spelled"]


def private(key: bytes) -> X25519PrivateKey:
    """Return the private `key` as the library wants it."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(key)


def public_of(key: bytes) -> bytes:
    """Return the public key of the private `key`."""
    return private(key).public_key().public_bytes_raw()


def public(text: str, name: str) -> bytes:
    """Return the public key that `text` spells; `name` is where it stands. Raises SpecError."""
    return parsed(text, name, "`fedthings helper`")
