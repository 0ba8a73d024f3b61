"""Partitioners: every sample has one owner, every device a sample, and the seed decides all."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedthings.errors import DataError
from fedthings.learn import partition

Y = np.repeat(np.arange(10), 100)

PARTITIONS: dict[str, Callable[..., np.ndarray]] = {
    "iid": partition.iid,
    "shards": partial(partition.shards, per_device=2),
    "dirichlet": partial(partition.dirichlet, alpha=0.5),
}


@pytest.mark.parametrize("name", PARTITIONS)
def test_reproducible_from_the_seed(name: str) -> None:
    make = PARTITIONS[name]
    np.testing.assert_array_equal(make(Y, 20, seed=3), make(Y, 20, seed=3))
    assert (make(Y, 20, seed=3) != make(Y, 20, seed=4)).any()


@pytest.mark.parametrize("name", PARTITIONS)
@given(n=st.integers(2, 300), devices=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_every_device_has_about_as_many_samples(name: str, n: int, devices: int, seed: int) -> None:
    devices = min(devices, n // 2)
    y = np.arange(n) % 7
    owner = PARTITIONS[name](y, devices, seed=seed)
    sizes = np.bincount(owner, minlength=devices)
    assert owner.shape == (n,)
    assert owner.min() >= 0
    assert len(sizes) == devices
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= (2 if name == "shards" else 1)


def test_shards_have_few_labels() -> None:
    owner = partition.shards(Y, 50, 2, seed=0)
    labels = [set(Y[owner == device]) for device in range(50)]
    assert max(map(len, labels)) <= 2
    assert np.bincount(owner).tolist() == [20] * 50


def test_iid_mixes_labels() -> None:
    owner = partition.iid(Y, 5, seed=0)
    assert all(len(set(Y[owner == device])) == 10 for device in range(5))


def test_small_alpha_gives_few_labels_and_large_alpha_all() -> None:
    def labels(alpha: float) -> float:
        owner = partition.dirichlet(Y, 10, alpha, seed=0)
        return float(np.mean([np.bincount(Y[owner == d], minlength=10).max() / 100 for d in range(10)]))

    assert labels(0.05) > 0.7
    assert labels(1e4) < 0.2


def test_dirichlet_mixes_have_the_published_spread() -> None:
    # A share of a symmetric Dirichlet(alpha * p) has the variance p (1 - p) / (alpha + 1).
    y = np.repeat(np.arange(4), 50_000)
    owner = partition.dirichlet(y, 2000, 1.0, seed=1)
    first = owner < 500  # the early devices: no class has run out yet
    shares = np.bincount(owner[first & (y == 0)], minlength=500) / 100
    assert shares.mean() == pytest.approx(0.25, abs=0.05)
    assert shares.var() == pytest.approx(0.25 * 0.75 / 2, rel=0.2)


def test_refusals_name_the_value() -> None:
    with pytest.raises(DataError, match="3 samples are too few for 4 devices"):
        partition.iid(Y[:3], 4, 0)
    with pytest.raises(DataError, match=r"too few for 1200 shards \(600 devices with 2 each\)"):
        partition.shards(Y, 600, 2, 0)
    with pytest.raises(DataError, match="alpha is 0"):
        partition.dirichlet(Y, 4, 0, 0)
    with pytest.raises(DataError, match=r"y is float64.*partition.iid"):
        partition.dirichlet(Y / 2, 4, 1, 0)
    with pytest.raises(DataError, match="0 devices"):
        partition.iid(Y, 0, 0)
