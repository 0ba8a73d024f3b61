"""Fleets that are made up: what is claimed of them holds, and the seed decides all."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import DataError
from fedthings.learn.data import Cohort
from fedthings.learn.synthetic import clusters, synthetic


def everyone(fleet: ft.Fleet) -> list[np.ndarray]:
    return [np.concatenate([fleet.shard(n).X, fleet.shard(n).test_X]) for n in fleet.names]


# --------------------------------------------------- Synthetic(alpha, beta)


def test_shapes_sizes_and_split_are_the_authors() -> None:
    fleet = synthetic(1, 1)
    total = fleet.sizes + fleet.test_sizes
    assert len(fleet) == 30
    assert total.min() >= 50
    np.testing.assert_array_equal(fleet.sizes, (0.9 * total).astype(int))
    shard = fleet.shard("device-0")
    assert shard.X.shape[1:] == (60,)
    assert (shard.y.min() >= 0, shard.y.max() <= 9) == (True, True)


def test_sizes_are_lognormal_beyond_fifty() -> None:
    fleet = synthetic(0, 0, devices=400, seed=2)
    logs = np.log(fleet.sizes + fleet.test_sizes - 50 + 0.5)
    assert np.median(logs) == pytest.approx(4, abs=0.35)
    assert logs.std() == pytest.approx(2, abs=0.3)


def test_features_have_the_published_variances() -> None:
    X = max(everyone(synthetic(1, 1, seed=1)), key=len)
    variance = X.var(0) * np.arange(1, 61) ** 1.2
    np.testing.assert_allclose(variance, 1, atol=6 * (2 / len(X)) ** 0.5)


def test_beta_moves_the_means_of_devices_apart() -> None:
    def centers(beta: float) -> np.ndarray:
        return np.array([X.mean() for X in everyone(synthetic(0, beta, devices=100, seed=3))])

    # A device's mean over 60 features of v_k ~ N(B_k, 1) has the variance beta^2 + 1/60.
    assert centers(0.0).std() == pytest.approx((1 / 60) ** 0.5, rel=0.25)
    assert centers(2.0).std() == pytest.approx(2.0, rel=0.25)


def test_labels_are_those_of_a_linear_model_a_device() -> None:
    fleet = synthetic(0, 0, seed=0)
    shard = fleet.shard(fleet.names[int(fleet.sizes.argmax())])
    scaled = (shard.X - shard.X.mean(0)) / shard.X.std(0)
    X, y = np.c_[scaled, np.ones(len(scaled))], shard.y
    W = np.zeros((61, 10))
    for _ in range(800):
        logits = X @ W
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        W -= 4.0 * X.T @ p / len(y)
    assert ((X @ W).argmax(1) == y).mean() > 0.93


def test_iid_has_one_model_and_no_means() -> None:
    fleet = synthetic(0, 0, devices=40, iid=True)
    assert max(abs(X.mean()) for X in everyone(fleet)) < 0.1
    tops = [np.bincount(fleet.shard(n).y, minlength=10) / len(fleet.shard(n).y) for n in fleet.names]
    assert np.std(tops, 0).max() < 0.12
    other = synthetic(0, 0, devices=40)
    tops = [np.bincount(other.shard(n).y, minlength=10) / len(other.shard(n).y) for n in other.names]
    assert np.std(tops, 0).max() > 0.2


def test_synthetic_follows_the_seed() -> None:
    one, same, other = (synthetic(0.5, 0.5, devices=3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.shard("device-2").X, same.shard("device-2").X)
    assert one.sizes.tolist() != other.sizes.tolist()
    more = synthetic(0.5, 0.5, devices=5, seed=1)
    np.testing.assert_array_equal(one.shard("device-2").y, more.shard("device-2").y)


def test_synthetic_refuses() -> None:
    with pytest.raises(DataError, match="alpha is -1 and beta 0"):
        synthetic(-1, 0)
    with pytest.raises(DataError, match="devices is 0"):
        synthetic(0, 0, devices=0)


# ---------------------------------------------------------------- clusters


def test_a_cohort_is_a_stack_of_ones_in_any_order() -> None:
    fleet = clusters(1000, features=7, classes=3, samples=5, tests=2, seed=4)
    names = ["device-999", "device-3", "device-0", "device-3"]
    cohort = fleet.cohort(names, [0.0, 5.0, 1.0, 0.0])
    assert isinstance(cohort, Cohort)
    for shard, name in zip(cohort, names, strict=True):
        for part, other in zip(shard, fleet.shard(name), strict=True):
            np.testing.assert_array_equal(part, other)
    shard = cohort[0]
    assert (shard.X.shape, shard.y.shape, shard.test_X.shape, shard.test_y.shape) == ((5, 7), (5,), (2, 7), (2,))
    assert (shard.X.dtype, shard.y.dtype) == (np.float32, np.int64)


def test_clusters_are_gaussian_around_prototypes() -> None:
    fleet = clusters(2000, features=6, classes=4, samples=25, contrast=4.0, seed=1)
    cohort = fleet.cohort(fleet.names, [0.0] * 2000)
    assert isinstance(cohort, Cohort)
    X, y = cohort.X, cohort.y
    assert np.bincount(y) / len(y) == pytest.approx(0.25, abs=0.01)
    noise = np.concatenate([X[y == c] - X[y == c].mean(0) for c in range(4)])
    np.testing.assert_allclose(np.cov(noise.T), np.eye(6), atol=0.03)
    assert (noise**3).mean() == pytest.approx(0, abs=0.03)
    assert (noise**4).mean() == pytest.approx(3, abs=0.08)
    # What neighbours in a device draw has nothing in common.
    inside = (X - np.stack([X[y == c].mean(0) for c in range(4)])[y]).reshape(2000, 25, 6)
    assert abs((inside[:, 1:] * inside[:, :-1]).mean()) < 0.01
    assert abs((inside[1:] * inside[:-1]).mean()) < 0.01


def test_prototypes_lie_as_far_from_each_other_as_said() -> None:
    fleet = clusters(300, features=256, classes=8, samples=40, contrast=5.0)
    cohort = fleet.cohort(fleet.names, [0.0] * 300)
    assert isinstance(cohort, Cohort)
    centers = np.stack([cohort.X[cohort.y == c].mean(0) for c in range(8)])
    far = [np.linalg.norm(a - b) for i, a in enumerate(centers) for b in centers[:i]]
    assert np.mean(far) == pytest.approx(5.0, rel=0.1)


def test_devices_have_few_labels_where_asked() -> None:
    fleet = clusters(500, labels=2, samples=60)
    held = [set(shard.y.tolist()) for shard in fleet.cohort(fleet.names, [0.0] * 500)]
    assert all(len(labels) == 2 for labels in held)
    assert all((max(labels) - min(labels)) in (1, 9) for labels in held)
    assert len({min(labels) for labels in held}) == 10 - 1


def test_seeds_give_other_clusters() -> None:
    one, same, other = (clusters(10, seed=seed).shard("device-7").X for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.99


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"devices": 0}, "devices is 0"),
        ({"devices": 3, "samples": 0}, "samples is 0: it must be from 1"),
        ({"devices": 3, "classes": 1}, "classes is 1"),
        ({"devices": 3, "labels": 11}, "labels is 11: it must be from 1 to 10"),
        ({"devices": 3, "contrast": -1.0}, "contrast is -1"),
    ],
)
def test_clusters_refuse(arguments: dict[str, int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        clusters(**arguments)


def test_a_million_devices_cost_no_memory() -> None:
    code = (
        "import resource, fedthings as ft\n"
        "fleet = ft.clusters(1_000_000)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for first in range(0, 1_000_000, 100_000):\n"
        "    names = fleet.names[first : first + 1000]\n"
        "    fleet.cohort(names, [0.0] * len(names))\n"
        "assert int(fleet.sizes.sum()) == 20_000_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(grown) < 60_000  # kilobytes; the data of all is 5 GB


def test_logistic_regression_learns_a_large_fleet() -> None:
    federation = ft.Federation(
        task=ft.Task(
            model=ft.sequential(64, ft.dense(10)), loss="cross_entropy", recipe=ft.Recipe(lr=0.5, batch=20, epochs=1)
        ),
        strategy=ft.fedavg(),
        pace=ft.Pace(goal=40, concurrency=50),
    )
    run = ft.simulate(federation, ft.clusters(5000, tests=5, contrast=6.0), rounds=12)
    assert run.history[-1]["metrics"]["accuracy"] > 0.9
