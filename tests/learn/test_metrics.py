"""Metrics from integer sums are those of scikit-learn on the samples, however the sums were made."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, roc_auc_score, root_mean_squared_error

from fedthings.errors import SpecError
from fedthings.learn.metrics import (
    METRICS,
    MOST,
    ONE,
    add,
    auc_error,
    collect,
    fixed,
    nothing,
    register,
    usual,
    values,
)
from fedthings.learn.model import mlp
from fedthings.learn.task import Task

CLASSES = Task(model=mlp(3, 5), loss="cross_entropy")
BINARY = Task(model=mlp(3, 1), loss="binary_cross_entropy", metrics=("accuracy", "macro_f1", "auc"))
VALUES = Task(model=mlp(3, 2), loss="mse")


def samples(task: Task, n: int, labels: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    outputs = rng.normal(size=(1, n, *task.model.outputs)).astype("f4")
    X = rng.normal(size=(1, n, 3)).astype("f4")
    if task is VALUES:
        return outputs, X, rng.normal(size=(1, n, 2)).astype("f4")
    if task is BINARY:
        y = rng.integers(0, 2, (1, n))
        return outputs + y[..., None], X, y.astype("f4")
    return outputs, X, rng.integers(0, labels, (1, n))


def pooled(task: Task, parts: list[slice], outputs: np.ndarray, X: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    total = {name: sums[0] for name, sums in nothing(task, 1).items()}
    for part in parts:
        for name, sums in collect(task, outputs[:, part], X[:, part], y[:, part]).items():
            assert sums.dtype == np.int64
            assert sums.shape == (1, *total[name].shape)
            total[name] += sums[0]
    return total


@pytest.mark.parametrize("n", [1, 2, 500])
@pytest.mark.parametrize("labels", [2, 5])
def test_classification(n: int, labels: int) -> None:
    outputs, X, y = samples(CLASSES, n, labels)
    found = values(CLASSES, pooled(CLASSES, [slice(0, n)], outputs, X, y))
    predicted = outputs[0].argmax(-1)
    assert found["accuracy"] == pytest.approx(accuracy_score(y[0], predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(y[0], predicted, average="macro", zero_division=0))
    z = outputs[0].astype("f8")
    costs = np.log(np.exp(z).sum(-1)) - z[np.arange(n), y[0]]
    assert found["loss"] == pytest.approx(costs.mean(), abs=2 / ONE)


def test_binary_classification_and_the_error_of_auc() -> None:
    outputs, X, y = samples(BINARY, 2000)
    stats = pooled(BINARY, [slice(0, 2000)], outputs, X, y)
    found = values(BINARY, stats)
    assert found["accuracy"] == pytest.approx(accuracy_score(y[0], outputs[0, :, 0] > 0))
    assert found["macro_f1"] == pytest.approx(f1_score(y[0], outputs[0, :, 0] > 0, average="macro"))
    error = float(auc_error(stats["auc"]))
    assert 0 < error < 0.005
    assert found["auc"] == pytest.approx(roc_auc_score(y[0], outputs[0, :, 0]), abs=error)


def test_auc_of_two_outputs_of_perfect_scores_and_of_one_class() -> None:
    auc = METRICS["auc"]
    two = np.array([[[0, 1], [2, 0], [5, 9], [1, -1]]], "f4")  # differences 1, -2, 4, -2
    assert auc.value(auc.measure(two, np.array([[1, 0, 1, 0]])))[0] == 1
    assert auc.value(auc.measure(two, np.array([[0, 1, 0, 1]])))[0] == 0
    assert auc.value(auc.measure(two, np.array([[0, 0, 0, 1]])))[0] == pytest.approx((0 + 0 + 0.5) / 3)
    assert auc.value(auc.measure(two, np.array([[0, 0, 0, 0]])))[0] == 0.5
    wild = np.array([[[np.inf], [-np.inf], [1e30], [np.nan]]], "f4")
    assert auc.measure(wild, np.array([[1, 0, 1, 0]])).sum() == 8


def test_regression() -> None:
    outputs, X, y = samples(VALUES, 300)
    found = values(VALUES, pooled(VALUES, [slice(0, 300)], outputs, X, y))
    assert found["mae"] == pytest.approx(mean_absolute_error(y[0], outputs[0]), abs=2 / ONE)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(y[0].ravel(), outputs[0].ravel()), abs=2 / ONE)
    assert found["loss"] == pytest.approx(found["rmse"] ** 2, abs=2 / ONE)


@pytest.mark.parametrize("task", [CLASSES, BINARY, VALUES])
def test_sums_are_the_same_for_any_batches(task: Task) -> None:
    given = samples(task, 300)
    whole = pooled(task, [slice(0, 300)], *given)
    parts = pooled(task, [slice(200, 300), slice(0, 1), slice(1, 150), slice(150, 200)], *given)
    for name, sums in whole.items():
        assert sums[0] == 300
        np.testing.assert_array_equal(sums, parts[name])


def test_values_of_many_devices_and_of_none() -> None:
    stats = np.array([[4, 3], [10, 5]], np.int64)
    np.testing.assert_array_equal(METRICS["accuracy"].value(stats), [0.75, 0.5])
    assert METRICS["accuracy"].value(stats[:0]).shape == (0,)
    assert METRICS["macro_f1"].value(np.zeros((0, 7), np.int64)).shape == (0,)
    empty = {name: sums[0] for name, sums in nothing(CLASSES, 1).items()}
    assert values(CLASSES, {**empty, "train": np.array([2, 3 * ONE])}) == {"train": 1.5}


def test_what_is_not_finite_or_too_large_saturates() -> None:
    costs = np.array([[1.5, 2.25], [np.nan, 1.0], [np.inf, np.inf], [-1.0, -np.inf]])
    assert fixed(costs).tolist() == [[2, int(3.75 * ONE)], [2, MOST], [2, MOST], [2, -MOST]]
    total = np.array([MOST - 1, 5])
    add(total, np.array([MOST, 7]))
    assert total.tolist() == [MOST, 12]


def test_usual_metrics_and_those_of_the_task() -> None:
    def names(task: Task) -> list[str]:
        return [metric.name for metric in usual(task)]

    assert names(CLASSES) == ["accuracy", "macro_f1"]
    assert names(Task(model=mlp(3, 1), loss="binary_cross_entropy")) == ["accuracy", "auc"]
    assert names(VALUES) == names(Task(model=mlp(3, 1), loss="huber")) == ["rmse", "mae"]
    assert names(Task(model=mlp(3, 3), loss="reconstruction")) == ["rmse"]
    assert names(BINARY) == ["accuracy", "macro_f1", "auc"]


def test_a_metric_of_ones_own() -> None:
    def within_one(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
        hit = (np.abs(outputs - y) < 1).all(-1)
        return np.stack([np.full(len(hit), hit.shape[1]), hit.sum(-1)], -1)

    try:
        register("within_one", lambda n: 2, within_one, lambda s: s[..., 1] / s[..., 0], "high")
        with pytest.raises(SpecError, match="within_one"):
            register("within_one", lambda n: 2, within_one, lambda s: s[..., 1] / s[..., 0], "high")
        task = Task(model=mlp(3, 2), loss="mse", metrics=("within_one",))
        stats = collect(task, np.zeros((1, 2, 2)), np.zeros((1, 2, 3)), np.array([[[0.5, 0], [3, 0]]]))
        assert values(task, {name: sums[0] for name, sums in stats.items()})["within_one"] == 0.5
    finally:
        del METRICS["within_one"]
