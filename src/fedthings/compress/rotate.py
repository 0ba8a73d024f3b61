"""EDEN: a random rotation makes every coordinate nearly normal, and then 1 to 4 bits each say most of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from fedthings.compress.bits import packed, unpacked
from fedthings.compress.hadamard import overlapping, transformed
from fedthings.errors import SpecError
from fedthings.stage import Schema, Stage, State, real, untouched
from fedthings.vector import Array, Key, Payload, keyed

SCALE, SEED = "eden.scale", "eden.seed"
LEAST = 128
"""Coordinates that a rotation needs to make them nearly normal: fewer are filled up with zeros."""
# The upper halves of the levels of the best quantisers of a standard normal number (Max 1960; Lloyd 1982).
LEVELS = {
    1: (0.7978846,),
    2: (0.4527800, 1.5104176),
    3: (0.2450942, 0.7560053, 1.3439093, 2.1519457),
    4: (0.1283950, 0.3880483, 0.6567591, 0.9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896),
}


class Eden(Struct, frozen=True, tag="eden", forbid_unknown_fields=True):
    """Send "x" with `bits` 1 to 4 a coordinate after a random rotation (Vargaftik et al. 2022, Alg. 1; 1 bit: DRIVE).

    Bytes: bits * ceil(dim / 8), dim at least 128; 8 for two scales, 4 for the one of a power of two; 8 for the seed.
    Unbiased; squared error over squared norm 0.571, 0.133, 0.036 and 0.0096 at 1, 2, 3 and 4 bits, whatever the vector
    (but of a few equal numbers among zeros, which no rotation of this kind makes nearly normal).
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if self.bits not in LEVELS:
            raise SpecError(f"stages.eden.bits is {self.bits}: it must be 1, 2, 3 or 4")


def build(spec: Eden, schema: Schema) -> Stage:
    """Return the stage. Each device rotates by a seed of its own, which travels with its report.

    The first 2**k coordinates are turned, then the last 2**k. Those that the last turn does not reach are of another
    size, and so have a scale of their own.
    """
    dim = real(schema, "eden")
    whole = max(dim, LEAST)
    turns = overlapping(whole)
    cuts = [turn.start for turn in turns[1:]]
    half = np.array(LEVELS[spec.bits], np.float32)
    levels = np.concatenate([-half[::-1], half])
    edges = (levels[1:] + levels[:-1]) / 2

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        seeds = np.array([[key.word("eden")] for key in keys], np.uint64)
        x = np.zeros((len(seeds), whole), np.float32)
        x[:, :dim] = payload["x"]
        for turn in turns:
            x[:, turn] = transformed(x[:, turn] * _signs(seeds, turn))
        codes, scales = np.zeros(x.shape, np.uint8), np.empty((len(x), len(turns)), np.float32)
        for i, (y, code) in enumerate(zip(np.split(x, cuts, -1), np.split(codes, cuts, -1), strict=True)):
            square = np.matmul(y[:, None], y[:, :, None])[:, 0]  # (n, 1): the norms, squared
            with np.errstate(all="ignore"):
                unit = y * np.sqrt(np.float32(y.shape[1]) / square)
            for edge in edges:
                code += unit > edge
            near = levels[code]
            with np.errstate(all="ignore"):  # the scale that makes it unbiased (Alg. 1, line 5); a zero stays one
                scale = square / np.matmul(y[:, None], near[:, :, None])[:, 0]
            scales[:, i : i + 1] = np.where(square == 0, np.float32(0), scale)
        return {**payload, "x": packed(codes, spec.bits), SCALE: scales, SEED: seeds}, states

    def decode(payload: Payload) -> Payload:
        rest = dict(payload)
        seeds, scales, data = rest.pop(SEED), rest.pop(SCALE), rest.pop("x")
        x = levels[unpacked(data, spec.bits, whole)]
        for i, y in enumerate(np.split(x, cuts, -1)):
            y *= scales[:, i : i + 1]
        for turn in reversed(turns):
            x[:, turn] = transformed(x[:, turn]) * _signs(seeds, turn)
        return {**rest, "x": x[:, :dim]}

    return Stage(lambda: None, encode, decode, untouched, ())


def _signs(seeds: Array, turn: slice) -> Array:
    """Return 1 and -1 for the coordinates of `turn` `(n, 2**k)` float32, by the seed of each device."""
    size = turn.stop - turn.start
    drawn = [keyed("eden", int(seed), turn.start).bytes(size // 8) for seed in seeds[:, 0]]
    bits = np.unpackbits(np.frombuffer(b"".join(drawn), np.uint8).reshape(len(seeds), -1), axis=-1)
    signs = bits.astype(np.float32)
    signs *= -2
    signs += 1
    return signs
