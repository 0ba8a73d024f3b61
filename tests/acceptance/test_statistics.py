"""What is made of exact sums, on real data: the figures of the centralised fit, and trees beside scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

import fedthings as ft

pytestmark = pytest.mark.long


def columns(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    archive = np.load(path)
    return archive["X"], archive["y"], archive["device"], archive["split"]


def ridge(fleet: ft.Fleet, outputs: int = 1, penalty: float = 1.0) -> ft.Run:
    features = fleet.shard(fleet.names[0]).X.shape[1]
    task = ft.Task(model=ft.mlp(features, outputs), loss="mse", normalise="fleet")
    return ft.simulate(ft.Federation(task, ft.ridge(penalty), ft.Pace(goal=len(fleet))), fleet, 1)


def scaled(X: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return X as the centralised fit has it: gaps filled, mean 0 and deviation 1 over the training samples."""
    exact = X[train].astype("f8")
    mean, deviation = np.nanmean(exact, 0), np.nanstd(exact, 0)
    return (np.where(np.isnan(X), mean, X) - mean) / np.where(deviation > 0, deviation, 1)


def rmse(said: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(((said - true).astype("f8") ** 2).mean()))


def test_next_hours_load_of_17_homes(data: Path) -> None:
    X, y, home, split = columns(data / "citylearn2022_homes.npz")
    together = ridge(ft.Fleet.from_npz(data / "citylearn2022_homes.npz")).summary["metrics"]["rmse"]
    errors = []
    for one in np.unique(home):
        mine, test = home == one, split[home == one] == 1
        run = ridge(ft.Fleet.from_arrays(X[mine], y[mine], home[mine], split[mine]), penalty=300.0)
        errors.append(run.predict(X[mine][test])[:, 0] - y[mine][test])
    own = rmse(np.concatenate(errors), np.zeros(1))
    print(f"CityLearn: all homes {together:.4f}, each home's own {own:.4f}")
    assert together <= 0.785
    assert own <= 0.755


def test_speed_at_207_detectors(data: Path) -> None:
    X, y, _, split = columns(data / "metr_la_week.npz")
    run = ridge(ft.Fleet.from_npz(data / "metr_la_week.npz"), 12)
    error = rmse(run.predict(X[split == 1])[:, :3], y[split == 1][:, :3])
    print(f"METR-LA, first three steps: {error:.4f}")
    assert error <= 5.375


def test_air_at_12_stations(data: Path) -> None:
    X, y, _, split = columns(data / "beijing_air.npz")
    train = split == 0
    Z = scaled(X, train)
    due = rmse(Ridge(1.0).fit(Z[train], y[train]).predict(Z[~train]), y[~train])
    found = ridge(ft.Fleet.from_npz(data / "beijing_air.npz")).summary["metrics"]["rmse"]
    print(f"Beijing PM2.5: federated {found:.5f}, centralised {due:.5f}")
    assert found == pytest.approx(due, abs=0.01)


def test_components_of_benign_traffic(data: Path) -> None:
    X, y, host, split = columns(data / "iot23.npz")
    benign, test = (y == 0) & (split == 0), split == 1
    some = benign | test
    fleet = ft.Fleet.from_arrays(X[some], y[some], host[some], split[some])
    model = ft.sequential(49, ft.dense(20), ft.dense(49))
    task = ft.Task(model=model, loss="reconstruction", normalise="fleet")
    run = ft.simulate(ft.Federation(task, ft.pca(), ft.Pace(goal=len(fleet))), fleet, 1)
    Z = scaled(X, benign)
    due = PCA(20).fit(Z[benign])
    scores = ((run.predict(X[test]) - Z[test]) ** 2).mean(1)
    central = ((due.inverse_transform(due.transform(Z[test])) - Z[test]) ** 2).mean(1)
    auc, other = roc_auc_score(y[test], scores), roc_auc_score(y[test], central)
    print(f"IoT-23, PCA: AUC {auc:.4f}, centralised {other:.4f}")
    assert auc == pytest.approx(other, abs=1e-4)
    np.testing.assert_allclose(scores, central, rtol=1e-3, atol=1e-3)


def test_attacks_at_9_hosts_by_newtons_steps(data: Path) -> None:
    fleet = ft.Fleet.from_npz(data / "iot23.npz")
    task = ft.Task(model=ft.mlp(49, 1), loss="binary_cross_entropy", normalise="fleet")
    run = ft.simulate(ft.Federation(task, ft.logistic(), ft.Pace(goal=9)), fleet, 50)
    print(f"IoT-23, logistic: AUC {run.summary['metrics']['auc']:.4f} in {run.summary['rounds']} rounds")
    assert run.summary["metrics"]["auc"] >= 0.985
    assert run.summary["reason"] == "converged"


def test_activities_of_36_users_by_trees(data: Path) -> None:
    X, y, _, split = columns(data / "wisdm_v11.npz")
    trees, depth = 30, 4
    model = ft.sequential(43, ft.forest(6, trees=trees, depth=depth))
    spec = ft.Federation(ft.Task(model=model, loss="cross_entropy"), ft.boosting(0.2), ft.Pace(goal=36))
    run = ft.simulate(spec, ft.Fleet.from_npz(data / "wisdm_v11.npz"), 1 + trees * depth)
    settings = {"learning_rate": 0.2, "max_iter": trees, "max_depth": depth, "max_bins": 32, "early_stopping": False}
    other = HistGradientBoostingClassifier(l2_regularization=1.0, min_samples_leaf=1, **settings)
    due = other.fit(X[split == 0], y[split == 0]).score(X[split == 1], y[split == 1])
    found = run.summary["metrics"]["accuracy"]
    print(f"WISDM, trees: {found:.4f}, scikit-learn's {due:.4f}")
    assert found >= due - 0.01


def test_quantiles_of_45_rooms(data: Path) -> None:
    X = columns(data / "keti_rooms.npz")[0]
    found = ft.query(ft.Fleet.from_npz(data / "keti_rooms.npz"), "quantiles(temperature, [.05, .5, .95])")
    due = np.quantile(X[:, 3], [0.05, 0.5, 0.95], method="inverted_cdf")
    assert np.array_equal(np.array(found.value, "f4"), due)
