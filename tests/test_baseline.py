"""Baselines: each is what its words say, on each device's own test samples or on those given."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import SpecError

WAYS = ["local only", "federated", "federated + personal", "centralised"]


def fleet() -> ft.Fleet:
    """Two kinds of devices: one answers with x, the other with -x."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2)).astype("f4")
    device = np.arange(400) % 4
    y = np.where(device < 2, 1, -1) * X[:, 0] + 3
    return ft.Fleet.from_arrays(X, y.astype("f4"), device, np.arange(400) >= 320)


def federation() -> ft.Federation:
    task = ft.Task(model=ft.sequential(2, ft.dense(1), ft.rescale()), loss="mse", normalise="fleet")
    return ft.Federation(task, pace=ft.Pace(goal=4))


def test_each_way_is_measured_as_the_run_measures_itself() -> None:
    run = ft.simulate(federation(), fleet(), 10)
    recipe = ft.Recipe(lr=0.1, batch=8, epochs=20)
    found = ft.baselines(run, fleet(), recipe, recipe, recipe)
    assert list(found) == WAYS
    assert found["federated"].metrics == pytest.approx(run.summary["metrics"])
    assert found["federated"].worst_decile == pytest.approx(run.summary["worst_decile"])
    rmse = {way: measured.metrics["rmse"] for way, measured in found.items()}
    assert rmse["local only"] < 0.01 and rmse["federated + personal"] < 0.01  # the kinds differ
    assert rmse["federated"] > 0.5 and rmse["centralised"] > 0.5  # and no one model serves both


def test_on_a_test_set_of_all() -> None:
    run = ft.simulate(federation(), fleet(), 2)
    recipe = ft.Recipe(lr=0.1, batch=8, epochs=20)
    X = np.random.default_rng(1).normal(size=(50, 2)).astype("f4")
    found = ft.baselines(run, fleet(), recipe, recipe, recipe, (X, X[:, 0] + 3))
    # Half the devices know it, the others say the opposite: 2 x.
    assert found["local only"].metrics["rmse"] == pytest.approx(np.sqrt(0.5 * np.square(2 * X[:, 0]).mean()), rel=0.01)


def test_not_of_python_code() -> None:
    run = ft.simulate(federation(), fleet(), 1)
    other = ft.Run(run.federation, [], {}, ft.own("own_models:net"), run.row)
    with pytest.raises(SpecError, match="baselines are of a portable model"):
        ft.baselines(other, fleet(), ft.Recipe(), ft.Recipe(), ft.Recipe())


def test_not_of_a_model_of_which_layers_stay_on_the_devices() -> None:
    task = ft.Task(model=ft.mlp(2, 3, 1), loss="mse", local=("head",))
    run = ft.simulate(ft.Federation(task, pace=ft.Pace(goal=4)), fleet(), 1)
    with pytest.raises(SpecError, match=r"of the run's head stays on each device \(task\.local\)"):
        ft.baselines(run, fleet(), ft.Recipe(), ft.Recipe(), ft.Recipe())
