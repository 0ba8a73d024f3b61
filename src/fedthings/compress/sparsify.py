"""A part of the numbers instead of all: the largest, with what was left out kept for later; or any, drawn by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.stage import Schema, Stage, State, real, resized, untouched
from fedthings.vector import Array, Key, Payload, keyed

AT, SEED = "top_k.at", "random_mask.seed"


class TopK(Struct, frozen=True, tag="top_k", forbid_unknown_fields=True):
    """Send the `share` of "x" that is largest in size; what is left out goes into the next report (Stich et al. 2018).

    Bytes: 8 a number sent, or 6 where there are at most 65,536 in all. Biased by itself; with what the device keeps
    back, 4 bytes a parameter there, each number is sent in the end.
    """

    share: float = 0.01

    def __post_init__(self) -> None:
        _check("top_k", self.share)


class RandomMask(Struct, frozen=True, tag="random_mask", forbid_unknown_fields=True):
    """Send a random `share` of "x", divided by it, and the seed that says which (Konecny et al. 2016, section 3).

    Bytes: 4 a number sent, and 8. Unbiased; squared error over squared norm 1 / share - 1.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        _check("random_mask", self.share)


def top_k(spec: TopK, schema: Schema) -> Stage:
    """Return the stage; the device keeps what it has left out so far, `(dim,)`."""
    dim = real(schema, "top_k")
    k = max(1, ceil(spec.share * dim))
    kind = np.uint16 if dim <= 1 << 16 else np.uint32

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        x = payload["x"] + np.stack(states)
        at = np.sort(np.argpartition(np.abs(x), dim - k, axis=-1)[:, dim - k :], axis=-1)
        values = np.take_along_axis(x, at, -1)
        np.put_along_axis(x, at, np.float32(0), -1)
        return {**payload, "x": values, AT: at.astype(kind)}, list(x)

    def decode(payload: Payload) -> Payload:
        rest = dict(payload)
        values, at = rest.pop("x"), rest.pop(AT)
        x = np.zeros((len(values), dim), np.float32)
        wrong = at.max(-1) >= dim
        np.put_along_axis(x, np.where(wrong[:, None], 0, at.astype(np.int64)), values, -1)
        x[wrong] = np.nan  # a place that is none: the report is refused by its value
        return {**rest, "x": x}

    return Stage(lambda: np.zeros(dim, np.float32), encode, decode, untouched, resized(schema, k))


def random_mask(spec: RandomMask, schema: Schema) -> Stage:
    """Return the stage; each report has a mask of its own."""
    dim = real(schema, "random_mask")
    k = max(1, ceil(spec.share * dim))
    grow = np.float32(dim / k)

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        seeds = np.array([[key.word("random_mask")] for key in keys], np.uint64)
        values = np.take_along_axis(payload["x"], _chosen(seeds, dim, k), -1)
        return {**payload, "x": values * grow, SEED: seeds}, states

    def decode(payload: Payload) -> Payload:
        rest = dict(payload)
        values, seeds = rest.pop("x"), rest.pop(SEED)
        x = np.zeros((len(values), dim), np.float32)
        np.put_along_axis(x, _chosen(seeds, dim, k), values, -1)
        return {**rest, "x": x}

    return Stage(lambda: None, encode, decode, untouched, resized(schema, k))


def _chosen(seeds: Array, dim: int, k: int) -> Array:
    """Return k different places below `dim` for each of `seeds` `(n, 1)`: `(n, k)`, in order."""
    rows = [keyed("random_mask", int(seed)).choice(dim, k, replace=False, shuffle=False) for seed in seeds[:, 0]]
    return np.sort(np.stack(rows), axis=-1)


def _check(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise SpecError(f"stages.{name}.share is {share}: it must be above 0 and at most 1")
