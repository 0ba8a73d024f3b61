"""Fleet normalisation: each device's counts, sums and squares become a scaling layer for all (phase 0)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import msgspec
import numpy as np

from fedthings.learn.data import Shard
from fedthings.learn.layers import Embedding
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.model import Sequential, transformed
from fedthings.learn.task import Task
from fedthings.learn.transforms import rescale, standardise
from fedthings.stage import Field, Schema, State
from fedthings.vector import Array, Key, Payload

NAMES = ("count", "sum", "square")
TARGETS = ("targets_count", "targets_sum", "targets_square")
CHUNK = 1 << 16
"""Numbers that are summed at once, so that a large shard needs no second copy in float64."""


def statistics_schema(model: Sequential) -> Schema:
    """Return the arrays a device reports: one number for each feature of the flattened input, once it is transformed.

    And one for each target, where the model is to learn their scale.
    """
    sizes = {NAMES: prod(model.shapes[model.front]), TARGETS: prod(model.outputs) if learns_targets(model) else 0}
    return tuple(Field(name, size, dtype="f8", per="one") for names, size in sizes.items() if size for name in names)


def learns_targets(model: Sequential) -> bool:
    """Return whether the scale of the targets is to be learned."""
    return model.rescale is not None and not model.rescale.mean


def statistician(task: Task) -> Learner:
    """Return the learner that reports "count", "sum", "square" `(features,)` float64, NaN left out."""
    model = task.model
    width, targets = prod(model.shapes[model.front]), learns_targets(model)
    names = (*NAMES, *TARGETS) if targets else NAMES

    def summed(shard: Shard) -> list[Array]:
        X = transformed(model, shard.X[None])[0]
        found = [*moments(X.reshape(-1, width))]
        return [*found, *moments(shard.y.reshape(len(shard.y), -1))] if targets else found

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        with np.errstate(all="ignore"):
            sums = zip(*map(summed, shards), strict=True)
        report = {name: np.stack(rows) for name, rows in zip(names, sums, strict=True)}
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
    """Return `model` with the scaling that `statistics`, sums over the fleet, ask for; gaps get the mean.

    It stands behind the transforms in front, and leaves the numbers that an embedding looks up as they are.
    """
    mean, deviation = scale(*(statistics[name] for name in NAMES))
    steps = model.front
    outputs, looked_up = model.shapes[steps], spared(model)
    mean, deviation = mean.reshape(outputs), deviation.reshape(outputs)
    mean[..., looked_up], deviation[..., looked_up] = 0, 1
    layers = (*model.layers[:steps], standardise(mean, deviation), *model.layers[steps:])
    if learns_targets(model):
        layers = (*layers[:-1], rescale(*scale(*(statistics[name] for name in TARGETS))))
    return msgspec.structs.replace(model, layers=layers)


def spared(model: Sequential) -> list[int]:
    """Return the features behind the transforms that embeddings look up."""
    left = list(range(model.shapes[model.front][-1]))
    found: list[int] = []
    for layer in model.layers[model.front :]:
        if layer.fixed:
            continue
        if not isinstance(layer, Embedding):
            break
        if layer.column is None:
            return [*found, *left]
        left.append(-1)  # its vector, which stands at the end
        found.append(left.pop(layer.column))
    return [column for column in found if column >= 0]


def scale(count: Array, total: Array, square: Array) -> tuple[Array, Array]:
    """Return mean and deviation `(n,)` float64 from sums.

    The deviation is that of all samples pooled (divided by n), 1 where no 2 different values were seen.
    """
    count, total, square = (np.asarray(sums, np.float64) for sums in (count, total, square))
    mean = total / np.maximum(count, 1)
    variance = square / np.maximum(count, 1) - mean * mean
    # What subtraction leaves of a constant is noise of this size, not a deviation.
    varies = (count >= 2) & (variance > 1e-13 * mean * mean)
    deviation = np.sqrt(np.where(varies, variance, 1))
    # A deviation below float32 would become 0.
    return mean, np.where(deviation < np.finfo(np.float32).tiny, 1, deviation)
