"""Fleet normalisation: each device's counts, sums and squares become a scaling layer for all (phase 0)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import msgspec
import numpy as np

from fedthings.learn.data import Shard
from fedthings.learn.layers import standardise
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.model import Sequential
from fedthings.learn.task import Task
from fedthings.stage import Field, Schema, State
from fedthings.vector import Array, Key, Payload

NAMES = ("count", "sum", "square")
CHUNK = 1 << 16
"""Numbers that are summed at once, so that a large shard needs no second copy in float64."""


def statistics_schema(model: Sequential) -> Schema:
    """Return the arrays a device reports: one number for each feature of the flattened input."""
    return tuple(Field(name, prod(model.input), dtype="f8", per="one") for name in NAMES)


def statistician(task: Task) -> Learner:
    """Return the learner that reports "count", "sum", "square" `(features,)` float64, NaN left out."""
    width = prod(task.model.input)

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        with np.errstate(all="ignore"):
            sums = np.stack([moments(shard.X.reshape(-1, width)) for shard in shards])
        report = {name: np.ascontiguousarray(sums[:, i]) for i, name in enumerate(NAMES)}
        return Fit(report, np.ones(len(shards), np.int64), {}), list(states)

    return Learner(lambda: None, alone(many), many)


def moments(X: Array) -> Array:
    """Return `(3, features)` float64, count, sum and sum of squares by feature of `X` `(n, features)`."""
    total = np.zeros((3, X.shape[1]))
    step = max(1, CHUNK // X.shape[1])
    for start in range(0, len(X), step):
        part = X[start : start + step].astype(np.float64)
        gaps = np.isnan(part)
        np.putmask(part, gaps, 0)
        total[0] += len(part) - gaps.sum(0)
        total[1] += part.sum(0)
        total[2] += (part * part).sum(0)
    return total


def standardised(model: Sequential, statistics: Payload) -> Sequential:
    """Return `model` behind the scaling that `statistics`, sums over the fleet, ask for; gaps get the mean.

    The deviation is that of all samples pooled (divided by n), 1 where no 2 different values were seen.
    """
    count, total, square = (np.asarray(statistics[name], np.float64) for name in NAMES)
    mean = total / np.maximum(count, 1)
    variance = square / np.maximum(count, 1) - mean * mean
    # What subtraction leaves of a constant is noise of this size, not a deviation.
    varies = (count >= 2) & (variance > 1e-13 * mean * mean)
    deviation = np.sqrt(np.where(varies, variance, 1))
    # A deviation below float32 would become 0.
    deviation = np.where(deviation < np.finfo(np.float32).tiny, 1, deviation)
    return msgspec.structs.replace(model, layers=(standardise(mean, deviation), *model.layers))
