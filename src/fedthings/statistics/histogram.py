"""Histograms: counts between edges; and order statistics, exact after a few rounds of counts between finer edges.

Float32 numbers, as whole numbers in their order, are at most 2**32: each round splits the bins in which an order
statistic lies. No range has to be known before, and there is nothing but sums, so it works behind masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from fedthings.learn.data import Shard
from fedthings.stage import Schema
from fedthings.statistics.columns import values
from fedthings.statistics.statistic import DONE, Known, Next, Statistic, summed
from fedthings.vector import Array, Payload

Reading: TypeAlias = Callable[[Shard], Sequence[Array]]
"""What gives the values `(n,)` float32 of each column of a device, NaN where one is missing."""
BINS = 258
"""Bins of a column at least: 256 parts of one interval, and what lies beyond."""
ROUNDS = 24
MOST = np.finfo(np.float32).max


def ordered(x: Array) -> Array:
    """Return float32 `x` as int64 in the same order, neighbours one apart; 0.0 is 0."""
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.asarray(np.where(bits < 0, -(bits & 0x7FFFFFFF), bits))


def floats(order: Array) -> Array:
    """Return the float32 numbers that `ordered` made `order` of."""
    bits = np.where(order < 0, (-order) | -0x80000000, order)
    return bits.astype(np.int64).astype(np.uint32).view(np.float32)


END = int(ordered(np.array([MOST]))[0])


def of_columns(columns: tuple[str | int, ...]) -> Reading:
    """Return what reads `columns` of a device, by name or number."""
    return lambda shard: [values(shard, column) for column in columns]


def between(read: Reading, edges: Array) -> Statistic:
    """Return the statistic of counts between `edges` `(k, m)` of k columns, and below and above; the last is closed."""
    k, m = edges.shape
    row = edges.astype(np.float32)
    row[:, -1] = np.nextafter(row[:, -1], np.float32(np.inf))

    def step(row: Array, known: Known, totals: Payload) -> Next:
        return Next(row, _counted(totals, k), DONE)

    return Statistic(_fields(k, m + 1), 1, lambda _: row.reshape(-1), _counting(read, k, m + 1), step)


def order_statistics(
    read: Reading, k: int, shares: Sequence[float], tolerance: float = 0.0, then: int = 0
) -> Statistic:
    """Return the statistic of the values below which `shares` of each of k columns lie: those of rank ceil(share * n).

    They are exact; or with a `tolerance`, of that share of the samples at most, the upper edge of a bin. `then`: one
    more round counts so many bins between the least and the greatest, which `shares` must be.
    """
    t = len(shares)
    bins = max(BINS, 8 * t, then)

    def start(_: Array) -> Array:
        inner = np.linspace(-END, END, bins + 1)[1:-1].astype(np.int64)
        return np.tile(floats(inner), k)

    def step(row: Array, known: Known, totals: Payload) -> Next:
        counted = _counted(totals, k)
        if "edges" in known:
            return Next(row, {**known, "counts": counted["counts"][:, :then]}, DONE)
        made = _Search(known or _unknown(k, t))
        edges = row.reshape(k, bins - 1).copy()
        for i in range(k):
            made.look(i, ordered(edges[i]), counted["counts"][i], shares, tolerance)
            edges[i] = made.finer(i, bins)
        found = {**counted, **made.known}
        if not made.known["found"].all():
            return Next(edges.reshape(-1), found)
        if not then:
            return Next(row, found, DONE)
        whole = np.linspace(made.known["value"][:, 0], made.known["value"][:, -1], then + 1, axis=-1)
        edges[:] = MOST
        edges[:, : then - 1] = whole[:, 1:-1]
        return Next(edges.reshape(-1), {**found, "edges": whole})

    return Statistic(_fields(k, bins), ROUNDS, start, _counting(read, k, bins), step)


def _fields(k: int, bins: int) -> Schema:
    return summed(devices=k, count=k, missing=k, counts=k * bins)


def _counting(read: Reading, k: int, bins: int) -> Callable[[Array, Shard], Payload]:
    """Return what counts the values of a device from edge to edge: bin i begins at edge i - 1."""

    def measure(row: Array, shard: Shard) -> Payload:
        found = {name: np.zeros(k) for name in ("devices", "count", "missing")}
        counts = np.zeros((k, bins))
        for i, (x, edges) in enumerate(zip(read(shard), row.reshape(k, bins - 1), strict=True)):
            whole = x[~np.isnan(x)]
            for name, number in zip(found, (len(whole) > 0, len(whole), len(x) - len(whole)), strict=True):
                found[name][i] = number
            counts[i] = np.bincount(np.searchsorted(edges, whole, "right"), minlength=bins)
        return {**found, "counts": counts.reshape(-1)}

    return measure


def _counted(totals: Payload, k: int) -> dict[str, Array]:
    return {name: total.reshape(k, -1) if name == "counts" else total for name, total in totals.items()}


def _unknown(k: int, t: int) -> dict[str, Array]:
    return {
        "found": np.zeros((k, t), bool),
        "value": np.full((k, t), np.nan),
        "low": np.zeros((k, t), np.int64),
        "high": np.zeros((k, t), np.int64),
    }


class _Search:
    """Between which numbers each order statistic lies, `low` <= x < `high`, and what it is once that is known."""

    def __init__(self, known: Known) -> None:
        self.known = {name: known[name].copy() for name in ("found", "value", "low", "high")}

    def look(self, i: int, edges: Array, counts: Array, shares: Sequence[float], tolerance: float) -> None:
        """Read from `counts` between `edges` of column i, as whole numbers, in which bin each lies."""
        n, upto = counts.sum(), np.cumsum(counts)
        for j, share in enumerate(shares):
            if self.known["found"][i, j]:
                continue
            if not n:
                self.known["found"][i, j] = True
                continue
            rank = min(max(np.ceil(share * n * (1 - 1e-12)), 1), n)  # 0.07 * 100 is 7.000000000000001
            at = int(np.searchsorted(upto, rank))
            low = int(edges[at - 1]) if at else -END
            high = int(edges[at]) if at < len(edges) else END + 1
            self.known["low"][i, j], self.known["high"][i, j] = low, high
            if high - low == 1 or counts[at] <= tolerance * n:
                self.known["found"][i, j] = True
                self.known["value"][i, j] = floats(np.array([high - 1]))[0]

    def finer(self, i: int, bins: int) -> Array:
        """Return the next edges of column i, `(bins - 1,)` float32: those around what is not known yet, and between."""
        bounds = np.stack([self.known["low"][i], self.known["high"][i]], -1)[~self.known["found"][i]]
        open_ = sorted({(low, high) for low, high in bounds.tolist()})
        edges: list[int] = []
        for low, high in open_:
            inner = min((bins - 1) // len(open_) - 2, high - low - 1)
            edges += [low, *(low + (high - low) * s // (inner + 1) for s in range(1, inner + 1)), min(high, END)]
        edges += [END] * (bins - 1 - len(edges))
        return floats(np.sort(np.array(edges, np.int64)))
