"""Keys of secure mode, and on what two of them agree (X25519, HKDF); `identity.keys` holds and spells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedthings.errors import WireError
from fedthings.identity.keys import parsed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


def private(key: bytes) -> X25519PrivateKey:
    """Return the private `key` as the library wants it."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(key)


def public_of(key: bytes) -> bytes:
    """Return the public key of the private `key`."""
    return private(key).public_key().public_bytes_raw()


def agreed(key: X25519PrivateKey, other: bytes) -> bytes:
    """Return what X25519 gives for the private `key` and the public one `other` (RFC 7748). Raises WireError."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        return key.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise WireError("malformed", f"a public key that cannot be: {error}") from None


def derived(secret: bytes, info: bytes, length: int) -> bytes:
    """Return a key of `length` bytes for what `info` says (HKDF-SHA256, RFC 5869)."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, None, info).derive(secret)


def public(text: str, name: str) -> bytes:
    """Return the public key that `text` spells; `name` is where it stands. Raises SpecError."""
    return parsed(text, name, "`fedthings helper`")
