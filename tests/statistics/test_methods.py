"""Every method of sums ends in the model that all samples in one place would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.federation import dumps, load
from fedthings.learn import save
from fedthings.learn.model import outputs

N = 7


def samples(classes: int = 3, n: int = 700) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return X, labels, values and whether each is a training sample; a device has some classes only."""
    rng = np.random.default_rng(3)
    centre = rng.normal(0, 2, (classes, 5))
    y = rng.integers(0, classes, n)
    X = ((centre[y] + rng.normal(size=(n, 5))) * [1, 10, 0.1, 1e-2, 5] + [0, 100, -5, 3, 50]).astype("f4")
    values = (X @ [1, 0.1, 3, 20, 0.5] + rng.normal(size=n)).astype("f4")
    return X, y, values, np.arange(n) // N % 5 != 0


def fleet(y: np.ndarray) -> ft.Fleet:
    X, _, _, train = samples()
    return ft.Fleet.from_arrays(X, y, np.arange(len(X)) % N, split=~train)


def trained(strategy: ft.Strategy, model: ft.Sequential, loss: str, y: np.ndarray, **more) -> ft.Run:  # type: ignore
    task = ft.Task(model=model, loss=loss, **more)
    return ft.simulate(ft.Federation(task, strategy, ft.Pace(goal=N)), fleet(y), 300)


@pytest.mark.parametrize("penalty", [0.0, 0.5, 300.0])
def test_ridge_is_the_pooled_fit(penalty: float) -> None:
    X, _, y, train = samples()
    run = trained(ft.ridge(penalty), ft.mlp(5, 1), "mse", y)
    due = (Ridge(penalty) if penalty else LinearRegression()).fit(X[train].astype("f8"), y[train])
    assert run.row[:5] == pytest.approx(due.coef_, rel=1e-6)
    assert run.row[5] == pytest.approx(due.intercept_, rel=1e-6)
    assert run.summary["rounds"] == 1
    error = due.predict(X[~train]) - y[~train]
    assert run.summary["metrics"]["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)


def test_ridge_of_several_targets_on_scaled_features_with_gaps() -> None:
    X, _, y, train = samples()
    X = X.copy()
    X[::7, 1] = np.nan
    both = np.stack([y, X[:, 0] * 2], 1)
    task = ft.Task(model=ft.mlp(5, 2), loss="mse", normalise="fleet")
    things = ft.Fleet.from_arrays(X, both, np.arange(len(X)) % N, split=~train)
    run = ft.simulate(ft.Federation(task, ft.ridge(2.0), ft.Pace(goal=N)), things, 9)
    mean, deviation = np.nanmean(X[train].astype("f8"), 0), np.nanstd(X[train].astype("f8"), 0)
    Z = (np.where(np.isnan(X), mean, X) - mean) / deviation
    due = Ridge(2.0).fit(Z[train], both[train])
    np.testing.assert_allclose(run.predict(X), due.predict(Z), rtol=1e-5, atol=1e-4)


def test_columns_that_say_the_same_are_no_trouble() -> None:
    X, _, y, train = samples()
    twice = np.concatenate([X, X[:, :1], np.full((len(X), 1), 7.1, "f4")], 1)
    things = ft.Fleet.from_arrays(twice, y, np.arange(len(X)) % N, split=~train)
    task = ft.Task(model=ft.mlp(7, 1), loss="mse")
    run = ft.simulate(ft.Federation(task, ft.ridge(0.0), ft.Pace(goal=N)), things, 9)
    due = LinearRegression().fit(X[train].astype("f8"), y[train])
    np.testing.assert_allclose(run.predict(twice)[:, 0], due.predict(X), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_the_pooled_fit(classes: int) -> None:
    X, y, _, train = samples()
    y = np.minimum(y, classes - 1)
    model, loss = (ft.mlp(5, 1), "binary_cross_entropy") if classes == 2 else (ft.mlp(5, 3), "cross_entropy")
    run = trained(ft.logistic(2.0), model, loss, y, normalise="fleet")
    Z = (X - X[train].astype("f8").mean(0)) / X[train].astype("f8").std(0)
    due = LogisticRegression(C=0.5, tol=1e-12, max_iter=10_000).fit(Z[train], y[train])
    weight = run.row[: 5 * model.outputs[0]].reshape(5, -1)
    np.testing.assert_allclose(weight, due.coef_.T, rtol=1e-5, atol=1e-5)
    assert run.summary["reason"] == "converged"
    assert run.summary["rounds"] <= 12


def test_newtons_steps_are_halved_where_they_overshoot() -> None:
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.standard_cauchy((300, 2)) * 30, rng.normal(size=(300, 2))]).astype("f4")
    y = (X[:, 0] + rng.normal(size=600) > 0).astype("i8")
    things = ft.Fleet.from_arrays(X, y, np.arange(600) % 3)
    task = ft.Task(model=ft.mlp(2, 1), loss="binary_cross_entropy")
    run = ft.simulate(ft.Federation(task, ft.logistic(1e-3), ft.Pace(goal=3)), things, 100)
    due = LogisticRegression(C=1e3, tol=1e-12, max_iter=100_000).fit(X.astype("f8"), y)
    assert run.summary["reason"] == "converged"
    np.testing.assert_allclose(run.row[:2], due.coef_[0], rtol=1e-3)


