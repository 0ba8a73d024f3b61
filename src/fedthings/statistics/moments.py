"""Moments: counts, sums and squares, of columns or of classes, from which mean and variance follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from fedthings.learn.data import Shard
from fedthings.statistics.columns import values
from fedthings.statistics.statistic import DONE, Known, Next, Statistic, summed
from fedthings.vector import Array, Payload


def of_columns(columns: tuple[str | int, ...], twice: bool) -> Statistic:
    """Return the statistic of `columns`: count, gaps, sum and squares about the row; `twice`: about the mean at last.

    In one round the squares are about 0, of which little is left where the mean is large; the second round's are
    about the mean of the first (the corrected two-pass algorithm, Chan, Golub & LeVeque 1983, eq. 1.7).
    """
    k = len(columns)

    def measure(row: Array, shard: Shard) -> Payload:
        found = {name: np.zeros(k) for name in ("devices", "count", "missing", "sum", "square")}
        for i, column in enumerate(columns):
            x = values(shard, column).astype(np.float64)
            whole = x[~np.isnan(x)]
            centred = whole - row[i]
            sums = (len(whole) > 0, len(whole), len(x) - len(whole), centred.sum(), (centred * centred).sum())
            for name, total in zip(found, sums, strict=True):
                found[name][i] = total
        return found

    def step(row: Array, known: Known, totals: Payload) -> Next:
        count = np.maximum(totals["count"], 1)
        shift = row.astype(np.float64)
        made = {
            **{name: totals[name] for name in ("devices", "count", "missing")},
            "sum": totals["sum"] + shift * totals["count"],
            "mean": shift + totals["sum"] / count,
            "variance": np.maximum(totals["square"] / count - (totals["sum"] / count) ** 2, 0),
        }
        last = not twice or bool(known)
        return Next(row if last else made["mean"].astype(np.float32), made, DONE if last else "")

    fields = summed(devices=k, count=k, missing=k, sum=k, square=k)
    return Statistic(fields, 2 if twice else 1, lambda row: np.zeros(k, np.float32), measure, step)


def by_class(features: Array, labels: Array, classes: int, squares: bool = True) -> dict[str, Array]:
    """Return count `(classes,)`, sum and square `(classes * f,)` of `features` `(n, f)` by label `(n,)`."""
    chosen = np.zeros((classes, len(labels)))
    chosen[labels.reshape(-1).astype(np.int64), np.arange(len(labels))] = 1
    found = {"count": chosen.sum(1), "sum": (chosen @ features).reshape(-1)}
    return found | ({"square": (chosen @ (features * features)).reshape(-1)} if squares else {})


def added(parts: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the sums of the arrays of each name."""
    total: dict[str, Array] = {}
    for part in parts:
        for name, array in part.items():
            total[name] = total[name] + array if name in total else array
    return total
