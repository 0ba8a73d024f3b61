"""Nearest class mean on a frozen extractor, in one round: sums and counts by class merge exactly.

Mensink et al. 2013, eq. 3, with the Euclidean distance; what is before the last layer is not trained, and may come from
`init=`.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from fedthings.learn.data import Shard
from fedthings.learn.filled import Centroids
from fedthings.learn.task import Task
from fedthings.statistics.features import ends_in, filled, parts, width
from fedthings.statistics.moments import added, by_class
from fedthings.statistics.statistic import DONE, Known, Next, Statistic, summed
from fedthings.vector import Array, Payload

ABSENT = -1e30
"""The score of a class that no device has: below every other."""


class NearestMean(Struct, frozen=True, tag="nearest_mean", forbid_unknown_fields=True):
    """The class whose mean is the nearest."""


def check(spec: NearestMean, task: Task) -> None:
    """Raise SpecError unless the last layer of `task` holds the means."""
    ends_in(task, "nearest_mean", Centroids, loss=("cross_entropy",))


def build(spec: NearestMean, task: Task, seed: int) -> Statistic:
    """Return the statistic of one round."""
    model = task.model
    f, k = width(model), model.outputs[0]

    def measure(row: Array, shard: Shard) -> Payload:
        return added(by_class(some, y, k, squares=False) for some, y in parts(model, shard, row))

    def step(row: Array, known: Known, totals: Payload) -> Next:
        count = totals["count"]
        mean = totals["sum"].reshape(k, f) / np.maximum(count, 1)[:, None]
        return Next(filled(model, row, {"centroid": mean, "offset": np.where(count > 0, 0, ABSENT)}), {}, DONE)

    return Statistic(summed(count=k, sum=k * f), 1, lambda row: row, measure, step)
