"""Eight devices whose losses are quadratics with different curvature and different optima, in float64.

A least-squares fit is a quadratic of its parameters, so the product's own task, learner, fold and server step make each
version, in float64 because the model that they are given is; nothing is computed here but the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import fedthings as ft
from fedthings.federation import phases
from fedthings.learn.data import Shard
from fedthings.partial import Partial
from fedthings.phase import learner
from fedthings.strategy import Strategy
from fedthings.vector import Array, Key, keyed

DEVICES, SAMPLES, FEATURES = 8, 20, 3


def shards() -> list[Shard]:
    """Return the devices' samples: each with its own scale, and its own line through them."""
    rng, found = keyed("quadratics"), []
    for i in range(DEVICES):
        X = rng.normal(0, 0.5 + 0.1 * i, (SAMPLES, FEATURES))
        y = X @ rng.normal(0, 2, FEATURES) + rng.normal(0, 2) + rng.normal(0, 0.1, SAMPLES)
        found.append(Shard(X, y[:, None], X[:0], y[:0, None]))
    return found


def optimum(devices: Sequence[Shard]) -> Array:
    """Return the row with the least mean over devices of their mean squared errors."""
    A = np.concatenate([np.c_[s.X, np.ones(len(s.X))] / np.sqrt(len(s.X)) for s in devices])
    b = np.concatenate([s.y[:, 0] / np.sqrt(len(s.y)) for s in devices])
    return np.linalg.lstsq(A, b, rcond=None)[0]


def trained(
    strategy: Strategy, versions: int, efforts: Sequence[float] = (1.0,) * DEVICES, epochs: int = 10, lr: float = 0.05
) -> Array:
    """Return the row after so many `versions` of all eight devices, from zeros."""
    recipe = ft.Recipe(lr=lr, batch=0, epochs=epochs)
    task = ft.Task(model=ft.sequential(FEATURES, ft.dense(1)), loss="mse", recipe=recipe)
    (train, _) = phases(ft.Federation(task, strategy, ft.Pace(goal=DEVICES)))
    devices, ours, partial = shards(), learner(train, "numpy"), Partial(train)
    row = np.zeros(task.model.layout.dim)
    state = strategy.begun(row, lambda i: row)
    states = [ours.init() for _ in devices]
    for version in range(versions):
        keys = [Key(0, str(i), version, 0) for i in range(DEVICES)]
        models = {"x": row, **{name: state[name] for name in strategy.method.sends(len(row))}}
        fit, states = ours.many(models, states, devices, keys, efforts)
        reasons = partial.keep(fit.report, fit.weight, fit.metrics, [0] * DEVICES)
        assert not any(reasons)
        total, weights = partial.settled(*partial.take(), version)
        row = strategy.stepped(row, total, weights, {0: row}, state, version + 1)
    return row
