"""Local steps in NumPy on a row whose gradient another framework gives: one loop for all that differentiate.

Batches, order, optimiser, pull and partial work are those of `descent`, a device at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn import optimisers
from fedthings.learn.data import Shard, sizes
from fedthings.learn.descent import schedule
from fedthings.learn.lift import Steps, guarded
from fedthings.learn.losses import LOSSES
from fedthings.learn.metrics import add, fixed
from fedthings.learn.shuffle import orders
from fedthings.vector import Array, Key

if TYPE_CHECKING:
    from fedthings.learn.task import Task

Tensor = Any
Slope: TypeAlias = Callable[[Array, Array, Array, Key, int], tuple[Array, Array]]
"""`(row, X, y, key, step) -> (gradient (learned,) of the mean cost, to be used up; the costs (n,))`.

What a step does to the statistics, `row[learned:]`, it does in place.
"""
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`(outputs (n, ...), targets) -> costs (n,)`."""


def stepping(slope: Callable[[Task], Slope], learned: int) -> Callable[[Task, float], Steps]:
    """Return the `steps` of a `Lifted` whose first `learned` numbers follow `slope(task)`."""

    def steps(task: Task, mu: float) -> Steps:
        give = slope(task)

        def run(
            received: Array,
            start: Array,
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            change: Array,
        ) -> tuple[Array, Array]:
            seen = np.zeros((len(shards), 2), np.int64)
            for i, (shard, key, effort) in enumerate(zip(shards, keys, efforts, strict=True)):
                near = (received if received.ndim == 1 else received[i])[:learned]
                with guarded(f"training on {key.device}, version {key.version},"):
                    seen[i] = one(task, mu, give, near, start[i], shard, key, effort)
            np.subtract(start, received, out=change)
            return np.full(len(shards), -1), seen

        return run

    return steps


def one(task: Task, mu: float, slope: Slope, near: Array, row: Array, shard: Shard, key: Key, effort: float) -> Array:
    """Train one device, from and in `row` `(dim,)`, with a pull `mu` to `near` `(learned,)`; return what was seen."""
    recipe, optimiser = task.recipe, optimisers.build(task.recipe)
    theta, count, seen = row[None, : near.size], np.zeros((1, 1), np.int64), np.zeros(2, np.int64)
    moments = tuple(np.zeros_like(theta) for _ in range(optimiser.moments))
    (batch,), (steps,), (done,) = (some.tolist() for some in schedule(recipe, sizes([shard]), [effort]))
    X, y = targets(task.loss, shard.X, shard.y)
    word = np.array([key.word("shuffle")], np.uint64)
    for epoch in range(recipe.epochs):
        costs = []
        mixed = orders(word, epoch, len(X))[0] if steps > 1 else None
        for at in range(min(steps, done - epoch * steps)):
            part = slice(at * batch, (at + 1) * batch)
            some = part if mixed is None else mixed[part]
            g, cost = slope(row, X[some], y[some], key, epoch * steps + at)
            if mu:
                g += mu * (theta[0] - near)
            count += 1
            optimiser.step(theta, g[None], moments, count)
            costs.append(cost)
        if costs:
            add(seen, fixed(np.concatenate(costs)[None])[0])
    return seen


def targets(loss: str, X: Array, y: Array) -> tuple[Array, Array]:
    """Return samples and what `loss` compares outputs with: labels `(n,)`, or values `(n, k)`."""
    X = np.asarray(X, np.float32)
    kind = LOSSES[loss].y
    if kind == "labels":
        return X, np.asarray(y, np.int32).reshape(-1)
    return X, (X if kind == "input" else np.asarray(y, np.float32)).reshape(len(X), -1)


def costing(xp: Any, name: str, own: Loss | None, door: str) -> Loss:
    """Return the loss `name`, or one's `own`, on arrays of the namespace `xp`, such as jax.numpy or keras.ops."""

    def cost(out: Tensor, y: Tensor) -> Tensor:
        found = own(out, y) if own else ours(xp, name, out, y)
        if tuple(found.shape) != (len(y),):
            raise SpecError(
                f"{door}: `loss` returned the shape {tuple(found.shape)} for {len(y)} samples: return one cost for each"
            )
        return found

    return cost


def ours(xp: Any, name: str, out: Tensor, y: Tensor) -> Tensor:
    """Return what each sample costs `(n,)`: the losses of `learn.losses`."""
    z = xp.reshape(out, (len(y), -1))
    if name == "cross_entropy":
        z = z - xp.max(z, axis=-1, keepdims=True)
        return xp.log(xp.sum(xp.exp(z), axis=-1)) - xp.take_along_axis(z, y[:, None], axis=-1)[:, 0]
    if name == "binary_cross_entropy":
        costs = xp.logaddexp(z, 0.0 * z) - z * y
    elif name == "mae":
        costs = xp.sign(z - y) * (z - y)  # its slope at 0 is 0 in every framework
    elif name == "huber":
        d = z - y
        costs = xp.where(xp.abs(d) < 1, d * d / 2, xp.abs(d) - 0.5)
    else:  # mse, reconstruction
        costs = (z - y) * (z - y)
    return xp.mean(costs, axis=-1)
