"""What a device does with a model that is Python code: as `local.py`, with the steps that the factory gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedthings.learn.data import Shard, sizes
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.lift import costs_of, guarded
from fedthings.learn.metrics import add, collect, measured, nothing
from fedthings.learn.own import CHUNK, Own, predicted, verify
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload

if TYPE_CHECKING:
    from fedthings.learn.task import Task


def trainer(
    task: Task, mu: float = 0.0, weight: Literal["samples", "equal"] = "samples", silent: bool = False
) -> Learner:
    """Return the learner that reports "x", what training changed; `mu`, `silent`, `recipe.keep` as in `local.trainer`.

    The device's number of samples is the weight where `train` gives none. What is not finite passes on.
    Raises SpecError where the user's code fails.
    """
    model: Any = task.model
    verify(task)
    steps, keep = model.made.steps(task, mu), task.recipe.keep

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        received = models["x"]
        start = np.empty((len(shards), received.shape[-1]), received.dtype)
        start[...] = received
        for row, state in zip(start, states, strict=True):
            if keep and state is not None:
                row *= 1 - keep
                row += keep * state["x"]
        change = np.empty_like(start)
        with np.errstate(all="ignore"):  # a model that diverges is the engine's to refuse
            metrics = {} if silent else evaluate(task, received, shards)
            weights, seen = steps(received, start, shards, keys, efforts, change)
        weights = np.where(weights < 0, sizes(shards), weights)
        if weight == "equal":
            weights = np.minimum(weights, 1)
        after: list[State] = [{"x": row} for row in start] if keep else [None] * len(shards)
        return Fit({"x": change}, weights, {} if silent else {"train": seen, **metrics}), after

    return Learner(lambda: None, alone(many), many)


def evaluator(task: Task) -> Learner:
    """Return the learner that trains nothing: an empty report, weight 1, and the metrics of the model."""
    verify(task)

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        return Fit({}, np.ones(len(shards), np.int64), evaluate(task, models["x"], shards)), list(states)

    return Learner(lambda: None, alone(many), many)


def evaluate(task: Task, rows: Array, shards: Sequence[Shard]) -> dict[str, Array]:
    """Return the sums `(n, m)` of each metric of `rows` `(dim,)` or `(n, dim)` on their test samples."""
    model: Any = task.model
    total = nothing(task, len(shards))
    with np.errstate(all="ignore"):
        for i, shard in enumerate(shards):
            row = rows if rows.ndim == 1 else rows[i]
            for start in range(0, len(shard.test_X), CHUNK):
                part = slice(start, start + CHUNK)
                for name, more in _measured(task, model, row, shard.test_X[part], shard.test_y[part]).items():
                    add(total[name][i], more[0])
    return total


def _measured(task: Task, model: Own, row: Array, X: Array, y: Array) -> Mapping[str, Array]:
    """Return the sums `(1, m)` of each metric on some samples."""
    made = model.made
    if made.evaluate is not None:
        with guarded(f"`evaluate` of {model.factory}"):
            found = made.evaluate(row, X, y)
        return costs_of(found, list(measured(task)), len(X))
    if made.predict is None:
        return {}
    return collect(task, predicted(model, row, X)[None], X[None], y[None])
