"""Only the sign of each number, and the majority of them as the next step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from fedthings.compress.bits import packed, unpacked
from fedthings.learn.task import positive
from fedthings.stage import Schema, Stage, State, real
from fedthings.vector import Key, Payload


class Sign(Struct, frozen=True, tag="sign", forbid_unknown_fields=True):
    """Send the sign of "x"; the model moves by `step` where the majority points (Bernstein et al. 2018, Alg. 3).

    Bytes: dim / 8. The size of a change is lost: `step` takes its place. With `strategy.weight` "equal" each device
    has one vote, else as many as samples.
    """

    step: float = 1e-3

    def __post_init__(self) -> None:
        positive("stages.sign.step", self.step)


def build(spec: Sign, schema: Schema) -> Stage:
    """Return the stage; a zero votes for less."""
    dim = real(schema, "sign")

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        return {**payload, "x": packed((payload["x"] > 0).view(np.uint8), 1)}, states

    def decode(payload: Payload) -> Payload:
        votes = unpacked(payload["x"], 1, dim).astype(np.float32)
        votes *= 2
        votes -= 1
        return {**payload, "x": votes}

    def settle(total: Payload, n: int, key: Key) -> Payload:
        return {**total, "x": np.sign(total["x"]) * spec.step}

    return Stage(lambda: None, encode, decode, settle, ())
