"""Logistic regression by Newton's steps: devices sum gradients and curvatures, the server solves.

Hastie et al. 2009, eq. 4.26 (two classes) and section 4.4 (more). A step that makes the loss larger is halved.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.learn.data import Shard
from fedthings.learn.layers import Dense
from fedthings.learn.passes import sigmoid
from fedthings.learn.task import Task, positive, within
from fedthings.statistics.features import ends_in, filled, held, parts, width
from fedthings.statistics.ridge import packed, unpacked, with_one
from fedthings.statistics.statistic import Known, Next, Statistic, summed
from fedthings.vector import Array, Payload

ROUNDS = 100
MOST = 1 << 11
"""Weights at the most: their curvatures are 17 MB."""


class Logistic(Struct, frozen=True, tag="logistic", forbid_unknown_fields=True):
    """Least cross entropy, summed, with `penalty` / 2 times the squared weights, biases apart.

    It ends when a step lowers the loss by less than `tolerance` of it.
    """

    penalty: float = 1.0
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        within("strategy.statistic.penalty", self.penalty, 0, 1e18)
        positive("strategy.statistic.tolerance", self.tolerance)


def check(spec: Logistic, task: Task) -> None:
    """Raise SpecError unless the last layer of `task` can be filled so."""
    ends_in(task, "logistic", Dense, loss=("cross_entropy", "binary_cross_entropy"))
    weights = (width(task.model) + 1) * task.model.outputs[0]
    if weights > MOST:
        raise SpecError(f"strategy logistic sums the curvatures of {weights} weights: use at most {MOST}")


def build(spec: Logistic, task: Task, seed: int) -> Statistic:
    """Return the statistic of Newton's rounds."""
    model = task.model
    f, k = width(model), model.outputs[0]
    p = (f + 1) * k

    def read(row: Array) -> Array:
        own = held(model, row)
        return np.concatenate([own["weight"], own["bias"][None]])

    def written(row: Array, theta: Array) -> Array:
        return filled(model, row, {"weight": theta[:-1], "bias": theta[-1]})

    def measure(row: Array, shard: Shard) -> Payload:
        theta, loss = read(row), np.zeros(1)
        gradient, curvature = np.zeros((f + 1, k)), np.zeros((p, p))
        for some, y in parts(model, shard, row):
            Z = with_one(some)
            costs, share, true = _binary(Z @ theta, y) if k == 1 else _softmax(Z @ theta, y)
            loss += costs
            gradient += Z.T @ (share - true)
            for a in range(k):
                for b in range(a, k):
                    block = (Z * (share[:, a] * ((a == b) - share[:, b]))[:, None]).T @ Z
                    curvature[a::k, b::k] += block
                    if a != b:
                        curvature[b::k, a::k] += block
        return {"loss": loss, "gradient": gradient.reshape(-1), "curvature": packed(curvature)}

    shrunk = np.concatenate([np.full((f, k), spec.penalty), np.zeros((1, k))]).reshape(-1)

    def step(row: Array, known: Known, totals: Payload) -> Next:
        theta = read(row).reshape(-1)
        loss = totals["loss"] + (shrunk * theta * theta).sum() / 2
        gradient = totals["gradient"] + shrunk * theta
        curvature = unpacked(totals["curvature"], p) + np.diag(shrunk)
        size = np.sqrt(np.maximum(np.diag(curvature), 1e-300))
        scaled = np.linalg.lstsq(curvature / np.outer(size, size), -gradient / size, rcond=1e-13)[0]
        move = scaled / size
        if -gradient @ move / 2 <= spec.tolerance * max(float(loss[0]), 1e-300):
            return Next(written(row, (theta + move).reshape(f + 1, k)), {}, "converged")
        if known and loss[0] > known["loss"][0]:
            move, theta, loss = known["move"] / 2, known["theta"], known["loss"]
        kept = {"theta": theta, "move": move, "loss": loss}
        return Next(written(row, (theta + move).reshape(f + 1, k)), kept)

    fields = summed(loss=1, gradient=p, curvature=p * (p + 1) // 2)
    return Statistic(fields, ROUNDS, lambda row: written(row, np.zeros((f + 1, k))), measure, step)


def _binary(z: Array, y: Array) -> tuple[float, Array, Array]:
    """Return the summed cost, and what is said and true of each sample `(n, 1)`."""
    true = y.reshape(-1, 1).astype(np.float64)
    costs = np.maximum(z, 0) - z * true + np.log1p(np.exp(-np.abs(z)))
    return float(costs.sum()), sigmoid(z), true


def _softmax(z: Array, y: Array) -> tuple[float, Array, Array]:
    """Return the same for several classes, `(n, k)`."""
    z = z - z.max(1, keepdims=True)
    total = np.exp(z).sum(1, keepdims=True)
    true = np.eye(z.shape[1])[y.reshape(-1).astype(np.int64)]
    return float((np.log(total) - z)[true > 0].sum()), np.exp(z) / total, true
