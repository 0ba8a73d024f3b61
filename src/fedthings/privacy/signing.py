"""Who says so: the signature of a device under its keys for a version, and what tells that it is the device's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

SIGNATURE = 64
"""Bytes of a signature (Ed25519, RFC 8032)."""


class Signing(NamedTuple):
    """`sign(data)` signs by the device's identity, whose public key is `public`.

    `verify(device, public, data, signature)` says whether `public` is the identity of `device` and has signed `data`.
    """

    public: bytes
    sign: Callable[[bytes], bytes]
    verify: Callable[[str, bytes, bytes, bytes], bool]


def own() -> Signing:
    """Return one with a key of its own, made now: it tells devices apart, and not who they are."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    return Signing(key.public_key().public_bytes_raw(), key.sign, verified)


def verified(device: str, public: bytes, data: bytes, signature: bytes) -> bool:
    """Return whether the holder of the key `public` has signed `data`; whose key it is, nobody knows."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