def test_naive_bayes_is_the_pooled_one() -> None:
    X, y, _, train = samples()
    run = trained(ft.naive_bayes(), ft.sequential(5, ft.gaussians(4)), "cross_entropy", y)
    due = GaussianNB().fit(X[train].astype("f8"), y[train])
    found = run.predict(X)
    assert (found[:, 3] < -1e29).all()  # a class that nobody has
    np.testing.assert_allclose(found[:, :3], due.predict_joint_log_proba(X.astype("f8")), rtol=1e-4, atol=2e-3)
    assert run.summary["metrics"]["accuracy"] == pytest.approx(due.score(X[~train], y[~train]))


def test_the_nearest_mean_is_the_pooled_one_also_on_a_frozen_extractor() -> None:
    X, y, _, train = samples()
    run = trained(ft.nearest_mean(), ft.sequential(5, ft.centroids(3)), "cross_entropy", y)
    due = NearestCentroid().fit(X[train].astype("f8"), y[train])
    np.testing.assert_allclose(run.row[:15].reshape(3, 5), due.centroids_, rtol=1e-6)
    assert np.array_equal(run.predict(X).argmax(1), due.predict(X))
    deep = ft.sequential(5, ft.dense(16, "tanh"), ft.centroids(3))
    run = trained(ft.nearest_mean(), deep, "cross_entropy", y, normalise="fleet")
    assert np.array_equal(run.row[: 6 * 16], deep.init(0)[: 6 * 16])
    assert run.summary["metrics"]["accuracy"] > 0.85
    assert run.summary["rounds"] == 1


def test_principal_components_are_the_pooled_ones() -> None:
    X, y, _, train = samples()
    model = ft.sequential(5, ft.dense(2), ft.dense(5))
    run = trained(ft.pca(), model, "reconstruction", y, normalise="fleet")
    Z = (X - X[train].astype("f8").mean(0)) / X[train].astype("f8").std(0)
    due = PCA(2).fit(Z[train])
    code = run.row[:10].reshape(5, 2)
    np.testing.assert_allclose(np.abs(code.T), np.abs(due.components_), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run.predict(X), due.inverse_transform(due.transform(Z)), rtol=1e-4, atol=1e-4)


def test_k_means_ends_where_the_pooled_rounds_end() -> None:
    X, y, _, train = samples()
    run = trained(ft.k_means(), ft.sequential(5, ft.centroids(3)), "nearest", y, normalise="fleet")
    assert run.summary["reason"] == "converged"
    Z = (X - X[train].astype("f8").mean(0)) / X[train].astype("f8").std(0)
    due = KMeans(3, n_init=20, random_state=0).fit(Z[train])
    found = run.row[:15].reshape(3, 5)
    apart = np.linalg.norm(found[:, None] - due.cluster_centers_[None], axis=-1)
    assert sorted(apart.argmin(1).tolist()) == [0, 1, 2]
    assert apart.min(1).max() < 0.01
    distance = np.sqrt((((Z[~train][:, None] - found) ** 2).sum(-1).min(1)).mean())
    assert run.summary["metrics"]["distance"] == pytest.approx(distance, rel=1e-4)


