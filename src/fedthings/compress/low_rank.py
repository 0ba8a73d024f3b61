"""Each matrix of a change as the product of two thin ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.stage import Schema, Stage, State, real, resized, untouched
from fedthings.vector import Array, Key, Layout, Payload, keyed


class LowRank(Struct, frozen=True, tag="low_rank", forbid_unknown_fields=True):
    """Send a matrix `(m, c)` as P `(m, rank)` and Q `(c, rank)` (PowerSGD, Vogels et al. 2019, Alg. 1, one iteration).

    Bytes: 4 rank (m + c) instead of 4 m c; what is no matrix, or too small to gain, travels as it is. Biased by
    itself; what is left out is added to the next report, as 4 bytes a parameter that the device keeps.
    """

    rank: int = 4

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SpecError(f"stages.low_rank.rank is {self.rank}: it must be at least 1")


class _Matrix(NamedTuple):
    """Where a matrix `(m, c)` lies in the row, and its two thin ones in what is sent."""

    start: int
    m: int
    c: int
    at: int


def build(spec: LowRank, schema: Schema, layout: Layout) -> Stage:
    """Return the stage for rows of `layout`; the device keeps what it has left out so far, `(dim,)`."""
    dim, rank = real(schema, "low_rank"), spec.rank
    if dim != layout.dim:
        raise SpecError("stages: low_rank stands behind a stage that leaves no matrices: put it first, or after clip")
    matrices = list(_matrices(layout, rank))
    whole = np.ones(dim, bool)
    for one in matrices:
        whole[one.start : one.start + one.m * one.c] = False
    rest = np.flatnonzero(whole)
    size = len(rest) + sum(rank * (one.m + one.c) for one in matrices)

    def encode(payload: Payload, states: Sequence[State], keys: Sequence[Key]) -> tuple[Payload, Sequence[State]]:
        x = payload["x"] + np.stack(states)
        sent = np.empty((len(x), size), np.float32)
        sent[:, : len(rest)] = x[:, rest]
        x[:, rest] = 0
        for one in matrices:
            matrix = x[:, one.start : one.start + one.m * one.c].reshape(-1, one.m, one.c)
            first = np.stack([_first(key, one, rank) for key in keys])
            P = np.linalg.qr(np.matmul(matrix, first))[0].astype(np.float32)
            Q = np.matmul(matrix.swapaxes(-1, -2), P)
            near = len(rest) + one.at
            sent[:, near : near + one.m * rank] = P.reshape(len(x), -1)
            sent[:, near + one.m * rank : near + rank * (one.m + one.c)] = Q.reshape(len(x), -1)
            matrix -= np.matmul(P, Q.swapaxes(-1, -2))
        return {**payload, "x": sent}, list(x)

    def decode(payload: Payload) -> Payload:
        sent = payload["x"]
        x = np.empty((len(sent), dim), np.float32)
        x[:, rest] = sent[:, : len(rest)]
        for one in matrices:
            near = len(rest) + one.at
            P = sent[:, near : near + one.m * rank].reshape(-1, one.m, rank)
            Q = sent[:, near + one.m * rank : near + rank * (one.m + one.c)].reshape(-1, one.c, rank)
            x[:, one.start : one.start + one.m * one.c] = np.matmul(P, Q.swapaxes(-1, -2)).reshape(len(x), -1)
        return {**payload, "x": x}

    return Stage(lambda: np.zeros(dim, np.float32), encode, decode, untouched, resized(schema, size))


def _first(key: Key, one: _Matrix, rank: int) -> Array:
    """Return the random Q `(c, rank)` with which a device begins."""
    return keyed("low_rank", key.word("low_rank"), one.at).standard_normal((one.c, rank), np.float32)


def _matrices(layout: Layout, rank: int) -> Iterator[_Matrix]:
    """Yield the matrices that are smaller as two; of a convolution, a window and channel is a row."""
    at = 0
    for part in layout.parts:
        if len(part.shape) < 2:
            continue
        m, c = prod(part.shape[:-1]), part.shape[-1]
        if rank * (m + c) < m * c and rank <= min(m, c):
            yield _Matrix(part.start, m, c, at)
            at += rank * (m + c)
