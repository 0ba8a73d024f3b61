"""Layers that statistics fill: what they give, alike for one device and a cohort, bit for bit (law 3)."""

from __future__ import annotations

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.learn.filling import grown
from fedthings.learn.model import backward, forward, outputs

MODELS = {
    "centroids": ft.sequential(4, ft.centroids(3)),
    "gaussians": ft.sequential(4, ft.gaussians(3)),
    "forest": ft.sequential(4, ft.forest(2, trees=3, depth=2)),
}


def row(model: ft.Sequential, seed: int = 0) -> np.ndarray:  # type: ignore[name-defined]
    rng = np.random.default_rng(seed)
    made = rng.normal(size=model.layout.dim).astype("f4")
    for part in model.layout.parts:
        if part.name.endswith("feature"):
            made[part.start : part.stop] = rng.integers(0, 4, part.stop - part.start)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_a_cohort_is_a_stack_of_devices(name: str) -> None:
    model = MODELS[name]
    rows = np.stack([row(model, seed) for seed in range(5)])
    X = np.random.default_rng(1).normal(size=(5, 9, 4)).astype("f4")
    together, _ = forward(model, model.split(rows), X)
    for k in range(5):
        alone, _ = forward(model, model.split(rows[k : k + 1]), X[k : k + 1])
        assert np.array_equal(together[k], alone[0])
        for i in range(9):
            assert np.array_equal(outputs(model, rows[k], X[k, i : i + 1])[0], together[k, i])
    shared, _ = forward(model, model.split(rows[:1]), X)
    assert np.array_equal(shared[3], outputs(model, rows[0], X[3]))


def test_what_they_give() -> None:
    X = np.random.default_rng(2).normal(size=(6, 4)).astype("f4")
    model = MODELS["centroids"]
    w = {name: array[0] for name, array in model.split(row(model)[None])[0].items()}
    apart = ((X[:, None] - w["centroid"]) ** 2).sum(-1)
    np.testing.assert_allclose(outputs(model, row(model), X), w["offset"] - apart, rtol=1e-5)
    model = MODELS["gaussians"]
    w = {name: array[0] for name, array in model.split(row(model)[None])[0].items()}
    apart = (((X[:, None] - w["centre"]) * w["precision"]) ** 2).sum(-1) / 2
    np.testing.assert_allclose(outputs(model, row(model), X), w["constant"] - apart, rtol=1e-5)


def test_a_tree_goes_right_above_its_thresholds_and_left_where_nothing_is_known() -> None:
    feature, threshold = np.array([0, 1, 1]), np.array([0.5, 0.0, 1.0])
    X = np.array([[0.5, 0.0], [0.5, 0.1], [0.6, 1.0], [0.6, 1.1], [np.nan, 5.0], [9.0, np.nan]])
    assert grown(feature, threshold, X, 1).tolist() == [0, 0, 1, 1, 0, 1]
    assert grown(feature, threshold, X, 2).tolist() == [0, 1, 2, 3, 1, 2]


def test_nothing_is_learned_through_them() -> None:
    model = MODELS["centroids"]
    weights = model.split(row(model)[None])
    out, tape = forward(model, weights, np.zeros((1, 2, 4), "f4"))
    with pytest.raises(SpecError, match="only a statistic fills"):
        backward(model, weights, tape, np.ones_like(out), weights)
