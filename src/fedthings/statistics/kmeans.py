"""k-means: each round assigns samples to the nearest centroid on the devices, and moves centroids to the means.

Lloyd 1982. The first round learns where the samples lie, and centroids are drawn there; one that nobody is near to is
drawn anew beside the one with the largest spread.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from fedthings.learn.data import Shard
from fedthings.learn.filled import Centroids
from fedthings.learn.task import Task, within
from fedthings.statistics.features import ends_in, filled, held, parts, width
from fedthings.statistics.moments import added, by_class
from fedthings.statistics.statistic import Known, Next, Statistic, summed
from fedthings.vector import Array, Payload, keyed

ROUNDS = 300


class KMeans(Struct, frozen=True, tag="k_means", forbid_unknown_fields=True):
    """It ends when no centroid moves by more than `tolerance` deviations of a feature."""

    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        within("strategy.statistic.tolerance", self.tolerance, 0, 1)


def check(spec: KMeans, task: Task) -> None:
    """Raise SpecError unless the last layer of `task` holds the centroids."""
    ends_in(task, "k_means", Centroids, loss=("nearest",))


def build(spec: KMeans, task: Task, seed: int) -> Statistic:
    """Return the statistic of Lloyd's rounds."""
    model = task.model
    f, k = width(model), model.outputs[0]

    def start(row: Array) -> Array:
        return filled(model, row, {"centroid": np.zeros((k, f)), "offset": np.zeros(k)})

    def measure(row: Array, shard: Shard) -> Payload:
        centroid = held(model, row)["centroid"]
        return added(by_class(some, nearest(some, centroid), k) for some, _ in parts(model, shard, row))

    def step(row: Array, known: Known, totals: Payload) -> Next:
        count = np.maximum(totals["count"], 1)[:, None]
        total, square = (totals[name].reshape(k, f) for name in ("sum", "square"))
        mean, turn = total / count, int(known["turn"][0]) + 1 if known else 0
        spread = np.sqrt(np.maximum(square / count - mean**2, 0))
        draw = keyed(seed, "k-means", turn).standard_normal((k, f))
        if not known:  # all were nearest to the first
            drawn = mean[0] + spread[0] * draw
            return Next(filled(model, row, {"centroid": drawn}), {"turn": np.array([0]), "deviation": spread[0]})
        widest = int((totals["count"] * (spread**2).sum(1)).argmax())
        empty = totals["count"][:, None] < 1
        centroid = np.where(empty, mean[widest] + spread[widest] * draw, mean)
        made = filled(model, row, {"centroid": centroid})
        way = held(model, made)["centroid"] - held(model, row)["centroid"]  # of what is sent, which is rounded
        moved = np.abs(way) / np.where(known["deviation"] > 0, known["deviation"], 1)
        stop = "converged" if moved.max() <= spec.tolerance else ""
        return Next(made, {**known, "turn": np.array([turn])}, stop)

    return Statistic(summed(count=k, sum=k * f, square=k * f), ROUNDS, start, measure, step)


def nearest(samples: Array, centroid: Array) -> Array:
    """Return which centroid `(k, f)` is the nearest to each sample `(n, f)`; the first of several."""
    apart = np.stack([((samples - one) ** 2).sum(1) for one in centroid], 1)
    return np.asarray(apart.argmin(1))
