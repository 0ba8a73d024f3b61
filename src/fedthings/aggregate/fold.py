"""Folds: exact sums of reports that stream in O(dim) memory and do not depend on order or sharding (law 7).

A float32 row is rounded once to fixed point, at 2**-scale, and summed in int64. A float64 row is split
into four int64 limbs of 2**32, which holds every bit above 2**-scale. What is out of range is refused by value.
Compiled kernels, where they are installed, sum float32 rows faster and to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, log2
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedthings.kernels import kernels
from fedthings.stage import Field, Schema
from fedthings.vector import Array, Payload

BOUND = 64.0
"""Largest absolute value in a float32 row; a trained update is far below it."""
WEIGHT = 1 << 16
"""Largest weight of a device's report."""
HEAVY = 1 << 20
"""Largest weight of the report of an edge, which stands for its devices' reports."""
WHOLE = WEIGHT
"""The share of a report that is not stale; that of a stale one is a whole number below it, so that sums stay exact."""
WIDE_SCALE, WIDE_BOUND, WIDE_LIMBS = 64, 2.0**74, 4
"""Fixed point of float64 rows: 2**-64 up to 2**74, and room for 2**20 of them."""
BLOCK = 1 << 15
"""Numbers converted at once, so that temporaries stay in the cache."""


def announced(schema: Schema, reports: int) -> Schema:
    """Return `schema` with the finest scale at which `reports` reports of full weight cannot overflow."""
    bits = 62 - ceil(log2(max(reports, 1))) - int(log2(BOUND))
    return tuple(
        f._replace(
            scale=WIDE_SCALE
            if f.dtype == "f8"
            else min(36, bits - (ceil(log2(f.heaviest)) if f.per == "weight" else 0))
        )
        for f in schema
    )


def refused(fields: Schema, payload: Payload, weight: Array) -> Array:
    """Return for each of n reports why it cannot be summed: "", "not finite", "out of range" `(n,)`.

    `payload` holds rows `(n, dim)`, `weight` is `(n,)` int64.
    """
    reasons = _unweighable(weight, fields)
    for f in fields:
        # One number a report tells both: NaN and infinity survive the maximum. No copy of the rows is made.
        row = payload[f.name]
        _judge(reasons, f, np.maximum(row.max(-1, initial=0.0), -row.min(-1, initial=0.0)))
    return reasons


def _unweighable(weight: Array, fields: Schema) -> Array:
    reasons = np.full(len(weight), "", dtype=object)
    reasons[(weight < 1) | (weight > heaviest(fields))] = "weight out of range"
    return reasons


def _judge(reasons: Array, f: Field, largest: Array) -> None:
    """Write to `reasons` what the `largest` absolute value of each row `(n,)` says against it."""
    reasons[largest > (WIDE_BOUND if f.dtype == "f8" else BOUND)] = "out of range"
    reasons[~np.isfinite(largest)] = "not finite"


@dataclass
class Sums:
    """The running sums of one version: a limb or two for each array, the weight and count for each lag."""

    limbs: dict[str, list[NDArray[np.int64]]]
    weights: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        """The total weight."""
        return sum(self.weights.values())

    @property
    def count(self) -> int:
        """How many reports are in."""
        return sum(self.counts.values())


def limbs(f: Field) -> int:
    """Return how many int64 a number of the array `f` is summed in."""
    return WIDE_LIMBS if f.dtype == "f8" else 1


def heaviest(schema: Schema) -> int:
    """Return the largest weight of one report."""
    return max((f.heaviest for f in schema), default=WEIGHT)


def largest(f: Field) -> int:
    """Return what no limb of one report of weight 1 goes beyond."""
    return int((WIDE_BOUND if f.dtype == "f8" else BOUND) * 2.0 ** (f.scale - 32 * (limbs(f) - 1)))


def init(schema: Schema) -> Sums:
    """Return sums of nothing."""
    return Sums({f.name: [np.zeros(f.dim, np.int64) for _ in range(limbs(f))] for f in schema})


