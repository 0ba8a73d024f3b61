"""Federated trees are the trees of one machine that has all samples, bit for bit; and they are good ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

import fedthings as ft
from fedthings.errors import SpecError
from gateways import Tree
from secure import Secure, key_in

SETS = {
    "mse": (load_diabetes, 1, "rmse"),
    "binary_cross_entropy": (load_breast_cancer, 1, "accuracy"),
    "cross_entropy": (lambda return_X_y: tuple(part[:600] for part in load_digits(return_X_y=True)), 10, "accuracy"),
}


def data(loss: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return X with gaps, y, and whether each is for tests."""
    X, y = SETS[loss][0](return_X_y=True)
    X = X.astype("f4")
    X[::9, 0] = np.nan
    return X, y.astype("f4") if loss == "mse" else y.astype("i8"), np.arange(len(X)) % 4 == 0


def federation(loss: str, devices: int, trees: int = 5, depth: int = 3, **more) -> ft.Federation:  # type: ignore
    X, _, _ = data(loss)
    model = ft.sequential(X.shape[1], ft.forest(SETS[loss][1], trees=trees, depth=depth))
    pace = ft.Pace(goal=devices, patience=1e6)
    return ft.Federation(ft.Task(model=model, loss=loss), ft.boosting(0.3), pace, devices=devices, **more)


def fleet(loss: str, devices: int) -> ft.Fleet:
    X, y, test = data(loss)
    return ft.Fleet.from_arrays(X, y, np.sort(np.arange(len(X)) % devices), split=test)


@pytest.mark.parametrize("loss", SETS)
def test_the_trees_are_those_of_one_machine(loss: str) -> None:
    many = ft.simulate(federation(loss, 8), fleet(loss, 8), 16)
    one = ft.simulate(federation(loss, 1), fleet(loss, 1), 16)
    assert np.array_equal(many.row, one.row)
    assert many.summary["rounds"] == 16  # one for what they begin from, then each level of each tree
    assert many.summary["reason"] == "done"
    assert len(np.unique(many.row)) > 50


@pytest.mark.parametrize("loss", SETS)
def test_they_are_as_good_as_those_of_scikit_learn(loss: str) -> None:
    X, y, test = data(loss)
    trees, depth = 20, 3
    run = ft.simulate(federation(loss, 8, trees, depth), fleet(loss, 8), 1 + trees * depth)
    settings = {"learning_rate": 0.3, "max_iter": trees, "max_depth": depth, "max_bins": 32, "l2_regularization": 1.0}
    settings |= {"min_samples_leaf": 1, "early_stopping": False}
    kind = HistGradientBoostingRegressor if loss == "mse" else HistGradientBoostingClassifier
    due = kind(**settings).fit(X[~test], y[~test]).predict(X[test])
    found = run.predict(X[test])
    name = SETS[loss][2]
    if loss == "mse":
        error, other = (np.sqrt(((said.reshape(-1) - y[test]) ** 2).mean()) for said in (found, due))
        assert error <= other * 1.05
        assert run.summary["metrics"][name] == pytest.approx(error, rel=1e-5)
        return
    said = found.argmax(1) if found.shape[1] > 1 else (found[:, 0] > 0).astype(int)
    right = (said == y[test]).mean()
    assert right >= (due == y[test]).mean() - 0.02
    assert run.summary["metrics"][name] == pytest.approx(right)


def test_behind_gateways_and_masks_they_are_the_same(tmp_path: Path) -> None:
    loss = "binary_cross_entropy"
    due = ft.simulate(federation(loss, 4, 2), fleet(loss, 4), 7)
    tree = Tree(federation(loss, 4, 2), fleet(loss, 4), 7, tmp_path / "tree", {"west": ""}, settings={"count": 2})
    assert np.array_equal(tree.run().row, due.row)
    spec = federation(loss, 4, 2, secure=ft.two_servers(key_in(tmp_path / "helper")))
    assert np.array_equal(Secure(spec, fleet(loss, 4), 7, tmp_path).run().row, due.row)


def test_the_model_goes_down_as_what_differs() -> None:
    loss = "binary_cross_entropy"
    plain = ft.simulate(federation(loss, 4, 20), fleet(loss, 4), 61)
    told = ft.simulate(federation(loss, 4, 20, down=ft.delta(32)), fleet(loss, 4), 61)
    assert np.array_equal(plain.row, told.row)
    down, less = (sum(line["bytes_down"] for line in run.history[1:]) for run in (plain, told))
    assert less < down / 3


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(SpecError, match="rounds is 15, and"):
        ft.simulate(federation("mse", 4), fleet("mse", 4), 15)
