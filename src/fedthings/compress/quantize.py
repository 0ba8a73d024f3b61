"""Whole numbers of 8 or 4 bits instead of float32, rounded at random so that the mean stays right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from fedthings.compress.bits import packed, unpacked
from fedthings.errors import SpecError
from fedthings.learn.task import within
from fedthings.stage import Schema, Stage, State, real, untouched
from fedthings.vector import Array, Key, Payload

SCALE = "quantize.scale"


class Quantize(Struct, frozen=True, tag="quantize", forbid_unknown_fields=True):
    """Send "x" with `bits` 8 or 4 a number, in blocks of `block` with one scale each (QSGD, Alistarh et al. 2017, 3.1).

    Bytes: bits * dim / 8, and 4 a block. Unbiased; each number errs by less than a step, the largest of its block
    over 127 or 7, and by at most half of one as root mean square.
    """

    bits: int = 8
    block: int = 256

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise SpecError(f"stages.quantize.bits is {self.bits}: it must be 4 or 8")
        within("stages.quantize.block", self.block, 8, 1 << 20)


def int8(block: int = 256) -> Quantize:
    """Return the stage that sends 8 bits a number."""
    return Quantize(8, block)


def int4(block: int = 256) -> Quantize:
    """Return the stage that sends 4 bits a number."""
    return Quantize(4, block)


def build(spec: Quantize, schema: Schema) -> Stage:
    """Return the stage."""
    dim = real(schema, "quantize")
    most = (1 << (spec.bits - 1)) - 1

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        x = payload["x"]
        blocks = blocked(x, spec.block)
        scale = np.abs(blocks).max(-1) / np.float32(most)  # NaN and infinity go on to the server, which refuses them
        with np.errstate(all="ignore"):
            steps = blocks / np.where(scale > 0, scale, np.float32(1))[..., None]
            for row, key in zip(steps, keys, strict=True):
                flat = row.reshape(-1)
                flat[:dim] += key.rng("quantize").random(dim, np.float32)
            codes = np.clip(np.floor(steps, out=steps), -most, most).astype(np.int8)
        codes = codes.reshape(len(x), -1)[:, :dim]
        if spec.bits == 4:
            codes = packed((codes + np.int8(most)).view(np.uint8), 4).view(np.int8)
        return {**payload, "x": codes, SCALE: scale}, states

    def decode(payload: Payload) -> Payload:
        rest = dict(payload)
        codes, scale = rest.pop("x"), rest.pop(SCALE)
        if spec.bits == 4:
            codes = unpacked(codes.view(np.uint8), 4, dim).view(np.int8) - np.int8(most)
        x = codes.astype(np.float32)
        blocks = blocked(x, spec.block)
        with np.errstate(all="ignore"):
            blocks *= scale[..., None]
        return {**rest, "x": blocks.reshape(len(x), -1)[:, :dim]}

    return Stage(lambda: None, encode, decode, untouched, ())


def blocked(x: Array, block: int) -> Array:
    """Return `x` `(n, dim)` as new blocks `(n, ceil(dim / block), block)`, zeros at the end."""
    n, dim = x.shape
    out = np.zeros((n, -(-dim // block) * block), x.dtype)
    out[:, :dim] = x
    return out.reshape(n, -1, block)
