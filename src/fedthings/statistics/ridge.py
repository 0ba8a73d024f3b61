"""Linear and ridge regression in one round, from the sums of products of features and targets.

The sums are exact, so the result is that of all samples in one place. Hoerl & Kennard 1970; Hastie et al. 2009,
eq. 3.44: w = (X'X + penalty I)^-1 X'y, with X and y centred, so that the intercept is not shrunk.
"""

from __future__ import annotations

from math import prod

import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.learn.data import Shard
from fedthings.learn.layers import Dense
from fedthings.learn.task import Task, within
from fedthings.statistics.features import ends_in, filled, parts, width
from fedthings.statistics.statistic import DONE, Known, Next, Statistic, summed
from fedthings.vector import Array, Payload

MOST = 1 << 12
"""Features at the most: the products of 4,096 are 67 MB."""


class Ridge(Struct, frozen=True, tag="ridge", forbid_unknown_fields=True):
    """Least squares with `penalty` times the squared weights, intercept apart (0: linear regression)."""

    penalty: float = 1.0

    def __post_init__(self) -> None:
        within("strategy.statistic.penalty", self.penalty, 0, 1e18)


def check(spec: Ridge, task: Task) -> None:
    """Raise SpecError unless the last layer of `task` can be filled so."""
    ends_in(task, "ridge", Dense, loss=("mse", "mae", "huber"))
    narrow("ridge", width(task.model))


def narrow(method: str, f: int) -> None:
    """Raise SpecError where `f` features have too many products."""
    if f > MOST:
        raise SpecError(f"strategy {method} sums the products of {f} features: use at most {MOST}")


def build(spec: Ridge, task: Task, seed: int) -> Statistic:
    """Return the statistic of one round."""
    model = task.model
    f, k = width(model), prod(model.outputs)

    def measure(row: Array, shard: Shard) -> Payload:
        products, targets = np.zeros((f + 1, f + 1)), np.zeros((f + 1, k))
        for some, y in parts(model, shard, row):
            Z = with_one(some)
            products += Z.T @ Z
            targets += Z.T @ y.reshape(len(y), k).astype(np.float64)
        return {"products": packed(products), "targets": targets.reshape(-1)}

    def step(row: Array, known: Known, totals: Payload) -> Next:
        weight, bias = solve(unpacked(totals["products"], f + 1), totals["targets"].reshape(f + 1, k), spec.penalty)
        return Next(filled(model, row, {"weight": weight, "bias": bias}), {}, DONE)

    return Statistic(summed(products=(f + 1) * (f + 2) // 2, targets=(f + 1) * k), 1, lambda row: row, measure, step)


def solve(products: Array, targets: Array, penalty: float) -> tuple[Array, Array]:
    """Return the weights `(f, k)` and biases `(k,)` from `products` `(f + 1, f + 1)` and `targets` `(f + 1, k)`.

    The last row is that of the ones. Columns are scaled before they are solved for; where some of them say nothing
    that others do not, the shortest of the solutions is taken.
    """
    n = max(products[-1, -1], 1.0)
    mean, level = products[-1, :-1] / n, targets[-1] / n
    covariance = products[:-1, :-1] - n * np.outer(mean, mean) + penalty * np.eye(len(mean))
    across = targets[:-1] - n * np.outer(mean, level)
    size = np.sqrt(np.maximum(np.diag(covariance), 0))
    # What subtraction leaves of a constant is noise of this size, not a feature.
    noise = 1e-13 * np.diag(products)[:-1]
    scale = np.where(size * size > noise, 1 / np.where(size > 0, size, 1), 0)
    scaled = covariance * np.outer(scale, scale)
    weight = scale[:, None] * np.linalg.lstsq(scaled, across * scale[:, None], rcond=1e-13)[0]
    return weight, level - mean @ weight


def with_one(some: Array) -> Array:
    """Return features `(n, f)` with a column of ones."""
    return np.concatenate([some, np.ones((len(some), 1))], 1)


def packed(symmetric: Array) -> Array:
    """Return the upper triangle of a symmetric matrix as a row."""
    return np.asarray(symmetric[np.triu_indices(len(symmetric))])


def unpacked(row: Array, n: int) -> Array:
    """Return the symmetric matrix `(n, n)` of which `row` is the upper triangle."""
    full = np.zeros((n, n))
    full[np.triu_indices(n)] = row
    return full + np.triu(full, 1).T