def keep(
    sums: Sums,
    schema: Schema,
    payload: Payload,
    weights: Array,
    lags: ArrayLike,
    threads: int = 1,
    shares: Array | None = None,
) -> Array:
    """Add n reports, rows `(n, dim)` with int64 weights and lags `(n,)`; return what `refused` says of each.

    Those are not in the sums. The kernels add and look in one pass, on `threads`, and take back what may not be in.
    `shares` `(n,)` of `WHOLE` are what stale rows count for, where each weight is 1. They do not change what the sum
    is divided by (Nguyen et al. 2022, Alg. 1); `done` must be told of them.
    """
    times = weights if shares is None else weights * shares
    rows = payload[schema[0].name] if len(schema) == 1 else None
    if rows is not None and schema[0].dtype == "f4" and rows.strides[-1] == 4 and kernels() is not None:
        reasons = _compiled(sums.limbs[schema[0].name][0], schema, rows, weights, times, threads)
    else:
        reasons = refused(schema, payload, weights)
        good = reasons == ""
        whole = bool(good.all())
        for f in schema:
            some, factors = (payload[f.name], times) if whole else (payload[f.name][good], times[good])
            _add(sums.limbs[f.name], some, _factors(f, factors)[:, None], f)
    good, lags = reasons == "", np.asarray(lags)
    for lag in sorted(set(lags[good].tolist())):  # np.unique would load np.ma, for nothing
        some = weights[good & (lags == lag)]
        sums.weights[lag] = sums.weights.get(lag, 0) + int(some.sum())
        sums.counts[lag] = sums.counts.get(lag, 0) + len(some)
    return reasons


def _compiled(
    limb: NDArray[np.int64], schema: Schema, rows: Array, weights: Array, times: Array, threads: int
) -> Array:
    f = schema[0]
    reasons, factors, largest = _unweighable(weights, schema), _factors(f, times), np.empty(len(rows), np.float32)
    rows = np.require(rows, requirements="A")  # a view into a file may begin anywhere
    kernels().fold(rows, factors, f.scale, limb, largest, threads)
    _judge(reasons, f, largest)
    bad = reasons != ""
    if bad.any():  # sums wrap, so that even of infinity the same is taken back that was added
        kernels().fold(rows[bad], -factors[bad], f.scale, limb, largest[bad])
    return reasons


def _factors(f: Field, weights: Array) -> Array:
    return weights if f.per == "weight" else np.ones_like(weights)


def _add(limbs: list[NDArray[np.int64]], rows: Array, factors: Array, f: Field) -> None:
    many = max(1, BLOCK // max(f.dim, 1))
    for top in range(0, len(rows), many):
        for start in range(0, f.dim, BLOCK):
            block = slice(start, start + BLOCK)
            fixed = rows[top : top + many, block] * np.float64(2.0**f.scale)
            np.rint(fixed, out=fixed)  # once, before the weight: the sum then depends on no order
            weight = factors[top : top + many]
            for place in range(len(limbs) - 1, 0, -1):
                high = np.trunc(fixed * 2.0 ** (-32 * place))  # exact: no bit is lost, and the rest keeps its sign
                fixed -= high * 2.0 ** (32 * place)
                limbs[place][block] += (high.astype(np.int64) * weight).sum(0)
            limbs[0][block] += (fixed.astype(np.int64) * weight).sum(0)


def merge(sums: Sums, other: Sums) -> None:
    """Add the sums of another shard; the result is that of one shard, bit for bit."""
    for name, limbs in sums.limbs.items():
        for limb, more in zip(limbs, other.limbs[name], strict=True):
            limb += more
    for lag, weight in other.weights.items():
        sums.weights[lag] = sums.weights.get(lag, 0) + weight
    for lag, count in other.counts.items():
        sums.counts[lag] = sums.counts.get(lag, 0) + count


def done(sums: Sums, schema: Schema, whole: int = 1, over: int = 0) -> dict[str, NDArray[np.float64]]:
    """Return each array's mean ("weight") or sum ("one") as float64 `(dim,)`; uses up `sums`.

    `whole` is `WHOLE` where reports were kept with their shares; a mean is `over` the total weight, where it is 0.
    """
    out = {}
    for f in schema:
        limbs = sums.limbs.pop(f.name)
        divisor = (over or sums.weight) if f.per == "weight" else 1
        out[f.name] = _real(limbs, 2.0**-f.scale, divisor * whole)
    return out


def _real(limbs: list[NDArray[np.int64]], unit: float, divisor: int) -> NDArray[np.float64]:
    """Turn limbs into numbers in their own memory, so that a large model is not held twice."""
    low = limbs[0]
    real: NDArray[Any] = low.view(np.float64)
    units = divisor / unit  # a power of two: it rounds nothing
    for start in range(0, len(low), BLOCK):
        block = slice(start, start + BLOCK)
        value = low[block].astype(np.float64)
        for place in range(1, len(limbs)):
            value += limbs[place][block].astype(np.float64) * 2.0 ** (32 * place)
        np.divide(value, units, out=real[block])
    return real