def test_k_means_without_a_tolerance_ends_when_no_centroid_moves() -> None:
    X, y, _, train = samples()
    run = trained(ft.k_means(0.0), ft.sequential(5, ft.centroids(3)), "nearest", y)
    assert run.summary["reason"] == "converged" and run.summary["rounds"] < 300
    found = run.row[:15].reshape(3, 5)
    near = ((X[train][:, None].astype("f8") - found) ** 2).sum(-1).argmin(1)
    means = [X[train][near == i].mean(0, dtype="f8") for i in range(3)]
    np.testing.assert_allclose(found, means, rtol=1e-6)


METHODS = {
    "ridge": (ft.ridge(), ft.mlp(5, 1), "mse"),
    "logistic": (ft.logistic(), ft.mlp(5, 3), "cross_entropy"),
    "pca": (ft.pca(), ft.sequential(5, ft.dense(2), ft.dense(5)), "reconstruction"),
    "naive Bayes": (ft.naive_bayes(), ft.sequential(5, ft.gaussians(3)), "cross_entropy"),
    "nearest mean": (ft.nearest_mean(), ft.sequential(5, ft.centroids(3)), "cross_entropy"),
    "k-means": (ft.k_means(), ft.sequential(5, ft.centroids(3)), "nearest"),
    "boosting": (ft.boosting(), ft.sequential(5, ft.forest(3, trees=4, depth=3)), "cross_entropy"),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_federation_travels_and_its_model_predicts(tmp_path: Path, name: str) -> None:
    strategy, model, loss = METHODS[name]
    spec = ft.Federation(ft.Task(model=model, loss=loss), strategy, ft.Pace(goal=N))
    (tmp_path / "fed.toml").write_text(dumps(spec))
    assert load(tmp_path / "fed.toml") == spec
    X, y, values, _ = samples()
    run = ft.simulate(spec, fleet(values if loss == "mse" else y), 60, out=tmp_path / "run")
    found, row, _ = save.load(tmp_path / "run" / "model.safetensors")
    assert np.array_equal(outputs(found, row, X), run.predict(X))
    assert np.isfinite(run.predict(X)).all()


REFUSED = {
    "another end": (lambda: ft.ridge(), ft.mlp(5, 3), "cross_entropy", {}, "task.loss is 'cross_entropy'"),
    "an activation": (lambda: ft.ridge(), ft.sequential(5, ft.dense(1, "relu")), "mse", {}, "without activation"),
    "stages": (lambda: ft.ridge(), ft.mlp(5, 1), "mse", {"stages": (ft.clip(1.0),)}, "stages is set beside"),
    "late": (lambda: ft.ridge(), ft.mlp(5, 1), "mse", {"pace": ft.Pace(goal=2, staleness=1)}, "pace.staleness is set"),
    "edges": (lambda: ft.ridge(), ft.mlp(5, 1), "mse", {"edge": ft.Edge()}, "edge is set beside strategy.statistic"),
    "by gradient": (lambda: ft.fedavg(), ft.sequential(5, ft.forest()), "mse", {}, "set strategy to ft.boosting()"),
    "scaled trees": (
        lambda: ft.boosting(),
        ft.sequential(5, ft.dense(5), ft.forest()),
        "mse",
        {},
        "let the model be forest(...) alone",
    ),
    "a number": (lambda: ft.ridge(-1), ft.mlp(5, 1), "mse", {}, "penalty is -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused(case: str) -> None:
    strategy, model, loss, more, said = REFUSED[case]
    with pytest.raises(SpecError) as error:
        ft.Federation(ft.Task(model=model, loss=loss), strategy(), **more)
    assert said in str(error.value)
