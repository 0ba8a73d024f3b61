"""Gaussian naive Bayes in one round, from counts, sums and squares by class (Hastie et al. 2009, section 6.6.3)."""

from __future__ import annotations

from math import log, pi

import numpy as np
from msgspec import Struct

from fedthings.learn.data import Shard
from fedthings.learn.filled import Gaussians
from fedthings.learn.task import Task, within
from fedthings.statistics.features import ends_in, filled, parts, width
from fedthings.statistics.moments import added, by_class
from fedthings.statistics.nearest_mean import ABSENT
from fedthings.statistics.statistic import DONE, Known, Next, Statistic, summed
from fedthings.vector import Array, Payload


class NaiveBayes(Struct, frozen=True, tag="naive_bayes", forbid_unknown_fields=True):
    """A Gaussian for each feature and class; `smoothing` times the largest variance is added to each."""

    smoothing: float = 1e-9

    def __post_init__(self) -> None:
        within("strategy.statistic.smoothing", self.smoothing, 0, 1)


def check(spec: NaiveBayes, task: Task) -> None:
    """Raise SpecError unless the last layer of `task` holds the Gaussians."""
    ends_in(task, "naive_bayes", Gaussians, loss=("cross_entropy",))


def build(spec: NaiveBayes, task: Task, seed: int) -> Statistic:
    """Return the statistic of one round."""
    model = task.model
    f, k = width(model), model.outputs[0]

    def measure(row: Array, shard: Shard) -> Payload:
        return added(by_class(some, y, k) for some, y in parts(model, shard, row))

    def step(row: Array, known: Known, totals: Payload) -> Next:
        count, n = totals["count"], totals["count"].sum()
        each = np.maximum(count, 1)[:, None]
        total, square = (totals[name].reshape(k, f) for name in ("sum", "square"))
        mean = total / each
        spread = np.maximum(square.sum(0) / n - (total.sum(0) / n) ** 2, 0)
        variance = np.maximum(square / each - mean**2, 0) + max(spec.smoothing * spread.max(), 1e-30)
        precision = np.where(count[:, None] > 0, variance**-0.5, 0)
        logs = np.log(np.maximum(precision, 1e-300)).sum(1) + np.log(np.maximum(count, 1) / n) - f / 2 * log(2 * pi)
        constant = np.where(count > 0, logs, ABSENT)
        return Next(filled(model, row, {"centre": mean, "precision": precision, "constant": constant}), {}, DONE)

    return Statistic(summed(count=k, sum=k * f, square=k * f), 1, lambda row: row, measure, step)
