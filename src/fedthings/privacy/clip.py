"""Clipping: no report is longer than a bound, so that no device moves the model more than another may."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.learn.task import positive, within
from fedthings.stage import Field, Schema, Stage, State, real, untouched
from fedthings.vector import Array, Key, Payload

BELOW = Field("below", 1, per="one")
"""What adaptive clipping counts: +1/2 for a report below the bound, else -1/2. The stage is given the bound in it."""
UNDER = np.float32(1 - 2.0**-22)
"""What is clipped ends so much below the bound that no rounding of float32 leaves it above."""


class Clip(Struct, frozen=True, tag="clip", forbid_unknown_fields=True):
    """Scale a report's "x" down to the L2 norm `bound` (McMahan et al. 2018, section 2)."""

    bound: float

    def __post_init__(self) -> None:
        positive("stages.clip.bound", self.bound)


class AdaptiveClip(Struct, frozen=True, tag="adaptive_clip", forbid_unknown_fields=True):
    """Clip to a bound that follows the `quantile` of the reports' norms (Andrew et al. 2021, alg. 1).

    It begins at `initial`, and each version multiplies it by exp(-rate (share below - quantile)). The count of those
    below gets noise too: it takes the share `budget` of what a report may move, squared (ibid., theorem 1).
    """

    quantile: float = 0.5
    initial: float = 0.1
    rate: float = 0.2
    budget: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise SpecError(f"stages.adaptive_clip.quantile is {self.quantile}: it must be above 0 and below 1")
        within("stages.adaptive_clip.initial", self.initial, 1e-9, 1e9)
        within("stages.adaptive_clip.rate", self.rate, 1e-6, 10)
        within("stages.adaptive_clip.budget", self.budget, 1e-3, 0.9)

    def follow(self, bound: float, below: float) -> float:
        """Return the next bound, where the share `below` of the reports was below `bound`."""
        moved = bound * np.exp(-self.rate * (np.clip(below, 0, 1) - self.quantile))
        return float(np.float32(np.clip(moved, 1e-9, 1e9)))  # as it travels


def build(spec: Clip, schema: Schema) -> Stage:
    """Return the stage; it encodes on the device and has nothing to undo. No bytes are added."""

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        return {**payload, "x": bounded(payload["x"], spec.bound)}, states

    real(schema, "clip")
    return Stage(lambda: None, encode, lambda payload: payload, untouched, schema)


def adaptive(spec: AdaptiveClip, schema: Schema) -> Stage:
    """Return the stage: "x" leaves in units of the bound, so that its norm is at most 1. 4 bytes are added."""

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        x, bound = payload["x"], payload[BELOW.name]
        with np.errstate(all="ignore"):
            x = x / np.where(bound > 0, bound, np.float32(1))
            below = np.where(_norms(x) <= 1, np.float32(0.5), np.float32(-0.5)).astype(np.float32)
        return {**payload, "x": bounded(x, 1.0), BELOW.name: below}, states

    real(schema, "adaptive_clip")
    return Stage(lambda: None, encode, lambda payload: payload, untouched, schema)


def bounded(x: Array, bound: float | Array) -> Array:
    """Return rows `(n, dim)` of norm at most `bound`; those that are longer are scaled down."""
    norms = _norms(x)
    if not (norms > bound).any():
        return x  # one that is not finite is refused by its value
    with np.errstate(all="ignore"):
        share = np.where(norms > bound, (bound / norms).astype(x.dtype) * UNDER, 1).astype(x.dtype)
        return np.asarray(x * share)


def _norms(x: Array) -> Array:
    """Return the norms `(n, 1)` of rows `(n, dim)`."""
    with np.errstate(all="ignore"):
        return np.asarray(np.sqrt(np.square(x, dtype=np.float64).sum(-1, keepdims=True)))
