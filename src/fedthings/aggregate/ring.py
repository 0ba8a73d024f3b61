"""Sums in rings: reports as whole numbers modulo 2**bits, which add up exactly while they are hidden (law 7).

A float32 row is rounded at random to steps and summed modulo 2**16 or 2**32; what must stay exact (statistics, weights,
metrics) modulo 2**64. Sums wrap, and are right as long as the result fits, which `room` sees to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedthings.aggregate import fold
from fedthings.stage import Schema
from fedthings.vector import Array, Key, Payload

X, EXACT = "x", "exact"
FINEST = 1 << 22
"""Steps to either side of 0 at the most: float32 holds them with the fraction that decides the rounding."""
COARSEST = 8
"""Steps to either side of 0 at the least: with fewer, rounding would hide the update."""


class Ring(NamedTuple):
    """How a report of one phase lies in its rings: row "x" in Z_2^`bits`, row "exact" in Z_2^64.

    "x" has `dim` numbers (0: there is none) of at most `most` steps of size `unit`, each times the report's weight,
    which counts up to `heaviest`. "exact" has the limbs of the arrays `wide`, then whether the report counts, its
    weight, and the sums of each metric of `metrics` (name, length). No honest "x" is longer than `longest` steps (L2);
    where that is checked (0: it is not) each report of a sum counts once, whatever it says. Under a privacy claim a
    device rounds anew until "x" is no longer than `cut`, sums are divided by the number `over`, "exact" says nothing.
    """

    bits: int
    dim: int
    most: int
    unit: float
    heaviest: int
    wide: Schema
    metrics: tuple[tuple[str, int], ...]
    longest: float = 0.0
    cut: float = 0.0
    over: int = 0

    @property
    def exact(self) -> int:
        """How long the row "exact" is."""
        return sum(fold.limbs(f) * f.dim for f in self.wide) + 2 + sum(length for _, length in self.metrics)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the row "x"."""
        return np.dtype(f"u{self.bits // 8}")

    def zeros(self, n: int) -> dict[str, Array]:
        """Return n reports of nothing, `(n, dim)` and `(n, exact)`."""
        x = {X: np.zeros((n, self.dim), self.dtype)} if self.dim else {}
        return {**x, EXACT: np.zeros((n, self.exact), np.uint64)}


