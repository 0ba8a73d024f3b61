"""The model on its way down: whole numbers on a grid that stays, of which a device lacks what differs from its own.

Rounding is the lossy part, the same for every device; what differs is then told without loss, whatever a device holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from msgspec import Struct

from fedthings.bodies import Change
from fedthings.compress.quantize import blocked
from fedthings.errors import SpecError, WireError
from fedthings.learn.task import within
from fedthings.stage import Schema, Stage, State, real, untouched
from fedthings.vector import Key, Payload

SCALE = "delta.scale"


class Delta(Struct, frozen=True, tag="delta", forbid_unknown_fields=True):
    """Send a model in `bits` 2 to 8 a number, and to a device that holds one of the `back` last what differs from it.

    A step is a power of two, the smallest with which all of a block are within 2**(bits - 1) - 1 steps of zero, and a
    number goes to the nearest: one that moves little stays the same, and costs next to nothing. Each errs by at
    most half a step, which is at most the largest of its block over 127 at 8 bits. 32 bits are float32: no error.
    Bytes: of the deflated difference (RFC 1951); about bits * dim / 8 where a device holds nothing.
    """

    bits: int = 8
    block: int = 256
    back: int = 32

    def __post_init__(self) -> None:
        if self.bits != 32 and not 2 <= self.bits <= 8:
            raise SpecError(f"down.delta.bits is {self.bits}: it must be 2 to 8, or 32 for no rounding")
        within("down.delta.block", self.block, 8, 1 << 20)
        within("down.delta.back", self.back, 0, 1 << 12)


def build(spec: Delta, schema: Schema) -> Stage:
    """Return the stage that rounds, and undoes it."""
    dim = real(schema, "delta")
    if spec.bits == 32:
        return _planes(dim)
    most = (1 << (spec.bits - 1)) - 1

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        blocks = blocked(payload["x"], spec.block)
        with np.errstate(all="ignore"):
            fraction, exponent = np.frexp(np.abs(blocks).max(-1) / np.float32(most))
            scale = np.ldexp(np.float32(1), exponent - (fraction == 0.5))  # a power of two needs no larger one
            blocks /= scale[..., None]
            codes = np.clip(np.rint(blocks, out=blocks), -most, most).astype(np.int8)
        return {**payload, "x": codes.reshape(len(codes), -1)[:, :dim], SCALE: scale}, states

    def decode(payload: Payload) -> Payload:
        rest = dict(payload)
        codes, scale = rest.pop("x"), rest.pop(SCALE)
        blocks = blocked(codes.astype(np.float32), spec.block)
        with np.errstate(all="ignore"):
            blocks *= scale[..., None]
        return {**rest, "x": blocks.reshape(len(codes), -1)[:, :dim]}

    return Stage(lambda: None, encode, decode, untouched, ())


def _planes(dim: int) -> Stage:
    """Return the stage that puts the first bytes of all float32 first, then the second: in these, models are alike."""

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        parts = np.ascontiguousarray(payload["x"], "<f4").view(np.uint8).reshape(-1, dim, 4)
        return {**payload, "x": parts.swapaxes(-1, -2).reshape(-1, 4 * dim)}, states

    def decode(payload: Payload) -> Payload:
        parts = payload["x"].reshape(-1, 4, dim).swapaxes(-1, -2)
        return {**payload, "x": np.ascontiguousarray(parts).view("<f4").reshape(-1, dim)}

    return Stage(lambda: None, encode, decode, untouched, ())


def change(body: bytes, base: bytes = b"") -> Change:
    """Return how `body` differs from `base`, byte by byte, modulo 256; from nothing it is all of it."""
    difference = np.frombuffer(body, np.uint8).copy()
    shared = min(len(body), len(base))
    difference[:shared] -= np.frombuffer(base, np.uint8, shared)
    # Numbers that differ little are many zeros and few others: runs of one byte are all that there is to find.
    deflate = zlib.compressobj(wbits=-15, strategy=zlib.Z_RLE)
    data = deflate.compress(difference.data) + deflate.flush()
    return Change(_digest(base), sha256(body).digest(), len(body), np.frombuffer(data, np.uint8))


def patched(said: Change, base: bytes, most: int) -> bytes:
    """Return the body of at most `most` bytes that differs from `base` as `said`; nothing larger is ever inflated.

    Raises WireError: "too large", "wrong base", "malformed", "wrong digest".
    """
    if said.size > most:
        raise WireError("too large", f"a model of {said.size} bytes: at most {most} are taken")
    if said.base != _digest(base):
        raise WireError("wrong base", "what differs is said of another model than the one that is here")
    inflate = zlib.decompressobj(-15)
    try:
        body = bytearray(inflate.decompress(said.difference, said.size + 1))
    except zlib.error as error:
        raise WireError("malformed", f"the difference cannot be inflated: {error}") from None
    if len(body) != said.size or not inflate.eof or inflate.unused_data:
        raise WireError("malformed", f"the difference does not hold the {said.size} bytes that it announces")
    shared = min(len(body), len(base))
    np.frombuffer(body, np.uint8, shared)[:] += np.frombuffer(base, np.uint8, shared)
    if sha256(body).digest() != said.digest:
        raise WireError("wrong digest", "the model and what differs do not make the one that was announced")
    return bytes(body)


def _digest(base: bytes) -> bytes:
    """Return the SHA-256 of `base`, nothing for nothing."""
    return sha256(base).digest() if base else b""
