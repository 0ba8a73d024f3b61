"""Forecasting models on real traffic, beside the last value and a linear model; the test prints what it measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedthings as ft

STEPS, AHEAD = 12, 3
RATES = {"dlinear": 0.003, "rnn": 0.2, "tcn": 0.03}
MODELS = {
    "dlinear": ft.dlinear((STEPS, 1), AHEAD),
    "rnn": ft.rnn((STEPS, 1), 32, AHEAD),
    "tcn": ft.tcn((STEPS, 1), 32, AHEAD),
}


def rmse(said: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.square(said - true).mean()))


@pytest.mark.long
def test_speed_of_the_next_quarter_of_an_hour(data: Path) -> None:
    """METR-LA, 207 detectors, 3 steps from windows of 12: trained on every fifth, measured on each test window."""
    week = ft.catalogue.arrays("metr_la", data)  # a row is the speed now, its targets those that come
    fleet = ft.Fleet.from_arrays(week["X"][:, -1:], week["y"][:, :AHEAD], week["device"], week["split"])
    tests = [ft.window(STEPS).shard(rows) for rows in fleet.cohort(fleet.names, [0.0] * len(fleet))]
    X, y = (np.concatenate(parts) for parts in ([s.test_X for s in tests], [s.test_y for s in tests]))
    linear = ft.sequential((STEPS, 1), ft.flatten(), ft.dense(AHEAD))
    task = ft.Task(model=linear, loss="mse", window=ft.window(STEPS))
    ridge = ft.simulate(ft.Federation(task, ft.ridge(), ft.Pace(goal=len(fleet))), fleet, 1)
    said = {"last value": X[:, -1], "ridge": ridge.predict(X)}
    for name, model in MODELS.items():
        recipe, window = ft.Recipe(lr=RATES[name], batch=64), ft.window(STEPS, stride=5)
        task = ft.Task(model=model, loss="mse", normalise="fleet", window=window, recipe=recipe)
        federation = ft.Federation(task, ft.fedavgm(momentum=0.9), ft.Pace(goal=60))
        said[name] = ft.simulate(federation, fleet, rounds=120).predict(X)
    found = {name: rmse(speeds, y) for name, speeds in said.items()}
    for name, speeds in said.items():
        print(f"METR-LA, {name}: RMSE {found[name]:.3f} mph, MAE {np.abs(speeds - y).mean():.3f} mph")
    assert found["last value"] == pytest.approx(5.58, abs=0.01)
    assert found["dlinear"] <= 1.01 * found["ridge"]  # it is linear too
    assert max(found["rnn"], found["tcn"]) < found["ridge"]
