"""Who says so: the signature of a device under its keys for a version, and what tells that it is the device's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

SIGNATURE = 64
"""Bytes of a signature (Ed25519, RFC 8032)."""

Verify: TypeAlias = Callable[[str, bytes, bytes, bytes], bool]
"""`verify(device, public, data, signature)`: whether `public` is the identity of `device` and has signed `data`."""


class Signing(NamedTuple):
    """`sign(data)` signs by the device's identity, whose public key is `public`; others it knows by `verify`."""

    public: bytes
    sign: Callable[[bytes], bytes]
    verify: Verify


def by(key: bytes) -> Signing:
    """Return what signs with the private `key` of a device, which believes what it is told of the keys of others."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(key)
    return Signing(private.public_key().public_bytes_raw(), private.sign, verified)


def own() -> Signing:
    """Return one with a key of its own, made now, for a device that has no identity: it does not say who it is."""
    return by(os.urandom(32))


def of(enrolled: Callable[[str], bytes | None]) -> Verify:
    """Return what believes each device only with the public key that it has `enrolled` with."""

    def verify(device: str, public: bytes, data: bytes, signature: bytes) -> bool:
        return public == enrolled(device) and verified(device, public, data, signature)

    return verify


def verified(device: str, public: bytes, data: bytes, signature: bytes) -> bool:
    """Return whether the holder of the key `public` has signed `data`, whosever it is."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
