"""COSE_Sign1 (RFC 9052, section 4.2) with EdDSA over Ed25519 (RFC 9053, section 2.2): one signature on a message.

Only the form that we write is read, byte by byte, so that nothing is decoded that nobody has signed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedthings.errors import WireError
from fedthings.identity.keys import ID

NUMBER, ANSWERS = -65537, -65538
"""Labels of the protected header, of the range for private use (RFC 9052, section 11.1)."""

_TAG = b"\xd2\x84"  # tag 18, an array of four
_KEY = b"\xa4\x01\x27\x04\x48"  # a map of four: alg EdDSA, kid of 8 bytes ...
_NUMBER, _ANSWERS = (cbor2.dumps(label) for label in (NUMBER, ANSWERS))  # ... and these two, each a whole number
_SIGNATURE = 64


class Signed(NamedTuple):
    """A message as it is signed: by the key `kid`, as the one of this `number`, to the link `answers` of the other.

    `protected` are the bytes of the header that hold these.
    """

    kid: bytes
    number: int
    answers: int
    payload: bytes
    protected: bytes
    signature: bytes


def is_signed(data: bytes) -> bool:
    """Return whether `data` begins as a COSE_Sign1 does; no message of ours begins so."""
    return data[:2] == _TAG


def sign(payload: bytes, key: Ed25519PrivateKey, kid: bytes, number: int, answers: int, external: bytes) -> bytes:
    """Return `payload` signed, with the header's numbers and what is bound to it without being sent, `external`."""
    protected = _KEY + kid + _NUMBER + _head(0, number) + _ANSWERS + _head(0, answers)
    signature = key.sign(_signed(protected, external, payload))
    parts = (_TAG, _text(protected), b"\xa0", _text(payload), _text(signature))
    return b"".join(parts)


def parse(data: bytes) -> Signed:
    """Return what `data` holds, of which nothing is verified yet. Raises WireError."""
    protected, at = _read(data, len(_TAG))
    if data[at : at + 1] != b"\xa0":
        raise WireError("malformed", "a signed message has an empty unprotected header")
    payload, at = _read(data, at + 1)
    signature, at = _read(data, at)
    start = len(_KEY) + ID
    if at != len(data) or len(signature) != _SIGNATURE or not protected.startswith(_KEY):
        raise WireError("malformed", "not a COSE_Sign1 of ours")
    number, place = _number(protected, start, _NUMBER)
    answers, place = _number(protected, place, _ANSWERS)
    if place != len(protected):
        raise WireError("malformed", "a protected header that is not ours")
    return Signed(protected[len(_KEY) : start], number, answers, payload, protected, signature)


def verify(signed: Signed, public: bytes, external: bytes) -> None:
    """Raise WireError unless `signed` was signed with the key of `public`, bound to `external`."""
    try:
        _loaded(public).verify(signed.signature, _signed(signed.protected, external, signed.payload))
    except (InvalidSignature, ValueError):
        raise WireError("wrong signature", "it is not signed with this key, or for another topic") from None


@lru_cache(1 << 16)
def _loaded(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)


def _signed(protected: bytes, external: bytes, payload: bytes) -> bytes:
    """Return the Sig_structure (RFC 9052, section 4.4)."""
    return b"".join((b"\x84\x6aSignature1", _text(protected), _text(external), _text(payload)))


def _text(data: bytes) -> bytes:
    return _head(2, len(data)) + data


def _head(major: int, n: int) -> bytes:
    """Return the shortest head of a CBOR item (RFC 8949, section 3)."""
    if n < 24:
        return bytes((major << 5 | n,))
    size = 1 if n < 1 << 8 else 2 if n < 1 << 16 else 4 if n < 1 << 32 else 8
    return bytes((major << 5 | 23 + size.bit_length(),)) + n.to_bytes(size, "big")


def _argument(data: bytes, at: int, major: int) -> tuple[int, int]:
    """Return the number of the head at `at`, and the place behind it. Raises WireError."""
    kind, info = divmod(data[at], 32) if at < len(data) else (-1, 0)
    if kind != major or info > 27:
        raise WireError("malformed", "not a COSE_Sign1 of ours, or cut short")
    if info < 24:
        return info, at + 1
    end = at + 1 + (1 << (info - 24))
    if end > len(data):
        raise WireError("malformed", "cut short")
    return int.from_bytes(data[at + 1 : end], "big"), end


def _read(data: bytes, at: int) -> tuple[bytes, int]:
    length, start = _argument(data, at, 2)
    if start + length > len(data):
        raise WireError("malformed", "cut short")
    return data[start : start + length], start + length


def _number(data: bytes, at: int, label: bytes) -> tuple[int, int]:
    if data[at : at + len(label)] != label:
        raise WireError("malformed", "a protected header that is not ours")
    return _argument(data, at + len(label), 0)
