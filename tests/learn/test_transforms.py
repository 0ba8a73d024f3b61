"""Transforms: what they give, where they may stand, that scaling is of what they give, targets in their own units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import DataError, SpecError
from fedthings.learn import save
from fedthings.learn.data import Shard
from fedthings.learn.descent import descent
from fedthings.learn.local import trainer
from fedthings.learn.model import Sequential, outputs, prepare
from fedthings.learn.normalise import spared, standardised, statistician, statistics_schema
from fedthings.phase import fits
from fedthings.vector import Key

KEY = Key(0, "d", 0, 0)


def given(model: Sequential, X: np.ndarray) -> np.ndarray:
    return prepare(model, X[None].astype("f4"))[0]


def test_what_they_give() -> None:
    X = np.array([[0.0, 6, 2], [-3, 18, 5], [np.nan, np.nan, np.nan]])
    model = ft.sequential(3, ft.log1p((0,)), ft.cyclic(1, 24), ft.one_hot(1, 3), ft.dense(1))
    want = [[0, 1, 0, 0, 0, 1], [-np.log(4), -1, 0, 0, 0, 0], [np.nan, np.nan, np.nan, 0, 0, 0]]
    np.testing.assert_allclose(given(model, X), want, atol=1e-6)
    np.testing.assert_allclose(given(ft.sequential(3, ft.log1p(), ft.dense(1)), X)[0], np.log1p(X[0]), rtol=1e-6)


def test_a_trend_is_the_mean_of_the_steps_around_that_are_known() -> None:
    model = ft.sequential((4, 1), ft.decompose(3), ft.flatten(), ft.dense(1))
    trend, gap = [[5 / 3, 3, 16 / 3, 7], [1, 2, 6, 7], [np.nan] * 4], np.nan
    X = np.array([[1, 3, 5, 8], [1, gap, 3, 9], [gap] * 4])
    found = given(model, X[..., None])
    np.testing.assert_allclose(found[..., 1], trend, rtol=1e-6)
    np.testing.assert_allclose(found[..., 0], X - trend, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([ft.dense(3), ft.log1p()], r"layer 1 \(log1p\) stands behind layer 0: put it in front"),
        ([ft.dense(3), ft.rescale([1], [1])], r"layer 1 \(rescale\).*mean has 1 numbers: give 3"),
        ([ft.rescale(), ft.dense(1)], r"layer 0 \(rescale\) is not the last"),
        ([ft.cyclic(3, 24), ft.dense(1)], r"layer 0 \(cyclic\).*column is 3: the input has the columns 0 to 2"),
        ([ft.cyclic(0, 0), ft.dense(1)], "period is 0"),
        ([ft.decompose(3), ft.dense(1)], r"layer 0 \(decompose\).*\(steps, channels\)"),
        ([ft.decompose(4), ft.dense(1)], "kernel is 4: it must be odd"),
        ([ft.one_hot(0, 0), ft.dense(1)], "classes is 0"),
        ([ft.embedding(0, 2), ft.dense(1)], "rows is 0"),
        ([ft.gru(3), ft.dense(1)], r"layer 0 \(gru\).*\(steps, channels\)"),
        ([ft.group_norm(2), ft.dense(1)], "groups is 2: it must divide the 3 channels"),
        ([ft.batch_norm(rate=0), ft.dense(1)], "rate is 0"),
        ([ft.dense(2), ft.rescale([0, 1], [1, 0])], "each deviation above 0"),
    ],
)
def test_what_does_not_fit_is_refused(layers: list, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        ft.sequential(3, *layers)


def test_targets_without_a_scale_or_for_a_loss_without_one_are_refused() -> None:
    with pytest.raises(SpecError, match="only one of mean and deviation"):
        ft.rescale(mean=[1])
    model = ft.sequential(3, ft.dense(1), ft.rescale())
    with pytest.raises(SpecError, match="rescale\\(\\) without numbers"):
        ft.Task(model=model, loss="mse")
    with pytest.raises(SpecError, match="ends with rescale: leave it out"):
        ft.Task(model=model, loss="binary_cross_entropy", normalise="fleet")


def test_scaling_is_of_what_the_transforms_give_and_spares_what_is_looked_up() -> None:
    rng = np.random.default_rng(0)
    X = np.stack([rng.integers(0, 4, 500), rng.exponential(50, 500), rng.uniform(0, 24, 500)], 1).astype("f4")
    y = (7 * X[:, 1] + 1000).astype("f4")
    model = ft.sequential(3, ft.log1p((1,)), ft.cyclic(2, 24), ft.embedding(4, 2, 0), ft.dense(1), ft.rescale())
    task = ft.Task(model=model, loss="mse", normalise="fleet")
    halves = [Shard(X[i::2], y[i::2], X[:0], y[:0]) for i in range(2)]
    fit, _ = statistician(task).many({}, [None] * 2, halves, [KEY] * 2, [1.0] * 2)
    assert {f.name: (f.dim,) for f in statistics_schema(model)} == {n: r.shape[1:] for n, r in fit.report.items()}
    scaled = standardised(model, {name: rows.sum(0) for name, rows in fit.report.items()})
    assert [type(layer).__name__ for layer in scaled.layers[:4]] == ["Log1p", "Cyclic", "Standardise", "Embedding"]
    seen = given(scaled, X)
    np.testing.assert_array_equal(seen[:, 0], X[:, 0])
    np.testing.assert_allclose(seen[:, 1:].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(seen[:, 1:].std(0), 1, atol=1e-4)
    mean, deviation = scaled.layers[-1].arrays()
    np.testing.assert_allclose([mean[0], deviation[0]], [y.mean(), y.std()], rtol=1e-5)


def test_several_embeddings_and_one_of_all() -> None:
    assert spared(ft.sequential(4, ft.embedding(3, 2, 1), ft.embedding(3, 2, 1), ft.dense(1))) == [1, 2]
    assert spared(ft.sequential(3, ft.embedding(3, 2), ft.flatten(), ft.dense(1))) == [0, 1, 2]


def test_scaling_comes_behind_transforms_that_stand_behind_an_imputation() -> None:
    X = np.array([[1, 6], [3, 18], [5, np.nan]], "f4")
    model = ft.sequential(2, ft.impute(0.0), ft.cyclic(1, 24), ft.dense(1))
    task = ft.Task(model=model, loss="mse", normalise="fleet")
    fit, _ = statistician(task).one({}, None, Shard(X, X[:, 0], X[:0], X[:0, 0]), KEY, 1.0)
    scaled = standardised(model, fit.report)
    assert [type(layer).__name__ for layer in scaled.layers[:3]] == ["Impute", "Cyclic", "Standardise"]
    np.testing.assert_allclose(fit.report["sum"], [9, 0, 1], atol=1e-6)  # sines 1, -1, 0 and cosines 0, 0, 1
    np.testing.assert_allclose(given(scaled, X).std(0), 1, atol=1e-6)


def test_what_is_looked_up_behind_an_imputation_is_spared() -> None:
    model = ft.sequential(4, ft.impute(0.0), ft.embedding(5, 2, column=3), ft.dense(1))
    assert spared(model) == [3]
    task = ft.Task(model=model, loss="mse", normalise="fleet")
    X = np.array([[1, 2, 3, 4], [5, 6, 8, np.nan]], "f4")
    fit, _ = statistician(task).one({}, None, Shard(X, X[:, 0], X[:0], X[:0, 0]), KEY, 1.0)
    np.testing.assert_allclose(given(standardised(model, fit.report), X), [[-1, -1, -1, 4], [1, 1, 1, 0]], atol=1e-6)


@pytest.mark.parametrize("wrong", [4, -1, 0.5])
def test_what_no_row_is_for_is_refused(wrong: float) -> None:
    X, y = np.array([[0, 1.5], [wrong, 0], [np.nan, 2]], "f4"), np.zeros(3, "f4")
    model = ft.sequential(2, ft.impute(), ft.embedding(4, 3, 0), ft.dense(1))
    said = rf"kitchen: X has {wrong} where layer 1 \(embedding\) looks up a vector.*from 0 to 3"
    with pytest.raises(DataError, match=said):
        fits(ft.Federation(ft.Task(model=model, loss="mse")), Shard(X, y, X[:0], y[:0]), "kitchen")
    X[1, 0] = 3
    fits(ft.Federation(ft.Task(model=model, loss="mse")), Shard(X, y, X[:0], y[:0]), "kitchen")


@pytest.mark.parametrize("engine", ["numpy", "auto"])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_scaled_targets_train_as_if_scaled_by_hand_and_are_measured_in_their_units(loss: str, engine: str) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(64, 3)).astype("f4")
    y = (500 + 100 * X @ rng.normal(size=(3, 2))).astype("f4")
    scaled = ((y - np.float32([500, 480])) / np.float32([100, 120])).astype("f4")
    recipe = ft.Recipe(lr=0.05, batch=16, epochs=4)
    layers = (ft.dense(4, "tanh"), ft.dense(2))
    with_units = ft.sequential(3, *layers, ft.rescale([500, 480], [100, 120]))
    fits_ = []
    for model, target in ((with_units, y), (ft.sequential(3, *layers), scaled)):
        task = ft.Task(model=model, loss=loss, recipe=recipe)
        shard = Shard(X[:40], target[:40], X[40:], target[40:])
        fits_.append(trainer(task, engine=engine).one({"x": model.init(0)}, None, shard, KEY, 1.0)[0])
    np.testing.assert_array_equal(fits_[0].report["x"], fits_[1].report["x"])
    np.testing.assert_array_equal(fits_[0].metrics["loss"], fits_[1].metrics["loss"])
    squares = fits_[0].metrics["rmse"]
    found = outputs(with_units, with_units.init(0), X[40:])
    np.testing.assert_allclose(squares[1] / 2**20 / squares[0], np.square(found - y[40:]).mean(), rtol=1e-4)


def test_no_optimiser_touches_the_running_statistics() -> None:
    """With a rate of nothing learned they are what the batches say, whatever decays or pulls beside them."""
    model = ft.sequential(2, ft.batch_norm(rate=0.5), ft.dense(1))
    X = np.random.default_rng(0).normal(3, 2, size=(8, 2)).astype("f4")
    shard = Shard(X, X[:, 0], X[:0], X[:0, 0])
    found = []
    for optimizer, decay in (("sgd", 0.0), ("adam", 0.5), ("momentum", 0.5)):
        recipe = ft.Recipe(optimizer=optimizer, lr=0.5, batch=0, epochs=3, weight_decay=decay)
        change = np.empty((1, model.layout.dim), "f4")
        train = descent(ft.Task(model=model, loss="mse", recipe=recipe), 0.3)
        train(model.init(0), None, [shard], [KEY], [1.0], change)
        after = model.layout.views(model.init(0) + change[0])
        found.append((after["0.batch_norm.mean"], after["0.batch_norm.variance"]))
    for mean, variance in found:
        np.testing.assert_allclose(mean, X.mean(0) * (1 - 0.5**3), rtol=1e-5)
        np.testing.assert_allclose(variance, 0.5**3 + X.var(0, ddof=1) * (1 - 0.5**3), rtol=1e-5)


def test_a_batch_of_one_number_is_taken_as_in_use() -> None:
    model = ft.sequential(2, ft.batch_norm(), ft.dense(1))
    X = np.array([[4.0, -2]], "f4")
    shard = Shard(X, X[:, 0], X[:0], X[:0, 0])
    fit, _ = trainer(ft.Task(model=model, loss="mse")).one({"x": model.init(0)}, None, shard, KEY, 1.0)
    change = model.layout.views(fit.report["x"])
    assert not change["0.batch_norm.mean"].any() and not change["0.batch_norm.variance"].any()
    assert change["1.dense.weight"].any()


MODELS = {
    "columns": ft.sequential(
        4, ft.log1p((1,)), ft.cyclic(2, 24.0), ft.one_hot(2, 3), ft.embedding(4, 3, 0), ft.group_norm(3), ft.dense(1),
        ft.rescale([3], [2]),
    ),
    "signals": ft.sequential(
        (6, 2), ft.log1p(), ft.conv1d(4, 2, padding="causal", dilation=2), ft.batch_norm(), ft.gru(3, True), ft.gru(2)
    ),
    "words": ft.sequential(6, ft.embedding(9, 4), ft.gru(3), ft.dense(2)),
    "series": ft.sequential((6, 2), ft.decompose(3), ft.impute(), ft.flatten(), ft.dense(1)),
    "vectors": ft.sequential(6, ft.prototypes(4, 3, ((8,), (8, 4)), 0.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_each_is_the_same_after_a_journey_in_toml_and_in_a_file(name: str, tmp_path: Path) -> None:
    model, loss = MODELS[name], "cross_entropy" if name in ("vectors", "words") else "mse"
    federation = ft.Federation(ft.Task(model=model, loss=loss))
    (tmp_path / "fed.toml").write_text(ft.dumps(federation))
    assert ft.load(tmp_path / "fed.toml") == federation
    row = model.init(3)
    save.save(tmp_path / "model.safetensors", model, row, {})
    found, loaded, _ = save.load(tmp_path / "model.safetensors")
    assert found == model
    np.testing.assert_array_equal(loaded, row)
