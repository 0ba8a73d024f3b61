"""Local training of cohorts: many devices at once, each as if it were alone (law 3), and their evaluation.

Devices are sorted by size, so that at each step those with equal batches stand together: a slice of the rows,
no copy and no padding. Groups are as large as fits a core's cache; results do not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Literal

import numpy as np

from fedthings.learn import optimisers
from fedthings.learn.data import Shard
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.losses import LOSSES, scoring, target
from fedthings.learn.metrics import add, collect, fixed, nothing
from fedthings.learn.model import MEMORY, backward, chunk, forward, prepare
from fedthings.learn.passes import Weights
from fedthings.learn.task import Task
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload

CACHE = 1 << 20
"""Bytes of the rows, or of a batch in the widest layer, of the devices that train together."""


def trainer(task: Task, mu: float = 0.0, weight: Literal["samples", "equal"] = "samples") -> Learner:
    """Return the learner that reports "x", what training changed, in the dtype of the model received.

    `mu` pulls toward the model received (Li et al. 2020, eq. 2). Where `recipe.keep` is above 0, the state is
    {"x": the device's own last model}. Metrics are of the model received. What is not finite passes on.
    """
    train, keep = training(task, mu), task.recipe.keep
    together = group(task)

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        received = models["x"]
        n = len(shards)
        change = np.empty((n, received.shape[-1]), received.dtype)
        seen = np.zeros((n, 2), np.int64)
        after: list[State] = [None] * n
        order = sorted(range(n), key=lambda i: (-len(shards[i].X), -efforts[i]))
        with np.errstate(all="ignore"):  # a model that diverges is the engine's to refuse
            metrics = evaluate(task, received, shards)
            for start in range(0, n, together):
                chosen = order[start : start + together]
                own = received if received.ndim == 1 else received[chosen]
                theta = np.empty((len(chosen), change.shape[1]), received.dtype)
                theta[...] = own
                for row, i in zip(theta, chosen, strict=True):
                    if keep and states[i] is not None:
                        row *= 1 - keep
                        row += keep * states[i]["x"]
                seen[chosen] = train(
                    own,
                    theta,
                    [shards[i] for i in chosen],
                    [keys[i] for i in chosen],
                    [efforts[i] for i in chosen],
                )
                change[chosen] = theta - own
                if keep:
                    for row, i in zip(theta, chosen, strict=True):
                        after[i] = {"x": row.copy()}
        sizes = np.array([len(shard.X) for shard in shards], np.int64)
        weights = sizes if weight == "samples" else np.minimum(sizes, 1)
        return Fit({"x": change}, weights, {"train": seen, **metrics}), after

    return Learner(lambda: None, alone(many), many)


def evaluator(task: Task) -> Learner:
    """Return the learner that trains nothing: an empty report, weight 1, and the metrics of the model."""

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        with np.errstate(all="ignore"):
            metrics = evaluate(task, models["x"], shards)
        return Fit({}, np.ones(len(shards), np.int64), metrics), list(states)

    return Learner(lambda: None, alone(many), many)


def training(task: Task, mu: float) -> Callable[[Array, Array, Sequence[Shard], Sequence[Key], Sequence[float]], Array]:
    """Return the function that trains `theta` `(K, dim)` in place, for shards sorted by size.

    It takes what was received, `(dim,)` or `(K, dim)`, theta, shards, keys and efforts, and returns `(K, 2)`:
    the samples seen and the sum of their losses at 2**20.
    """
    recipe, loss = task.recipe, LOSSES[task.loss]
    model = scoring(task.model, loss)
    optimiser = optimisers.build(recipe)

    def train(
        received: Array, theta: Array, shards: Sequence[Shard], keys: Sequence[Key], efforts: Sequence[float]
    ) -> Array:
        kind = theta.dtype
        sizes = np.array([len(shard.X) for shard in shards])
        longest = int(sizes.max())
        batch = np.full(len(shards), recipe.batch) if recipe.batch else np.maximum(sizes, 1)
        steps = -(-sizes // batch)  # in an epoch
        # A device that shares its effort still does one step; 0.1 * 30 is to be 3 steps, not 4.
        done = np.array(
            [max(1, ceil(e * s * recipe.epochs - 1e-9)) for e, s in zip(efforts, steps.tolist(), strict=True)]
        )
        raw = [shard.X[None].astype(kind, copy=False) for shard in shards]
        Y = [target(model, loss, x, shard.y[None])[0] for x, shard in zip(raw, shards, strict=True)]
        X = [prepare(model, x)[0] for x in raw]
        mixed_X = np.empty((len(shards), longest, *X[0].shape[1:]), kind)
        mixed_Y = np.empty((len(shards), longest, *Y[0].shape[1:]), Y[0].dtype)
        costs = np.empty((len(shards), longest), kind)
        gradient = np.empty_like(theta)
        moments = tuple(np.zeros_like(theta) for _ in range(optimiser.moments))
        count = np.zeros((len(shards), 1), np.int64)
        seen = np.zeros((len(shards), 2), np.int64)
        views: dict[tuple[int, int], tuple[list[dict[str, Array]], list[dict[str, Array]]]] = {}

        def draw(names: str, some: Sequence[Key], layer: int, shape: tuple[int, ...]) -> Array:
            return np.stack([key.rng(f"{names}/{layer}").random(shape[1:], np.float32) for key in some])

        for epoch in range(recipe.epochs):
            for i in np.flatnonzero(epoch * steps < done).tolist():
                mix(X[i], Y[i], mixed_X[i], mixed_Y[i], keys[i] if steps[i] > 1 else None, epoch)
            costs.fill(0)
            for step in range(int(steps.max())):
                size = np.clip(sizes - step * batch, 0, batch)
                size[epoch * steps + step >= done] = 0
                for lo, hi, b in runs(size):
                    at = slice(step * int(batch[lo]), step * int(batch[lo]) + b)
                    rows = slice(lo, hi)
                    if (lo, hi) not in views:
                        views[lo, hi] = model.split(theta[rows]), model.split(gradient[rows])
                    w, g = views[lo, hi]
                    named = partial(draw, f"dropout/{epoch}/{step}", keys[rows])
                    out, tape = forward(model, w, mixed_X[rows, at], named, model.stem)
                    costs[rows, at], slope = loss.of(out, mixed_Y[rows, at])
                    backward(model, w, tape, slope, g)
                    if mu:
                        near = received if received.ndim == 1 else received[rows]
                        gradient[rows] += mu * (theta[rows] - near)
                    count[rows] += 1
                    seen[rows, 0] += b
                    optimiser.step(theta[rows], gradient[rows], tuple(m[rows] for m in moments), count[rows])
            add(seen[:, 1], fixed(costs)[:, 1])
        return seen

    return train


def mix(X: Array, Y: Array, to_X: Array, to_Y: Array, key: Key | None, epoch: int) -> None:
    """Write a device's samples in the order of this epoch; as they are without a key (one batch)."""
    n = len(X)
    if key is None:
        to_X[:n], to_Y[:n] = X, Y
        return
    order = key.rng(f"shuffle/{epoch}").permutation(n)
    np.take(X, order, 0, to_X[:n], mode="clip")  # "raise" would copy once more
    np.take(Y, order, 0, to_Y[:n], mode="clip")


def evaluate(task: Task, rows: Array, shards: Sequence[Shard]) -> dict[str, Array]:
    """Return the sums `(n, m)` of each metric of `rows` `(dim,)` or `(n, dim)` on their test samples."""
    loss = LOSSES[task.loss]
    model = scoring(task.model, loss)
    total = nothing(task, len(shards))
    order = np.array(sorted(range(len(shards)), key=lambda i: -len(shards[i].test_X)), np.int64)
    sizes = np.array([len(shards[i].test_X) for i in order], np.int64)
    whole = chunk(model)
    for start in range(0, int(sizes.max(initial=0)), whole):
        for lo, hi, b in runs(np.clip(sizes - start, 0, whole)):
            most = max(1, MEMORY // (4 * b * model.work))
            for first in range(lo, hi, most):
                chosen = order[first : min(first + most, hi)]
                X = np.stack([shards[i].test_X[start : start + b] for i in chosen])
                y = np.stack([shards[i].test_y[start : start + b] for i in chosen])
                weights: Sequence[Weights] = model.split(rows[None] if rows.ndim == 1 else rows[chosen])
                out, _ = forward(model, weights, X := X.astype(rows.dtype, copy=False))
                for name, more in collect(task, out, X, y).items():
                    sums = total[name][chosen]
                    add(sums, more)
                    total[name][chosen] = sums
    return total


def runs(sizes: Array) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, size) of neighbours with equal sizes above 0."""
    edges = [0, *(np.flatnonzero(sizes[1:] != sizes[:-1]) + 1).tolist(), len(sizes)]
    for lo, hi in pairwise(edges):
        if lo < hi and sizes[lo]:
            yield lo, hi, int(sizes[lo])


def group(task: Task) -> int:
    """Return how many devices train together, so that what they touch in a step stays in a core's cache."""
    numbers = max(task.model.layout.dim, (task.recipe.batch or 1) * task.model.work)
    return max(1, CACHE // (4 * numbers))
