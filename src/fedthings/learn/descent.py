"""Local steps in NumPy: many devices at once, each as if it were alone (law 3).

Devices are sorted by size, so that at each step those with equal batches stand together: a slice of the rows,
no copy and no padding. Groups are as large as fits a core's cache; results do not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from fedthings.learn import optimisers
from fedthings.learn.data import Shard, sizes
from fedthings.learn.losses import LOSSES, scoring, target
from fedthings.learn.metrics import add, fixed
from fedthings.learn.model import backward, forward, prepare
from fedthings.learn.shuffle import orders
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Array, Key

CACHE = 1 << 20
"""Bytes of the rows, or of a batch in the widest layer, of the devices that train together."""

Descent: TypeAlias = Callable[[Array, Array | None, Sequence[Shard], Sequence[Key], Sequence[float], Array], Array]
"""`(received, own, shards, keys, efforts, change) -> seen`: do the local steps of n devices.

From `received` `(dim,)` or `(n, dim)`, or where they are given from the rows `own` `(n, dim)`, which are left
at the last step; `change` `(n, dim)` becomes what came of it less what was received. `seen` `(n, 2)`: the
samples seen, and the sum of their losses at 2**20.
"""
Corrected: TypeAlias = Callable[
    [Array, Array | None, Sequence[Shard], Sequence[Key], Sequence[float], Array, Array | None], Array
]
"""The same, with rows `(n, dim)` that are added to each gradient of a device; None adds nothing."""


def descent(task: Task, mu: float) -> Descent:
    """Return the local steps of `task`, with a pull `mu` toward the model received."""
    descend = corrected(task, mu)
    return lambda received, own, shards, keys, efforts, change: descend(
        received, own, shards, keys, efforts, change, None
    )


def corrected(task: Task, mu: float, moves: Array | None = None) -> Corrected:
    """Return the local steps of `task`, of which each gradient may have a row added.

    Only parameters that `moves` bool `(dim,)` says change; None is all.
    """
    train, together = training(task, mu, moves), group(task)

    def descend(
        received: Array,
        own: Array | None,
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
        change: Array,
        more: Array | None,
    ) -> Array:
        order = np.lexsort((-np.asarray(efforts), -sizes(shards)))
        seen = np.zeros((len(shards), 2), np.int64)
        for start in range(0, len(shards), together):
            chosen = order[start : start + together]
            near = received if received.ndim == 1 else received[chosen]
            theta = np.empty((len(chosen), change.shape[1]), received.dtype)
            theta[...] = near if own is None else own[chosen]
            some = chosen.tolist()
            seen[chosen] = train(
                near,
                theta,
                [shards[i] for i in some],
                [keys[i] for i in some],
                [efforts[i] for i in some],
                None if more is None else more[chosen],
            )
            change[chosen] = theta - near
            if own is not None:
                own[chosen] = theta
        return seen

    return descend


def training(
    task: Task, mu: float, moves: Array | None = None
) -> Callable[[Array, Array, Sequence[Shard], Sequence[Key], Sequence[float], Array | None], Array]:
    """Return the function that trains `theta` `(K, dim)` in place, for shards sorted by size.

    It takes what was received, `(dim,)` or `(K, dim)`, theta, shards, keys, efforts and what is added to each gradient,
    `(K, dim)` or None, and returns what was seen.
    """
    recipe, loss = task.recipe, LOSSES[task.loss]
    model = scoring(task.model, loss)
    optimiser = optimisers.build(recipe)

    def train(
        received: Array,
        theta: Array,
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
        more: Array | None = None,
    ) -> Array:
        kind = theta.dtype
        counts = sizes(shards)
        longest = int(counts.max())
        batch, steps, done = schedule(recipe, counts, efforts)
        raw = [shard.X[None].astype(kind, copy=False) for shard in shards]
        Y = [target(task.model, loss, x, shard.y[None])[0] for x, shard in zip(raw, shards, strict=True)]
        X = [prepare(model, x)[0] for x in raw]
        mixed_X = np.empty((len(shards), longest, *X[0].shape[1:]), kind)
        mixed_Y = np.empty((len(shards), longest, *Y[0].shape[1:]), Y[0].dtype)
        costs = np.empty((len(shards), longest), kind)
        gradient = np.empty_like(theta)
        moments = tuple(np.zeros_like(theta) for _ in range(optimiser.moments))
        count = np.zeros((len(shards), 1), np.int64)
        seen = np.zeros((len(shards), 2), np.int64)
        begun = [theta[:, part].copy() for part in model.running]
        views: dict[tuple[int, int], tuple[list[dict[str, Array]], list[dict[str, Array]]]] = {}

        def draw(names: str, some: Sequence[Key], layer: int, shape: tuple[int, ...]) -> Array:
            return np.stack([key.rng(f"{names}/{layer}").random(shape[1:], np.float32) for key in some])

        words = np.array([key.word("shuffle") for key in keys] if longest > batch.min() else [], np.uint64)
        for epoch in range(recipe.epochs):
            for lo, hi, n in runs(np.where(epoch * steps < done, counts, 0)):
                mixed = orders(words[lo:hi], epoch, n) if steps[lo] > 1 else None
                for i in range(lo, hi):
                    mix(X[i], Y[i], mixed_X[i], mixed_Y[i], None if mixed is None else mixed[i - lo])
            costs.fill(0)
            for step in range(int(steps.max())):
                size = np.clip(counts - step * batch, 0, batch)
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
                    if more is not None:
                        gradient[rows] += more[rows]
                    if moves is not None:
                        gradient[rows] *= moves
                        for part, before in zip(model.running, begun, strict=True):  # the batch has moved them
                            theta[rows, part] = np.where(moves[part], theta[rows, part], before[rows])
                    count[rows] += 1
                    seen[rows, 0] += b
                    statistics = [theta[rows, part].copy() for part in model.running]
                    optimiser.step(theta[rows], gradient[rows], tuple(m[rows] for m in moments), count[rows])
                    for part, seen_so_far in zip(model.running, statistics, strict=True):
                        theta[rows, part] = seen_so_far
            add(seen[:, 1], fixed(costs)[:, 1])
        return seen

    return train


def schedule(recipe: Recipe, counts: Array, efforts: Sequence[float]) -> tuple[Array, Array, Array]:
    """Return, for devices with `counts` samples, batch size, steps in an epoch and steps to do, each `(n,)`.

    A device that shares its effort still does one step; 0.1 * 30 is to be 3 steps, not 4.
    """
    batch = np.full(len(counts), recipe.batch) if recipe.batch else np.maximum(counts, 1)
    steps = -(-counts // batch)
    done = np.maximum(1, np.ceil(np.asarray(efforts) * steps * recipe.epochs - 1e-9).astype(np.int64))
    return batch, steps, done


def mix(X: Array, Y: Array, to_X: Array, to_Y: Array, order: Array | None) -> None:
    """Write a device's samples in an epoch's `order`; as they are without one (one batch)."""
    n = len(X)
    if order is None:
        to_X[:n], to_Y[:n] = X, Y
        return
    np.take(X, order, 0, to_X[:n], mode="clip")  # "raise" would copy once more
    np.take(Y, order, 0, to_Y[:n], mode="clip")


def runs(sizes: Array) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, size) of neighbours with equal sizes above 0."""
    edges = [0, *(np.flatnonzero(sizes[1:] != sizes[:-1]) + 1).tolist(), len(sizes)]
    for lo, hi in pairwise(edges):
        if lo < hi and sizes[lo]:
            yield lo, hi, int(sizes[lo])


def group(task: Task, room: int = CACHE) -> int:
    """Return how many devices train together, so that what they touch in a step takes `room` bytes: a core's cache."""
    numbers = max(task.model.layout.dim, (task.recipe.batch or 1) * task.model.work)
    return max(1, room // (4 * numbers))
