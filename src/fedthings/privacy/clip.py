"""Clipping: no report is longer than a bound, so that no device moves the model more than another may."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from fedthings.learn.task import positive
from fedthings.stage import Schema, Stage, State, real, untouched
from fedthings.vector import Key, Payload


class Clip(Struct, frozen=True, tag="clip", forbid_unknown_fields=True):
    """Scale a report's "x" down to the L2 norm `bound` (McMahan et al. 2018, section 2)."""

    bound: float

    def __post_init__(self) -> None:
        positive("stages.clip.bound", self.bound)


def build(spec: Clip, schema: Schema) -> Stage:
    """Return the stage; it encodes on the device and has nothing to undo. No bytes are added."""

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        x = payload["x"]
        norm = np.sqrt(np.square(x, dtype=np.float64).sum(-1, keepdims=True))
        share = np.minimum(1.0, spec.bound / np.maximum(norm, 1e-30)).astype(x.dtype)
        return {**payload, "x": x * share}, states

    real(schema, "clip")
    return Stage(lambda: None, encode, lambda payload: payload, untouched, schema)
