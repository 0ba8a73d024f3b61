"""Stages: what is done to a report between learner and fold, and undone on the server.

A stage maps named rows to named rows, on the last axis, so that one line serves a device and a
cohort (law 3). Lossy things are stages; the wire is lossless (law 6). A stage has a fixed size in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fedthings.errors import SpecError
from fedthings.vector import Key, Payload

State: TypeAlias = Any
Schema: TypeAlias = "tuple[Field, ...]"


class Field(NamedTuple):
    """One array of a payload and how it folds.

    `dtype` is "f4" (one int64 limb at 2**scale) or "f8" (four limbs, exact for statistics).
    `per` is what the sum is divided by: "weight" (each row counts weight times) or "one" (a plain sum).
    `heaviest` is the largest weight of one report.
    """

    name: str
    dim: int
    dtype: str = "f4"
    scale: int = 36
    per: str = "weight"
    heaviest: int = 1 << 16


class Stage(NamedTuple):
    """`encode` on the device, `decode` on the server for each report, `settle` once on the sum.

    `encode` takes rows `(n, dim)` with a state and a key for each of the n devices; a device is n = 1. `init` gives
    the state that a device begins with. `sends` is the schema of what `encode` leaves, () where that is bits.
    """

    init: Callable[[], State]
    encode: Callable[[Payload, Sequence[State], Sequence[Key]], tuple[Payload, Sequence[State]]]
    decode: Callable[[Payload], Payload]
    settle: Callable[[Payload, int, Key], Payload]
    sends: Schema


def chain(schema: Schema, makers: Sequence[Callable[[Schema], Stage]]) -> Stage:
    """Return the stage that encodes forward through those that `makers` make, and decodes and settles backward.

    Each is made for the schema that the one before it sends. Raises SpecError where that cannot be.
    """
    stages: list[Stage] = []
    for make in makers:
        stages.append(make(schema))
        schema = stages[-1].sends

    def init() -> State:
        return [stage.init() for stage in stages]

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        columns = []
        for i, stage in enumerate(stages):
            payload, column = stage.encode(payload, [state[i] for state in states], keys)
            columns.append(column)
        return payload, [list(state) for state in zip(*columns, strict=True)] if stages else states

    def decode(payload: Payload) -> Payload:
        for stage in reversed(stages):
            payload = stage.decode(payload)
        return payload

    def settle(total: Payload, n: int, key: Key) -> Payload:
        for stage in reversed(stages):
            total = stage.settle(total, n, key)
        return total

    return Stage(init, encode, decode, settle, schema)


def untouched(total: Payload, n: int, key: Key) -> Payload:
    """Return the sum as it is: the settling of a stage that each report's decoding has undone already."""
    return total


def real(schema: Schema, name: str) -> int:
    """Return how many real numbers "x" has in `schema`. Raises SpecError where the stage `name` finds only bits."""
    if not schema:
        raise SpecError(f"stages: {name} stands behind a stage that sends bits, and needs real numbers: put it before")
    return schema[0].dim


def resized(schema: Schema, dim: int) -> Schema:
    """Return `schema` with `dim` numbers in "x"."""
    return (schema[0]._replace(dim=dim), *schema[1:])


def zeros(schema: Schema, n: int = 1) -> Payload:
    """Return n rows of zeros `(n, dim)` for each array of `schema`."""
    return {f.name: np.zeros((n, f.dim), f.dtype) for f in schema}
