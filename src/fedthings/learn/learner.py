"""The learner: what a device does with a model and its own data. State is what the device keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedthings.learn.data import Shard
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload


class Fit(NamedTuple):
    """What training gives; "x" in `report` is a delta from the version trained on.

    For one device: rows `(dim,)`, `weight` int64 `()`, each of `metrics` int64 `(m,)`.
    For a cohort: the same with a leading axis `(n, ...)`.
    """

    report: Payload
    weight: Array
    metrics: Mapping[str, Array]


class Learner(NamedTuple):
    """`many` trains a cohort; `one` is a cohort of one. Bit for bit the same (law 3).

    `one(model, state, shard, key, effort)`; `many(model, states, shards, keys, efforts)`: `model` holds
    rows `(dim,)` shared by all, or `(n, dim)`; `effort` in (0, 1] is the share of the local steps done.
    """

    init: Callable[[], State]
    one: Callable[[Payload, State, Shard, Key, float], tuple[Fit, State]]
    many: Callable[
        [Payload, Sequence[State], Sequence[Shard], Sequence[Key], Sequence[float]],
        tuple[Fit, list[State]],
    ]


def cohort(fit: Fit) -> Fit:
    """Return what one device's training gave, as that of a cohort of one."""
    report = {name: row[None] for name, row in fit.report.items()}
    metrics = {name: sums[None] for name, sums in fit.metrics.items()}
    return Fit(report, np.array([fit.weight], np.int64), metrics)


def alone(
    many: Callable[
        [Payload, Sequence[State], Sequence[Shard], Sequence[Key], Sequence[float]],
        tuple[Fit, list[State]],
    ],
) -> Callable[[Payload, State, Shard, Key, float], tuple[Fit, State]]:
    """Return `one`: a cohort of one, without its axis."""

    def one(model: Payload, state: State, shard: Shard, key: Key, effort: float) -> tuple[Fit, State]:
        fit, states = many(model, [state], [shard], [key], [effort])
        report = {name: rows[0] for name, rows in fit.report.items()}
        metrics = {name: sums[0] for name, sums in fit.metrics.items()}
        return Fit(report, fit.weight[0, ...], metrics), states[0]

    return one