def room(bits: int, reports: int) -> int:
    """Return how many steps to either side of 0 a number may have, so that `reports` of them cannot wrap."""
    return min(FINEST, ((1 << (bits - 1)) - 1) // reports - 1)


def encode(
    ring: Ring, rows: Payload, weights: Array, metrics: Payload, keys: Sequence[Key]
) -> tuple[dict[str, Array], Array]:
    """Return n reports in `ring`, and for each why it says nothing, "" where it does `(n,)`.

    `rows` are `(n, dim)`, "x" within its range; `weights` `(n,)` int64, `metrics` `(n, m)` int64. A row that is not
    finite, or weighs nothing, becomes zeros: nobody else could see that it has to be left out.
    """
    n = len(weights)
    out = ring.zeros(n)
    reasons = np.full(n, "", dtype=object)
    reasons[weights < 1] = "weight out of range"
    exact = out[EXACT].view(np.int64)
    for i in range(n):
        at = 0
        for f in ring.wide:
            sums = fold.init((f,))
            (bad,) = fold.keep(sums, (f,), {f.name: rows[f.name][i : i + 1]}, np.ones(1, np.int64), [0])
            reasons[i] = reasons[i] or bad
            for limb in sums.limbs[f.name]:
                exact[i, at : at + f.dim] = limb
                at += f.dim
        if ring.dim and not _finite(rows[X][i]):
            reasons[i] = reasons[i] or "not finite"
        if reasons[i]:
            exact[i] = 0
            if ring.over:  # what only a value decides may not show: such a report counts as one of zeros
                exact[i, at : at + 2] = 1
            continue
        weight = min(int(weights[i]), ring.heaviest)
        exact[i, at : at + 2] = 1, weight
        at += 2
        for name, length in ring.metrics:
            exact[i, at : at + length] = metrics[name][i]
            at += length
        if ring.dim:
            _round(ring, rows[X][i], weight, keys[i], out[X][i])
    return out, reasons


def _finite(row: Array) -> bool:
    return bool(np.isfinite(max(row.max(initial=0), -row.min(initial=0))) and not np.isnan(row.max(initial=0)))


def _round(ring: Ring, row: Array, weight: int, key: Key, to: Array) -> None:
    """Write `row` times `weight` into `to` as steps, rounded at random so that the mean stays right.

    Where that makes it longer than `ring.cut` it is rounded anew, in the end towards 0, which makes nothing longer.
    """
    random = key.rng("ring")
    for anew in range(TRIES):
        length = _rounded(ring, row, weight, None if anew == TRIES - 1 else random, to)
        if not ring.cut or length <= ring.cut:
            return
    to[:] = 0


TRIES = 8
"""How often a device rounds at the most; it has to round anew with a chance of about 2e-9."""


def _rounded(ring: Ring, row: Array, weight: int, random: np.random.Generator | None, to: Array) -> float:
    """Round once, at random or towards 0, and return the norm in steps, where that matters."""
    draws, square = np.empty(fold.BLOCK, np.float32), 0.0
    steps = np.float32(weight / ring.unit)
    signed = to.view(f"i{ring.bits // 8}")
    for start in range(0, ring.dim, fold.BLOCK):
        y = row[start : start + fold.BLOCK] * steps
        if random is None:
            np.trunc(y, out=y)
        else:
            y += random.random(dtype=np.float32, out=draws[: len(y)])
            np.floor(y, out=y)
        np.clip(y, -ring.most, ring.most, out=y)
        signed[start : start + len(y)] = y
        if ring.cut:
            square += float(np.square(y, dtype=np.float64).sum())  # of whole numbers, so exact as far as it matters
    return sqrt(square)


# ---------------------------------------------------------------------------- sums


Lags: TypeAlias = "tuple[tuple[int, ...], ...]"
"""Of each sum of "x" that is opened by itself, how many versions its reports lag."""


def init(ring: Ring) -> fold.Sums:
    """Return sums of nothing; where "x" is summed for each lag `apart`, the list of it grows with them."""
    return fold.Sums({name: [row[0]] for name, row in ring.zeros(1).items()})


def keep(sums: fold.Sums, arrays: Payload, lags: Sequence[int], apart: bool = False, each: int = 1) -> None:
    """Add n reports `(n, ...)`, or the leader's shares of them, whose versions lag by `lags`.

    Each counts once, or where it is a sum of others for `each` of so many.
    """
    for name, rows in sums.limbs.items():
        for row, lag in zip(arrays[name], lags, strict=True):
            total = _grown(rows, lag if apart and name == X else 0)
            total += row
    for lag in lags:
        sums.counts[lag] = sums.counts.get(lag, 0) + each


def _grown(rows: list[Array], at: int) -> Array:
    while len(rows) <= at:
        rows.append(np.zeros_like(rows[0]))
    return rows[at]


def _row(rows: list[Array], lag: int) -> Array:
    """Return where reports that lag by `lag` are summed: each lag apart, or all together."""
    return rows[lag if len(rows) > 1 else 0]


def merge(sums: fold.Sums, other: fold.Sums) -> None:
    """Add the sums of another shard; the result is that of one shard, bit for bit."""
    for name, rows in other.limbs.items():
        for lag, row in enumerate(rows):
            total = _grown(sums.limbs[name], lag)
            total += row
    for lag, count in other.counts.items():
        sums.counts[lag] = sums.counts.get(lag, 0) + count


def classes(counts: Mapping[int, int], least: int) -> Lags:
    """Return which lags are summed together, the freshest first, so that each sum is of `least` reports or more.

    `counts` is how many reports there are of each lag. Those of too few join the next older, the oldest the one before.
    """
    found: list[tuple[int, ...]] = []
    lags: tuple[int, ...] = ()
    for lag in sorted(counts):
        lags = (*lags, lag)
        if sum(counts[one] for one in lags) >= least:
            found.append(lags)
            lags = ()
    if lags:
        found[-1:] = [(*found[-1], *lags) if found else lags]
    return tuple(found)


def add(sums: fold.Sums, share: Payload, lags: Lags) -> None:
    """Add the helper's `share` of the same reports, summed for each of `lags`; nothing in `sums` is hidden then."""
    sums.limbs[EXACT][0] += share[EXACT]
    if X in share:
        for row, some in zip(share[X].reshape(len(lags), -1), lags, strict=True):
            total = _row(sums.limbs[X], some[0])
            total += row


def leave_out(sums: fold.Sums, arrays: Payload, lag: int, each: int = 1) -> None:
    """Take one report `(...)`, or the sum of `each` of so many, out again, as if it had never been kept."""
    for name, rows in sums.limbs.items():
        total = _row(rows, lag)
        total -= arrays[name]
    sums.counts[lag] -= each
    if not sums.counts[lag]:
        del sums.counts[lag]


class Opened(NamedTuple):
    """What a sum comes to: the mean of "x" and the sums of all else in float64, how many reports count, their weight
    and metrics."""

    rows: dict[str, NDArray[np.float64]]
    used: int
    weight: int
    metrics: dict[str, Array]


def opened(
    ring: Ring, sums: fold.Sums, lags: Lags = ((0,),), shares: Sequence[int] = (1,), whole: int = 1
) -> Opened | None:
    """Return what `sums`, nothing hidden any more, come to, where the sum of each of `lags` counts `shares` of `whole`.

    None where no such reports can come to that: one of the devices has lied, and nobody knows which.
    """
    count, exact = sums.count, np.asarray(sums.limbs[EXACT][0]).view(np.int64)
    rows: dict[str, NDArray[np.float64]] = {}
    at = 0
    for f in ring.wide:
        width = fold.limbs(f) * f.dim
        limbs = [limb.copy() for limb in np.split(exact[at : at + width], fold.limbs(f))]
        rows |= fold.done(fold.Sums({f.name: limbs}), (f,))
        at += width
    used, weight = (int(number) for number in exact[at : at + 2])
    at += 2
    metrics = {}
    for name, length in ring.metrics:
        metrics[name] = exact[at : at + length].copy()
        at += length
    if ring.longest or ring.over:
        used = weight = count
    if not 0 <= used <= count or not used <= weight <= used * ring.heaviest:
        return None
    if ring.dim and used:
        rows[X] = _steps(ring, sums.limbs[X], lags, shares) * (ring.unit / ((ring.over or weight) * whole))
    return Opened(rows, used, weight, metrics)


def _steps(ring: Ring, rows: Sequence[Array], lags: Lags, shares: Sequence[int]) -> Array:
    """Return the sums of `lags`, each as often as `shares` says, in steps that do not wrap any more."""
    signed = f"i{ring.bits // 8}"
    if len(rows) == 1:  # a sum of one class: no copy
        return rows[0].view(signed) if shares[0] == 1 else rows[0].view(signed) * np.int64(shares[0])
    total = np.zeros(ring.dim, np.int64)
    for some, share in zip(lags, shares, strict=True):
        row = rows[some[0]].copy()
        for lag in some[1:]:
            row += rows[lag]
        total += row.view(signed) * np.int64(share)
    return total
