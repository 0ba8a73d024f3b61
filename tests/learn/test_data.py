"""A shard that does not fit its task is refused with the device, the value and the remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedthings.engine import Engine
from fedthings.errors import DataError
from fedthings.federation import Federation
from fedthings.learn.data import Cohort, Shard, check, check_all, check_test
from fedthings.learn.model import dense, flatten, impute, mlp, sequential, standardise
from fedthings.learn.series import Window
from fedthings.learn.task import Task

X = np.arange(12, dtype="f4").reshape(4, 3)
CLASSES = Task(model=mlp(3, 4), loss="cross_entropy")
BINARY = Task(model=mlp(3, 1), loss="binary_cross_entropy")
VALUES = Task(model=mlp(3, 2), loss="mse")


def shard(X: np.ndarray = X, y: object = (0, 1, 2, 3), test: bool = False) -> Shard:
    """Put the arrays on the training side, or on the test side of a good training side."""
    y = np.asarray(y)
    if test:
        return Shard(np.zeros((1, 3), "f4"), y[:1].clip(0, 1).round(), X, y)
    return Shard(X, y, X[:0], y[:0])


def wrong(value: float) -> np.ndarray:
    array = X.copy()
    array[2, 1] = value
    return array


@pytest.mark.parametrize(
    ("task", "shard", "words"),
    [
        (CLASSES, shard(X[:0], y=[]), "d7 has no training samples: give it some, or leave"),
        (CLASSES, shard(X[:, :2]), r"d7: X has samples of shape \(2,\), the model takes \(3,\): reshape"),
        (CLASSES, shard(X[:, :2], test=True), r"d7: test_X has samples of shape \(2,\)"),
        (CLASSES, shard(X, y=[0, 1]), "d7: X has 4 samples and 2 targets"),
        (CLASSES, shard(X.astype(str)), "d7: X is <U.*float32"),
        (CLASSES, shard(wrong(np.inf)), r"d7: X has 1 of 12 .*sample 2, feature 1\) infinite"),
        (CLASSES, shard(wrong(np.nan)), r"d7: X has 1 of 12 .*missing.*normalise=\"fleet\".*impute"),
        (CLASSES, shard(y=[0, 1, 2, 4]), "d7: y has the label 4, the model has 4 outputs: labels go from 0 to 3"),
        (CLASSES, shard(y=[0, 1, 2, 4], test=True), "d7: test_y has the label 4"),
        (CLASSES, shard(y=[0, -1, 2, 3]), "d7: y has the label -1"),
        (CLASSES, shard(y=[0, 1.5, 2, 3]), "d7: y has the label 1.5: cross_entropy takes whole"),
        (CLASSES, shard(y=["a", "b", "a", "b"]), "d7: y is <U1: number the classes"),
        (CLASSES, shard(y=np.zeros((4, 2))), r"d7: y has shape \(4, 2\): give one class number"),
        (VALUES, shard(y=[0.5, 1, 2, 3]), "d7: y has 1 targets a sample, the model has 2 outputs"),
        (VALUES, shard(y=np.zeros((4, 3))), "d7: y has 3 targets a sample.*give the last layer 3 units"),
        (VALUES, shard(y=np.full((4, 2), np.nan)), "d7: y has 8 of 8 .*not finite"),
        (BINARY, shard(y=[0, 1, 2, 1]), "d7: y has the label 2: binary_cross_entropy takes 0 and 1"),
    ],
)
def test_refused(task: Task, shard: Shard, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check(shard, task, "d7")


def test_accepted() -> None:
    check(shard(), CLASSES, "d7")
    check(shard(y=[0.0, 1.0, 2.0, 3.0]), CLASSES, "d7")
    check(shard(y=[0, 1, 1, 0], test=True), BINARY, "d7")
    check(shard(y=np.ones((4, 1), "f4")), BINARY, "d7")
    check(shard(y=np.ones((4, 2), "f4")), VALUES, "d7")
    check(shard(y=["a"] * 4), Task(model=mlp(3, 3), loss="reconstruction"), "d7")
    gaps = shard(wrong(np.nan))
    for first in (impute(0.0), standardise([0, 0, 0], [1, 1, 1])):
        check(gaps, Task(model=sequential(3, first, dense(4)), loss="cross_entropy"), "d7")
    check(gaps, Task(model=mlp(3, 4), loss="cross_entropy", normalise="fleet"), "d7")


def test_many_are_checked_at_once_and_the_one_at_fault_is_named() -> None:
    bounds = np.array([[0, 2, 2], [2, 3, 4]])
    y = np.array([0, 1, 2, 3])
    names, at = ["d1", "d2"], [0.0, 12.5]
    for shards in (Cohort(X, y, bounds), list(Cohort(X, y, bounds))):
        check_all(shards, CLASSES, names, at)
    for table in (Cohort(X, y + 1, bounds), Cohort(wrong(np.inf), y, bounds)):
        for shards in (table, list(table)):
            with pytest.raises(DataError, match=r"d2 at 12.5 s: (test_y has the label 4|X has 1 of 3)"):
                check_all(shards, CLASSES, names, at)
    with pytest.raises(DataError, match=r"d2 at 12\.5 s has no training samples"):
        check_all(Cohort(X, y, np.array([[0, 2, 2], [2, 2, 4]])), CLASSES, names, at)
    # What is wrong in the table and nobody's is no fault of theirs.
    check_all(Cohort(wrong(np.inf), y, bounds[:1]), CLASSES, names[:1], at[:1])


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ((np.zeros((3, 2)), np.zeros(3, int)), r"the test set: X has samples of shape \(2,\)"),
        ((np.zeros((3, 4)), np.array([0, 1, 9])), "the test set: y has the label 9"),
        ((np.zeros((3, 4)), np.array([0, 1, -1])), "the test set: y has the label -1"),
        ((np.zeros((3, 4)), np.zeros(2, int)), "the test set has 3 samples and 2 targets"),
        ((np.zeros((0, 4)), np.zeros(0, int)), "the test set has 0 samples"),
        (np.zeros((3, 4)), "the test set is ndarray: give"),
    ],
)
def test_a_central_test_set_that_does_not_fit_is_refused_before_anything_runs(test: Any, said: str) -> None:
    task = Task(model=mlp(4, 2), loss="cross_entropy")
    check_test((np.zeros((3, 4)), np.array([0, 1, 1])), task)
    with pytest.raises(DataError, match=said):
        Engine(Federation(task), 1, test=test)


def test_a_central_test_set_of_windows_is_taken_as_it_is() -> None:
    window = Window(steps=3)
    task = Task(model=sequential((3, 4), flatten(), dense(2)), loss="cross_entropy", window=window)
    check_test((np.zeros((5, 3, 4)), np.zeros(5, int)), task)
    with pytest.raises(DataError, match=r"X has samples of shape \(4,\), the model takes \(3, 4\)"):
        check_test((np.zeros((5, 4)), np.zeros(5, int)), task)
