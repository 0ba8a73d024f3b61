"""Stages: what is done to a report between learner and fold, and undone on the server.

A stage maps named rows to named rows, on the last axis, so that one line serves a device and a
cohort (law 3). Lossy things are stages; the wire is lossless (law 6). A stage has a fixed size in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fedthings.vector import Key, Payload

State: TypeAlias = Any
Schema: TypeAlias = "tuple[Field, ...]"


class Field(NamedTuple):
    """One array of a payload and how it folds.

    `dtype` is "f4" (one int64 limb at 2**scale) or "f8" (two limbs, exact for statistics).
    `per` is what the sum is divided by: "weight" (each row counts weight times) or "one" (a plain sum).
    """

    name: str
    dim: int
    dtype: str = "f4"
    fold: str = "sum"
    scale: int = 36
    per: str = "weight"


class Stage(NamedTuple):
    """`encode` on the device, `decode` on the server for each report, `settle` once on the sum."""

    init: Callable[[Schema], State]
    encode: Callable[[Payload, State, Key], tuple[Payload, State]]
    decode: Callable[[Payload], Payload]
    settle: Callable[[Payload, int, Key], Payload]


def chain(stages: Sequence[Stage]) -> Stage:
    """Return the stage that encodes forward through `stages` and decodes and settles backward."""

    def init(schema: Schema) -> State:
        return tuple(s.init(schema) for s in stages)

    def encode(payload: Payload, state: State, key: Key) -> tuple[Payload, State]:
        after = []
        for stage, own in zip(stages, state, strict=True):
            payload, own = stage.encode(payload, own, key)
            after.append(own)
        return payload, tuple(after)

    def decode(payload: Payload) -> Payload:
        for stage in reversed(stages):
            payload = stage.decode(payload)
        return payload

    def settle(total: Payload, n: int, key: Key) -> Payload:
        for stage in reversed(stages):
            total = stage.settle(total, n, key)
        return total

    return Stage(init, encode, decode, settle)


def zeros(schema: Schema) -> Payload:
    """Return a payload of zeros in the shape of `schema`."""
    return {f.name: np.zeros(f.dim, f.dtype) for f in schema}
