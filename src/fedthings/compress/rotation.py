"""A rotation that all devices share: every coordinate becomes about as large as any other; the sum is turned back."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from msgspec import Struct

from fedthings.compress.hadamard import overlapping, transformed
from fedthings.stage import Schema, Stage, State, real
from fedthings.vector import Array, Key, Payload, keyed

TAIL = 6.0
"""Standard deviations: a turned coordinate is beyond with a probability of at most 2 exp(-18) (Hoeffding 1963)."""


class Rotate(Struct, frozen=True, tag="rotate", forbid_unknown_fields=True):
    """Turn "x" by random signs and a Hadamard transform, the same for all (Kairouz, Liu & Steinke 2021, section 4.1).

    It adds no bytes and no error: numbers of one size are what rounding to few bits wants (`ft.two_servers`).
    """


def largest(bound: float, dim: int) -> float:
    """Return what no coordinate of a row `(dim,)` with the L2 norm `bound` goes beyond once it is turned."""
    return bound * min(1.0, TAIL / sqrt(overlapping(dim)[0].stop))


def build(spec: Rotate, schema: Schema) -> Stage:
    """Return the stage. It turns the first 2**k coordinates, then the last 2**k: so nothing has to be filled up."""
    dim = real(schema, "rotate")
    parts = overlapping(dim)
    size = parts[0].stop
    signs: list[Array] = []

    def turns() -> list[tuple[slice, Array]]:
        if not signs:  # a server that only settles draws them late, an idle device not at all
            signs.extend(keyed("rotate", turn).choice(np.array([-1, 1], np.float32), size) for turn in range(2))
        return list(zip(parts, signs, strict=False))

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        x = np.array(payload["x"])
        with np.errstate(all="ignore"):  # what is not finite is for the next to refuse
            for part, sign in turns():
                x[:, part] = transformed(x[:, part] * sign)
        return {**payload, "x": x}, states

    def settle(total: Payload, n: int, key: Key) -> Payload:
        x = np.array(total["x"])
        for part, sign in reversed(turns()):
            x[part] = transformed(x[None, part])[0] * sign
        return {**total, "x": x}

    return Stage(lambda: None, encode, lambda payload: payload, settle, schema)
