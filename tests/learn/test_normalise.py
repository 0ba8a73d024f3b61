"""Fleet normalisation is that of the pooled samples, and no device shows more than three sums."""

from __future__ import annotations

import numpy as np
import pytest

from fedthings.learn.data import Shard
from fedthings.learn.model import dense, flatten, mlp, outputs, sequential
from fedthings.learn.normalise import NAMES, standardised, statistician, statistics_schema
from fedthings.learn.task import Task
from fedthings.vector import Array, Key


def sums(task: Task, parts: list[Array]) -> dict[str, Array]:
    shards = [Shard(X, np.zeros(len(X)), X[:0], np.zeros(0)) for X in parts]
    keys = [Key(0, str(i), 0, 0) for i in range(len(parts))]
    n = len(parts)
    fit, _ = statistician(task).many({}, [None] * n, shards, keys, [1.0] * n)
    assert fit.weight.tolist() == [1] * n
    assert all(rows.dtype == np.float64 for rows in fit.report.values())
    return {name: rows.sum(0) for name, rows in fit.report.items()}


def test_it_is_that_of_the_pooled_samples() -> None:
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(900, 6)) * [1, 10, 0.1, 1e-3, 5, 1] + [0, 100, -5, 3, 1e4, 0]).astype("f4")
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, 5] = np.nan  # seen nowhere
    X[:, 4] = 7.1  # a constant
    task = Task(model=mlp(6, 2), loss="cross_entropy", normalise="fleet")
    model = standardised(task.model, sums(task, np.split(X, [1, 300, 310])))
    mean, deviation, fill = model.layers[0].arrays((6,))
    exact = X[:, :4].astype("f8")
    np.testing.assert_allclose(mean[:4], np.nanmean(exact, 0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(deviation[:4], np.nanstd(exact, 0), rtol=1e-6)
    np.testing.assert_array_equal(mean[4:], np.array([7.1, 0], "f4"))
    np.testing.assert_array_equal(deviation[4:], [1, 1])
    np.testing.assert_array_equal(fill, mean)
    assert model.layers[1:] == task.model.layers
    assert model.layout.dim == task.model.layout.dim
    row = model.init(0)
    scaled = np.where(np.isnan(X), mean, X)
    np.testing.assert_allclose(outputs(model, row, X), outputs(task.model, row, (scaled - mean) / deviation), rtol=1e-6)


def test_one_value_is_no_deviation() -> None:
    task = Task(model=mlp(2, 2), loss="cross_entropy", normalise="fleet")
    model = standardised(task.model, sums(task, [np.array([[5, np.nan]], "f4")]))
    assert [array.tolist() for array in model.layers[0].arrays((2,))] == [[5, 0], [1, 1], [5, 0]]


def test_images_are_flat_in_the_report() -> None:
    model = sequential((2, 3, 1), flatten(), dense(2))
    schema = statistics_schema(model)
    assert [(f.name, f.dim, f.dtype, f.per) for f in schema] == [(name, 6, "f8", "one") for name in NAMES]
    X = np.arange(12, dtype="f4").reshape(2, 2, 3, 1)
    task = Task(model=model, loss="cross_entropy", normalise="fleet")
    found = sums(task, [X])
    np.testing.assert_array_equal(found["sum"], X.sum(0).ravel())
    np.testing.assert_array_equal(found["count"], np.full(6, 2))
    assert standardised(model, found).layers[0].arrays((2, 3, 1))[0].shape == (2, 3, 1)


@pytest.mark.parametrize("n", [1, 100_000])
def test_large_shards_are_summed_in_parts(n: int) -> None:
    X = np.random.default_rng(1).normal(3, 1, (n, 3)).astype("f4")
    task = Task(model=mlp(3, 2), loss="cross_entropy", normalise="fleet")
    found = sums(task, [X])
    np.testing.assert_allclose(found["square"], (X.astype("f8") ** 2).sum(0), rtol=1e-12)
