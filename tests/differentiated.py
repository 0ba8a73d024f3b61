"""What holds of every model whose gradient another framework gives: its steps are those of our engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import fedthings as ft
from fedthings.learn import local, own_learner
from fedthings.learn.data import Shard
from fedthings.learn.learner import Fit, Learner
from fedthings.learn.model import Sequential
from fedthings.learn.own import Own
from fedthings.learn.task import Recipe, Task
from fedthings.stage import State
from fedthings.vector import Array, Key

PORTABLE = ft.mlp(6, 5, 3)
SIZES = (12, 8, 1, 9)
EFFORTS = (1.0, 0.5, 1.0, 0.01)


def shards(sizes: Sequence[int] = SIZES, shape: tuple[int, ...] = (6,)) -> list[Shard]:
    rng = np.random.default_rng(1)
    found = []
    for n in sizes:
        X, test = (rng.normal(size=(k, *shape)).astype("f4") for k in (n, n % 5))
        found.append(Shard(X, rng.integers(0, 3, n), test, rng.integers(0, 3, n % 5)))
    return found


def keys(n: int) -> list[Key]:
    return [Key(4, f"device-{i}", 2, 0) for i in range(n)]


def task(factory: str, loss: str = "cross_entropy", settings: dict[str, Any] | None = None, **recipe: Any) -> Task:
    """Return the task of a model of `own_models`."""
    recipe = {"lr": 0.1, "batch": 4, "epochs": 2} | recipe
    return Task(model=ft.own(f"own_models:{factory}", **settings or {}), loss=loss, recipe=Recipe(**recipe))


def go(learner: Learner, row: Array, some: list[Shard], efforts: Sequence[float] = ()) -> tuple[Fit, list[State]]:
    """Return what devices with these shards make of `row`, all with their whole effort where none is told."""
    n = len(some)
    return learner.many({"x": row}, [None] * n, some, keys(n), efforts or [1.0] * n)


def same_steps(theirs: Own, ours: Sequential, loss: str, some: list[Shard], mu: float = 0.0, **recipe: float) -> None:
    """Train both, whose rows are in the same order, and compare what devices report."""
    row, n = ours.init(3), len(some)
    fits = []
    for model, trainer in ((ours, local.trainer), (theirs, own_learner.trainer)):
        task = Task(model=model, loss=loss, recipe=Recipe(**recipe))
        more = {"engine": "numpy"} if trainer is local.trainer else {}
        fits.append(trainer(task, mu=mu, **more).many({"x": row}, [None] * n, some, keys(n), list(EFFORTS))[0])
    want, have = fits
    np.testing.assert_allclose(have.report["x"], want.report["x"], rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(have.weight, want.weight)
    assert have.metrics.keys() == want.metrics.keys()
    for name, sums in want.metrics.items():
        np.testing.assert_array_equal(have.metrics[name][:, 0], sums[:, 0])
        np.testing.assert_allclose(have.metrics[name], sums, rtol=1e-4, atol=4)


def one_by_one(model: Own) -> np.ndarray:
    """See that many devices are a stack of one, and the same again; return what they report."""
    learner = own_learner.trainer(Task(model=model, loss="cross_entropy", recipe=Recipe(lr=0.1, batch=4, epochs=2)))
    row, some = model.init(7), shards()
    fit, _ = learner.many({"x": row}, [None] * len(some), some, keys(len(some)), EFFORTS)
    for i in reversed(range(len(some))):
        alone, _ = learner.one({"x": row}, None, some[i], keys(len(some))[i], EFFORTS[i])
        np.testing.assert_array_equal(alone.report["x"], fit.report["x"][i])
    return np.asarray(fit.report["x"])


def targets(loss: str) -> tuple[Sequential, list[Shard]]:
    """Return a model whose outputs the loss takes, and shards with targets for it."""
    model = ft.mlp(6, 4, 6 if loss == "reconstruction" else 1)
    return model, [s._replace(y=(s.y > 1).astype("f4"), test_y=(s.test_y > 1).astype("f4")) for s in shards()]
