"""Fleets that are made up: Synthetic(alpha, beta) of FedProx, and clusters for fleets of any size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np

from fedthings.errors import DataError
from fedthings.learn.data import Cohort
from fedthings.learn.fleet import Fleet
from fedthings.learn.names import Numbered
from fedthings.vector import Array, digest, keyed

FEATURES, CLASSES = 60, 10
"""Of Synthetic(alpha, beta)."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def synthetic(alpha: float, beta: float, devices: int = 30, seed: int = 0, iid: bool = False) -> Fleet:
    """Return Synthetic(alpha, beta) of Li et al. 2020 (section 5.1): 60 features, 10 classes, a tenth for testing.

    On device k, y = argmax(W x + b) with W and b ~ N(u_k, 1), u_k ~ N(0, alpha); x ~ N(v_k, Sigma) with Sigma
    diagonal, Sigma_jj = j^-1.2, and v_k ~ N(B_k, 1), B_k ~ N(0, beta). So alpha makes models differ and beta data.
    Sizes are lognormal(4, 2) + 50. `iid` is their IID variant: one W, b ~ N(0, 1) for all, x ~ N(0, Sigma). As in
    the authors' code, alpha and beta are standard deviations. Raises DataError.
    """
    if not (alpha >= 0 and beta >= 0):
        raise DataError(f"alpha is {alpha} and beta {beta}: give standard deviations, 0 or more")
    if devices < 1:
        raise DataError(f"devices is {devices}: give at least one")
    spread = np.arange(1, FEATURES + 1) ** -0.6  # the root of the variances
    common = keyed(seed, "synthetic")
    W, b = common.standard_normal((FEATURES, CLASSES)), common.standard_normal(CLASSES)
    Xs, ys, sizes = [], [], []
    for device in range(devices):
        rng = keyed(seed, "synthetic", device)
        size = int(rng.lognormal(4, 2)) + 50
        mean = np.zeros(FEATURES)
        if not iid:
            model, center = rng.normal(0, alpha), rng.normal(0, beta)
            mean = rng.normal(center, 1, FEATURES)
            W, b = rng.normal(model, 1, (FEATURES, CLASSES)), rng.normal(model, 1, CLASSES)
        X = mean + spread * rng.standard_normal((size, FEATURES))
        Xs.append(X.astype(np.float32))
        ys.append((X @ W + b).argmax(1))
        sizes.append(size)
    owner = np.repeat(np.arange(devices), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    split = place >= np.repeat([int(0.9 * size) for size in sizes], sizes)
    return Fleet.from_arrays(np.concatenate(Xs), np.concatenate(ys), owner, split)


def clusters(
    devices: int,
    features: int = 64,
    classes: int = 10,
    samples: int = 20,
    tests: int = 0,
    labels: int = 0,
    contrast: float = 4.0,
    seed: int = 0,
) -> Fleet:
    """Return a fleet of any size whose data is made when a device works: a million devices cost no memory.

    Each class is a Gaussian cluster around a prototype; prototypes lie `contrast` standard deviations from each
    other. A device has `samples` training and `tests` test samples of `labels` neighbouring classes, drawn for it
    (0: of all classes). A whole cohort is made at once, of integer counters keyed by seed and device (SplitMix64,
    Steele, Lea & Flood 2014) and a table of 65,536 Gaussian numbers. Raises DataError.
    """
    labels = labels or classes
    for name, value, least, most in (
        ("devices", devices, 1, 1 << 40),
        ("features", features, 1, 1 << 20),
        ("classes", classes, 2, 1 << 16),
        ("samples", samples, 1, 1 << 20),
        ("tests", tests, 0, 1 << 20),
        ("labels", labels, 1, classes),
    ):
        if not least <= value <= most:
            raise DataError(f"{name} is {value}: it must be from {least} to {most}")
    if not 0 <= contrast < np.inf:
        raise DataError(f"contrast is {contrast}: it must be 0 or more")
    drawn = keyed(seed, "clusters").standard_normal((classes, features))
    prototypes = (contrast / (2 * features) ** 0.5 * drawn).astype(np.float32)
    rows, blocks = samples + tests, -(-features // 4)
    base = np.uint64(digest(seed, "clusters") & (2**64 - 1))
    # Of each sample: a number for its label, then blocks of four features.
    counters = (np.arange(rows * (blocks + 1), dtype=np.uint64) + np.uint64(1)) * _GOLDEN

    all_names = Numbered(range(devices))

    def cohort(names: Sequence[str], at: Sequence[float]) -> Cohort:
        n = len(names)
        words = _mixed(base + (all_names.places(names).astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        bits = _mixed(words[:, None] + counters)
        first = _below(words >> np.uint64(32), classes)[:, None]
        y = (first + _below(bits[:, :rows] >> np.uint64(32), labels)).reshape(-1) % classes
        noise = bits[:, rows:].astype("<u8", copy=False).view("<u2").reshape(n * rows, 4 * blocks)
        X = np.take(_normal(), noise[:, :features])
        X += prototypes[y]
        start = rows * np.arange(n)
        return Cohort(X, y, np.stack([start, start + samples, start + rows], -1))

    return Fleet.from_function(
        lambda name, at: cohort([name], [at])[0], all_names, size=(samples, tests), cohort=cohort
    )


def _mixed(bits: Array) -> Array:
    """Return the counters `bits` as random words, in their own memory: SplitMix64's last step."""
    bits ^= bits >> np.uint64(30)
    bits *= _FIRST
    bits ^= bits >> np.uint64(27)
    bits *= _SECOND
    bits ^= bits >> np.uint64(31)
    return bits


def _below(words: Array, most: int) -> Array:
    """Return numbers below `most` of words of 32 bits, int64."""
    return ((words * np.uint64(most)) >> np.uint64(32)).astype(np.int64)


@cache
def _normal() -> Array:
    """Return the quantiles of the standard normal distribution in the middles of 65,536 equal parts, float32."""
    quantile = NormalDist().inv_cdf
    return np.array([quantile((i + 0.5) / 65536) for i in range(65536)], np.float32)
