"""Local training of cohorts, by one engine or another, and their evaluation (law 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from fedthings.learn.data import Shard, sizes, test_sizes
from fedthings.learn.descent import runs
from fedthings.learn.engines import build, outputs
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.losses import LOSSES, scoring, target
from fedthings.learn.metrics import PERSONAL, add, collect, nothing
from fedthings.learn.model import MEMORY, Outputs, chunk
from fedthings.learn.task import Task
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload

Work: TypeAlias = Callable[
    [Payload, Sequence[State], Sequence[Shard], Sequence[Key], Sequence[float], Array],
    tuple[Payload, list[State], Array],
]
"""`(models, states, shards, keys, efforts, weights) -> report, states, seen`: what training makes of n devices.

`weights` `(n,)` are those of the reports; `seen` `(n, 2)` as of a `Descent`.
"""


Personal: TypeAlias = Callable[
    [Payload, Sequence[State], Sequence[Shard], Sequence[Key]], tuple[Array, Sequence[State]]
]
"""`(models, states, shards, keys) -> rows (n, dim), states`: the model that each device has for itself."""


def of_their_own(metrics: Mapping[str, Array]) -> dict[str, Array]:
    """Return `metrics` under the names of those of devices' own models."""
    return {PERSONAL + name: sums for name, sums in metrics.items()}


def trainer(
    task: Task,
    mu: float = 0.0,
    weight: Literal["samples", "equal"] = "samples",
    engine: str = "auto",
    threads: int = 1,
    silent: bool = False,
    work: Work | None = None,
    personal: Personal | None = None,
) -> Learner:
    """Return the learner that does `work`, averaging where none is given, in the dtype of the model received.

    Metrics are of the model received, and of the `personal` one, whose states `work` then has. What is not finite
    passes on. `engine` does the steps, on `threads` where it can. One that is `silent` measures nothing.
    """
    train, give = work or averaging(task, mu, engine, threads), outputs(task, engine, threads)

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        counts = sizes(shards)
        weights = counts if weight == "samples" else np.minimum(counts, 1)
        with np.errstate(all="ignore"):  # a model that diverges is the engine's to refuse
            own, states = personal(models, states, shards, keys) if personal else (None, states)
            metrics = {} if silent else _measured(task, give, models["x"], own, shards)
            report, after, seen = train(models, states, shards, keys, efforts, weights)
        return Fit(report, weights, {} if silent else {"train": seen, **metrics}), after

    return Learner(lambda: None, alone(many), many)


def averaging(task: Task, mu: float = 0.0, engine: str = "auto", threads: int = 1) -> Work:
    """Return the work that reports "x", what training changed.

    `mu` pulls toward the model received (Li et al. 2020, eq. 2). Where `recipe.keep` is above 0, the state is
    {"x": the device's own last model}.
    """
    descend, keep = build(task, mu, engine, threads), task.recipe.keep

    def work(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
        weights: Array,
    ) -> tuple[Payload, list[State], Array]:
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
        seen = descend(received, own, shards, keys, efforts, change)
        return {"x": change}, [None] * n if own is None else [{"x": row} for row in own], seen

    return work


def evaluator(task: Task, engine: str = "auto", threads: int = 1, personal: Personal | None = None) -> Learner:
    """Return the learner that reports nothing, at weight 1: the metrics of the model, and of the `personal` one."""
    give = outputs(task, engine, threads)

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        with np.errstate(all="ignore"):
            own, states = personal(models, states, shards, keys) if personal else (None, states)
            metrics = _measured(task, give, models["x"], own, shards)
        return Fit({}, np.ones(len(shards), np.int64), metrics), list(states)

    return Learner(lambda: None, alone(many), many)


def _measured(
    task: Task, give: Outputs, received: Array, own: Array | None, shards: Sequence[Shard]
) -> dict[str, Array]:
    """Return the metrics of the model received, and of devices' `own` `(n, dim)` where they have them."""
    metrics = evaluate(task, give, received, shards)
    return metrics if own is None else metrics | of_their_own(evaluate(task, give, own, shards))


def evaluate(task: Task, give: Outputs, rows: Array, shards: Sequence[Shard]) -> dict[str, Array]:
    """Return the sums `(n, m)` of each metric of `rows` `(dim,)` or `(n, dim)`, by `give`, on their test samples."""
    total, counts = nothing(task, len(shards)), test_sizes(shards)
    if not counts.any():
        return total
    for chosen, out, X, y in _outputs(task, give, rows, [(s.test_X, s.test_y) for s in shards], counts):
        for name, more in collect(task, out, X, y).items():
            sums = total[name][chosen]
            add(sums, more)
            total[name][chosen] = sums
    return total


def costs(task: Task, give: Outputs, rows: Array, shards: Sequence[Shard]) -> Array:
    """Return the mean loss float64 `(n,)` of `rows` `(dim,)` or `(n, dim)`, by `give`, on their training samples."""
    loss, counts = LOSSES[task.loss], sizes(shards)
    total = np.zeros(len(shards))
    for chosen, out, X, y in _outputs(task, give, rows, [(s.X, s.y) for s in shards], counts):
        total[chosen] += loss.of(out, target(task.model, loss, X, y))[0].sum(-1, dtype=np.float64)
    return np.asarray(total / np.maximum(counts, 1))


def _outputs(
    task: Task, give: Outputs, rows: Array, samples: Sequence[tuple[Array, Array]], counts: Array
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Yield which devices, what `give` says of their next samples, and those; only the model decides how many."""
    model = scoring(task.model, LOSSES[task.loss])
    order = np.argsort(-counts, kind="stable")
    counts = counts[order]
    whole = chunk(model)
    for start in range(0, int(counts.max(initial=0)), whole):
        for lo, hi, b in runs(np.clip(counts - start, 0, whole)):
            most = max(1, MEMORY // (4 * b * model.work))
            for first in range(lo, hi, most):
                chosen = order[first : min(first + most, hi)]
                some = [samples[i] for i in chosen.tolist()]
                X = np.stack([x[start : start + b] for x, _ in some])
                y = np.stack([y[start : start + b] for _, y in some])
                X = X.astype(rows.dtype, copy=False)
                yield chosen, give(rows if rows.ndim == 1 else rows[chosen], X), X, y
