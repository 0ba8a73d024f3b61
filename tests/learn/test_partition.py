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
    for sizes in ([1, 1], [5, 5], [-1, 4]):
        with pytest.raises(DataError, match="divide all, none below 0"):
            partition.mixed(np.array([0, 1, 0]), np.array(sizes), 1.0, np.random.default_rng(0))
    with pytest.raises(DataError, match="0 devices"):
        partition.iid(Y, 0, 0)


# ------------------------------------------------------------------- sizes


SIZES: dict[str, Callable[..., np.ndarray]] = {
    "dirichlet_sizes": partial(partition.dirichlet_sizes, alpha=0.5),
    "lognormal_sizes": partial(partition.lognormal_sizes, sigma=2.0),
    "power_sizes": partial(partition.power_sizes, exponent=1.5),
}


def sizes(owner: np.ndarray) -> np.ndarray:
    return np.bincount(owner)


@pytest.mark.parametrize("name", SIZES)
@given(n=st.integers(1, 300), devices=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_uneven_devices_have_a_sample_each(name: str, n: int, devices: int, seed: int) -> None:
    devices = min(devices, n)
    owner = SIZES[name](np.zeros(n), devices, seed=seed)
    assert owner.shape == (n,)
    assert len(sizes(owner)) == devices
    assert sizes(owner).min() >= 1


@pytest.mark.parametrize("name", SIZES)
def test_uneven_devices_follow_the_seed_and_mix_labels(name: str) -> None:
    make = SIZES[name]
    owner = make(Y, 20, seed=3)
    np.testing.assert_array_equal(owner, make(Y, 20, seed=3))
    assert (owner != make(Y, 20, seed=4)).any()
    largest = np.bincount(Y[owner == sizes(owner).argmax()], minlength=10)
    assert largest.min() > 0


def test_sizes_are_as_uneven_as_published() -> None:
    y = np.zeros(1_000_000)
    # A share of a symmetric Dirichlet(alpha) over N has the variance (N - 1) / (N^2 (alpha N + 1)).
    shares = sizes(partition.dirichlet_sizes(y, 1000, 0.5, seed=0)) / len(y)
    assert shares.var() == pytest.approx(999 / (1e6 * 501), rel=0.15)
    logs = np.log(sizes(partition.lognormal_sizes(y, 1000, 1.0, seed=0)))
    assert logs.std() == pytest.approx(1.0, rel=0.1)
    ordered = -np.sort(-sizes(partition.power_sizes(y, 100, 1.5, seed=0)))
    slope = np.polyfit(np.log(np.arange(1, 101)), np.log(ordered), 1)[0]
    assert slope == pytest.approx(-1.5, rel=0.05)


def test_extremes_of_sizes() -> None:
    assert np.ptp(sizes(partition.power_sizes(Y, 10, 0, seed=0))) <= 1
    assert np.ptp(sizes(partition.lognormal_sizes(Y, 10, 0, seed=0))) <= 1
    assert np.ptp(sizes(partition.dirichlet_sizes(Y, 10, 1e9, seed=0))) <= 1
    assert sizes(partition.dirichlet_sizes(Y, 10, 1e-9, seed=0)).max() == 991


# ----------------------------------------------------------- time and sites


def test_windows_of_time_follow_each_other() -> None:
    time = np.random.default_rng(0).permutation(1000) / 10
    owner = partition.by_time(time, 20, 0.0, seed=0)
    assert sizes(owner).tolist() == [50] * 20
    for device in range(19):
        assert time[owner == device].max() < time[owner == device + 1].min()


def test_overlap_widens_windows_and_keeps_the_drift() -> None:
    time = np.arange(20_000)

    def windows(overlap: float) -> tuple[np.ndarray, float]:
        owner = partition.by_time(time, 20, overlap, seed=0)
        middles = np.array([np.median(time[owner == d]) for d in range(20)]) / 20_000
        return middles, float(np.mean([np.ptp(time[owner == d]) for d in range(20)])) / 20_000

    none, some, much = windows(0.0), windows(0.4), windows(50.0)
    assert none[1] == pytest.approx(0.05, abs=0.001)
    assert 0.3 < some[1] < 0.46
    assert much[1] > 0.98
    assert (np.diff(none[0]) > 0).all()
    assert (np.diff(some[0]) > 0).all()
    assert np.ptp(some[0]) > 0.6
    assert np.ptp(much[0]) < 0.1
    np.testing.assert_array_equal(partition.by_time(time, 20, 0.4, 7), partition.by_time(time, 20, 0.4, 7))
    assert (partition.by_time(time, 20, 0.4, 7) != partition.by_time(time, 20, 0.4, 8)).any()


def test_dates_are_time_too() -> None:
    dates = np.datetime64("2024-01-01") + np.arange(100).astype("timedelta64[D]")
    np.testing.assert_array_equal(partition.by_time(dates, 4, 0.0, 0), np.arange(100) // 25)
    dates[3] = np.datetime64("NaT")
    with pytest.raises(DataError, match="give one finite number a sample"):
        partition.by_time(dates, 4, 0.0, 0)


def test_a_device_belongs_to_one_site_and_large_sites_have_more() -> None:
    site = np.repeat(["attic", "barn", "cellar"], [100, 600, 300])
    owner = partition.by_site(site, 20, seed=0)
    places = [set(site[owner == device]) for device in range(20)]
    assert all(len(place) == 1 for place in places)
    found = [place.pop() for place in places]
    assert found == sorted(found)
    assert [found.count(name) for name in ("attic", "barn", "cellar")] == [2, 12, 6]
    assert sizes(owner).tolist() == [50] * 20
    assert (owner != partition.by_site(site, 20, seed=1)).any()
    np.testing.assert_array_equal(owner, partition.by_site(site, 20, seed=0))


@given(n=st.integers(1, 200), sites=st.integers(1, 10), devices=st.integers(1, 60), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_sites_of_any_size(n: int, sites: int, devices: int, seed: int) -> None:
    site = np.random.default_rng(seed).integers(0, sites, n)
    devices = min(max(devices, len(set(site.tolist()))), n)
    owner = partition.by_site(site, devices, seed)
    assert len(sizes(owner)) == devices
    assert sizes(owner).min() >= 1


def test_partitioners_compose_to_two_levels() -> None:
    owner = partition.by_site(partition.shards(Y, 5, 2, seed=1), 50, seed=1)
    labels = [frozenset(Y[owner == device].tolist()) for device in range(50)]
    assert max(map(len, labels)) <= 3
    assert all(labels[10 * i + j] == labels[10 * i] for i in range(5) for j in range(10))


# ------------------------------------------------------------ feature shift


X = np.random.default_rng(5).standard_normal((4000, 6)).astype(np.float32)
D4 = partition.iid(np.zeros(4000), 4, seed=0)


def test_noise_grows_with_the_device() -> None:
    before = X.copy()
    noise = partition.shifted(X, D4, seed=0, noise=0.8) - X
    np.testing.assert_array_equal(X, before)
    for device in range(4):
        assert noise[device == D4].var() == pytest.approx(0.8 * (device + 1) / 4, rel=0.05)
        assert abs(noise[device == D4].mean()) < 0.03


def test_calibration_is_a_line_a_device_and_feature() -> None:
    moved = partition.shifted(X, D4, seed=0, gain=0.2, offset=0.5)
    lines = np.array([[np.polyfit(X[d == D4, f], moved[d == D4, f], 1) for f in range(6)] for d in range(4)])
    for d in range(4):
        fitted = X[d == D4] * lines[d, :, 0] + lines[d, :, 1]
        np.testing.assert_allclose(moved[d == D4], fitted, atol=1e-4)
    assert (lines[..., 0] - 1).std() == pytest.approx(0.2, rel=0.4)
    assert lines[..., 1].std() == pytest.approx(0.5, rel=0.4)


def test_images_are_turned_by_quarters() -> None:
    images = np.arange(8 * 9, dtype=np.float32).reshape(8, 3, 3, 1)
    turned = partition.shifted(images, np.arange(8), seed=0, turn=True)
    for i in range(8):
        np.testing.assert_array_equal(turned[i, ..., 0], np.rot90(images[i, ..., 0], i % 4))


def test_shift_follows_the_seed_and_nothing_is_no_shift() -> None:
    np.testing.assert_array_equal(partition.shifted(X, D4, seed=0), X)
    one, same, other = (partition.shifted(X, D4, seed, noise=1, gain=1, offset=1) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert one.dtype == np.float32
    assert (one != other).mean() > 0.99
    # What one effect draws is the same beside the others.
    both = partition.shifted(X, D4, 1, noise=1, gain=0.5)
    np.testing.assert_allclose(
        both - partition.shifted(X, D4, 1, gain=0.5), partition.shifted(X, D4, 1, noise=1) - X, atol=1e-5
    )


def test_gaps_stay_gaps() -> None:
    gaps = X.copy()
    gaps[3, 2] = np.nan
    moved = partition.shifted(gaps, D4, 0, noise=0.1, offset=0.1)
    assert np.flatnonzero(np.isnan(moved)).tolist() == [3 * 6 + 2]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: partition.dirichlet_sizes(Y, 4, 0, 0), "alpha is 0"),
        (lambda: partition.lognormal_sizes(Y, 4, -1, 0), "sigma is -1"),
        (lambda: partition.power_sizes(Y, 4, float("nan"), 0), "exponent is nan"),
        (lambda: partition.power_sizes(Y[:3], 4, 1, 0), "3 samples are too few for 4 devices"),
        (lambda: partition.power_sizes(Y, 0, 1, 0), "0 devices: ask for at least one"),
        (lambda: partition.by_time(Y / 0.0, 4, 0, 0), "time is float64.*give one finite number"),
        (lambda: partition.by_time(Y, 4, -0.1, 0), "overlap is -0.1"),
        (lambda: partition.by_time(Y[:3], 4, 0, 0), "too few"),
        (lambda: partition.by_site(Y, 9, 0), "9 devices are too few for 10 sites"),
        (lambda: partition.by_site(Y / 2, 20, 0), "site is float64"),
        (lambda: partition.by_site(Y, 2000, 0), "too few for 2000 devices"),
        (lambda: partition.shifted(X, D4, 0, noise=-1), "noise is -1"),
        (lambda: partition.shifted(X, D4[:9], 0), r"device \(9,\)"),
        (lambda: partition.shifted(X, D4, 0, turn=True), "only square images"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_refusals_of_sizes_times_sites_and_shifts(call: Callable[[], object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        call()
