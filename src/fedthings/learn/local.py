"""Local training of cohorts, by one engine or another, and their evaluation (law 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedthings.learn.data import Shard, sizes, test_sizes
from fedthings.learn.descent import runs
from fedthings.learn.engines import build, outputs
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.losses import LOSSES, scoring
from fedthings.learn.metrics import add, collect, nothing
from fedthings.learn.model import MEMORY, Outputs, chunk
from fedthings.learn.task import Task
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload


def trainer(
    task: Task,
    mu: float = 0.0,
    weight: Literal["samples", "equal"] = "samples",
    engine: str = "auto",
    threads: int = 1,
    silent: bool = False,
) -> Learner:
    """Return the learner that reports "x", what training changed, in the dtype of the model received.

    `mu` pulls toward the model received (Li et al. 2020, eq. 2). Where `recipe.keep` is above 0, the state is
    {"x": the device's own last model}. Metrics are of the model received. What is not finite passes on.
    `engine` does the steps, on `threads` where it can. One that is `silent` measures nothing.
    """
    descend, keep = build(task, mu, engine, threads), task.recipe.keep
    give = outputs(task, engine, threads)

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        received = models["x"]
        n, dim = len(shards), received.shape[-1]
        change = np.empty((n, dim), received.dtype)
        own = None
        if keep:
            own = np.empty((n, dim), received.dtype)
            own[...] = received
            for row, state in zip(own, states, strict=True):
                if state is not None:
                    row *= 1 - keep
                    row += keep * state["x"]
        with np.errstate(all="ignore"):  # a model that diverges is the engine's to refuse
            metrics = {} if silent else evaluate(task, give, received, shards)
            seen = descend(received, own, shards, keys, efforts, change)
        after: list[State] = [None] * n if own is None else [{"x": row} for row in own]
        counts = sizes(shards)
        weights = counts if weight == "samples" else np.minimum(counts, 1)
        return Fit({"x": change}, weights, {} if silent else {"train": seen, **metrics}), after

    return Learner(lambda: None, alone(many), many)


def evaluator(task: Task, engine: str = "auto", threads: int = 1) -> Learner:
    """Return the learner that trains nothing: an empty report, weight 1, and the metrics of the model."""
    give = outputs(task, engine, threads)

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        with np.errstate(all="ignore"):
            metrics = evaluate(task, give, models["x"], shards)
        return Fit({}, np.ones(len(shards), np.int64), metrics), list(states)

    return Learner(lambda: None, alone(many), many)


def evaluate(task: Task, give: Outputs, rows: Array, shards: Sequence[Shard]) -> dict[str, Array]:
    """Return the sums `(n, m)` of each metric of `rows` `(dim,)` or `(n, dim)`, by `give`, on their test samples."""
    model = scoring(task.model, LOSSES[task.loss])
    total = nothing(task, len(shards))
    counts = test_sizes(shards)
    order = np.argsort(-counts, kind="stable")
    counts = counts[order]
    whole = chunk(model)
    for start in range(0, int(counts.max(initial=0)), whole):
        for lo, hi, b in runs(np.clip(counts - start, 0, whole)):
            most = max(1, MEMORY // (4 * b * model.work))
            for first in range(lo, hi, most):
                chosen = order[first : min(first + most, hi)]
                some = [shards[i] for i in chosen.tolist()]
                X = np.stack([shard.test_X[start : start + b] for shard in some])
                y = np.stack([shard.test_y[start : start + b] for shard in some])
                X = X.astype(rows.dtype, copy=False)
                out = give(rows if rows.ndim == 1 else rows[chosen], X)
                for name, more in collect(task, out, X, y).items():
                    sums = total[name][chosen]
                    add(sums, more)
                    total[name][chosen] = sums
    return total
