"""EDEN: a random rotation makes every coordinate nearly normal, and then 1 to 4 bits each say most of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from fedthings.compress.bits import packed, unpacked
from fedthings.compress.hadamard import transformed
from fedthings.errors import SpecError
from fedthings.stage import Schema, Stage, State, real, untouched
from fedthings.vector import Array, Key, Payload, keyed

SCALE, SEED = "eden.scale", "eden.seed"
LEAST = 128
"""Coordinates of the smallest block: what lacks to whole ones is filled with zeros."""
# The upper halves of the levels of the best quantisers of a standard normal number (Max 1960; Lloyd 1982).
LEVELS = {
    1: (0.7978846,),
    2: (0.4527800, 1.5104176),
    3: (0.2450942, 0.7560053, 1.3439093, 2.1519457),
    4: (0.1283950, 0.3880483, 0.6567591, 0.9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896),
}


class Eden(Struct, frozen=True, tag="eden", forbid_unknown_fields=True):
    """Send "x" with `bits` 1 to 4 a coordinate after a random rotation (Vargaftik et al. 2022, Alg. 1; 1 bit: DRIVE).

    Bytes: bits * dim / 8, dim rounded up to a multiple of 128, 4 for each of at most log2(dim) blocks, 8 for the seed.
    Unbiased; squared error over squared norm 0.571, 0.133, 0.036 and 0.0096 at 1, 2, 3 and 4 bits, whatever the vector.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if self.bits not in LEVELS:
            raise SpecError(f"stages.eden.bits is {self.bits}: it must be 1, 2, 3 or 4")


def build(spec: Eden, schema: Schema) -> Stage:
    """Return the stage. Each device rotates by a seed of its own, which travels with its report."""
    dim = real(schema, "eden")
    half = np.array(LEVELS[spec.bits], np.float32)
    levels = np.concatenate([-half[::-1], half])
    edges = (levels[1:] + levels[:-1]) / 2

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        x = payload["x"]
        seeds = np.array([[key.word("eden")] for key in keys], np.uint64)
        codes, scales = [], []
        for block, y in _blocks(x, seeds):
            y = transformed(y)
            square = np.matmul(y[:, None], y[:, :, None])[:, 0]  # (n, 1): the norms, squared
            with np.errstate(all="ignore"):
                unit = y * np.sqrt(np.float32(block) / square)
            code = np.zeros(y.shape, np.uint8)
            for edge in edges:
                code += unit > edge
            near = levels[code]
            with np.errstate(all="ignore"):  # the scale that makes it unbiased (Alg. 1, line 5); a zero stays one
                scale = square / np.matmul(y[:, None], near[:, :, None])[:, 0]
            codes.append(code)
            scales.append(np.where(square == 0, np.float32(0), scale))
        data = packed(np.concatenate(codes, axis=-1), spec.bits)
        return {**payload, "x": data, SCALE: np.concatenate(scales, axis=-1), SEED: seeds}, states

    def decode(payload: Payload) -> Payload:
        rest = dict(payload)
        seeds, scales, data = rest.pop(SEED), rest.pop(SCALE), rest.pop("x")
        padded = data.shape[-1] * 8 // spec.bits
        codes = unpacked(data, spec.bits, padded)
        out = np.empty((len(data), padded), np.float32)
        for i, (start, stop) in enumerate(_spans(padded)):
            y = levels[codes[:, start:stop]]
            y *= scales[:, i : i + 1]
            y = transformed(y)
            y *= _signs(seeds, start, stop)
            out[:, start:stop] = y
        return {**rest, "x": out[:, :dim]}

    return Stage(lambda: None, encode, decode, untouched, ())


def _blocks(x: Array, seeds: Array) -> Iterator[tuple[int, Array]]:
    """Yield the size of each block, and the coordinates there `(n, size)` with random signs."""
    n, dim = x.shape
    for start, stop in _spans(-(-dim // LEAST) * LEAST):
        y = np.zeros((n, stop - start), np.float32)
        y[:, : dim - start] = x[:, start:stop]
        y *= _signs(seeds, start, stop)
        yield stop - start, y


def _spans(padded: int) -> Iterator[tuple[int, int]]:
    """Yield where blocks of powers of two begin and end, the largest first."""
    start = 0
    while start < padded:
        size = 1 << ((padded - start).bit_length() - 1)
        yield start, start + size
        start += size


def _signs(seeds: Array, start: int, stop: int) -> Array:
    """Return 1 and -1 `(n, stop - start)` float32 by the seed of each device."""
    drawn = [keyed("eden", int(seed), start).bytes((stop - start) // 8) for seed in seeds[:, 0]]
    bits = np.unpackbits(np.frombuffer(b"".join(drawn), np.uint8).reshape(len(seeds), -1), axis=-1)
    signs = bits.astype(np.float32)
    signs *= -2
    signs += 1
    return signs
