"""Partitioners: which sample goes to which device, where the data has no owners of its own.

Each returns the `device` array `(n,)` int64, gives every device at least one sample, and draws by its seed alone.
They compose: `by_site(shards(y, 5, 2, seed), 50, seed)` is ten devices at each of five sites of two labels each.
`shifted` makes the samples themselves differ from device to device.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from fedthings.errors import DataError
from fedthings.vector import Array, keyed


def iid(y: ArrayLike, devices: int, seed: int) -> Array:
    """Return devices of equal size (within one sample), samples at random (McMahan et al. 2017, section 3).

    Raises DataError.
    """
    n = len(np.asarray(y))
    _enough(n, devices, "devices")
    owner = np.empty(n, np.int64)
    owner[keyed(seed, "partition.iid").permutation(n)] = np.arange(n) * devices // n
    return owner


def shards(y: ArrayLike, devices: int, per_device: int, seed: int) -> Array:
    """Return devices of `per_device` shards of samples sorted by label (McMahan et al. 2017, section 3).

    Raises DataError.
    """
    labels = _labels(y)
    n, count = len(labels), devices * per_device
    if per_device < 1:
        raise DataError(f"per_device is {per_device}: give each device at least one shard")
    _enough(n, count, f"shards ({devices} devices with {per_device} each)")
    drawn = keyed(seed, "partition.shards").permutation(count) // per_device
    owner = np.empty(n, np.int64)
    owner[np.argsort(labels, kind="stable")] = drawn[np.arange(n) * count // n]
    return owner


def dirichlet(y: ArrayLike, devices: int, alpha: float, seed: int) -> Array:
    """Return devices of equal size, each with its own mix of labels drawn from Dirichlet(alpha * prior).

    Small `alpha`: few labels a device; large: all alike (Hsu et al. 2019, section 3). Raises DataError.
    """
    labels = _labels(y)
    _enough(len(labels), devices, "devices")
    sizes = np.diff(np.arange(devices + 1) * len(labels) // devices)
    return mixed(labels, sizes, alpha, keyed(seed, "partition.dirichlet"))


def dirichlet_sizes(y: ArrayLike, devices: int, alpha: float, seed: int) -> Array:
    """Return devices of unequal size, their shares drawn from Dirichlet(alpha); samples at random.

    Small `alpha`: few have nearly all; large: all alike (quantity skew of NIID-Bench, Li Q. et al. 2022).
    Raises DataError.
    """
    _above("alpha", alpha)
    return _sized(y, devices, keyed(seed, "partition.dirichlet_sizes"), lambda rng: _gammas(rng, alpha, devices))


def lognormal_sizes(y: ArrayLike, devices: int, sigma: float, seed: int) -> Array:
    """Return devices of unequal size, its logarithm with standard deviation `sigma`; samples at random.

    With 2 it is how the data sets of FedProx are divided (Li et al. 2020, section 5.1 and code). Raises DataError.
    """
    if not 0 <= sigma <= 20:
        raise DataError(f"sigma is {sigma}: it must be from 0 (all alike) to 20")
    rng = keyed(seed, "partition.lognormal_sizes")
    return _sized(y, devices, rng, lambda rng: np.exp(sigma * rng.standard_normal(devices)))


def power_sizes(y: ArrayLike, devices: int, exponent: float, seed: int) -> Array:
    """Return devices of which the i-th largest has about i^-exponent as much as the largest; samples at random.

    A power law of sizes (Li et al. 2020, section 5.1); which device is the largest is drawn. Raises DataError.
    """
    if not 0 <= exponent <= 20:
        raise DataError(f"exponent is {exponent}: it must be from 0 (all alike) to 20")
    rng = keyed(seed, "partition.power_sizes")
    return _sized(y, devices, rng, lambda rng: rng.permutation(np.arange(1, devices + 1) ** -float(exponent)))


def by_time(time: ArrayLike, devices: int, overlap: float, seed: int) -> Array:
    """Return devices of equal size, each with a window of the time: device i's starts later than device i - 1's.

    `overlap` widens the windows: 0 cuts time into one piece a device, 0.5 spreads each over half of all samples, and
    a large one over all (temporal skew, Kairouz et al. 2021, section 3.1). `time` `(n,)` is any number that
    grows. Raises DataError.
    """
    when = np.asarray(time)
    if when.ndim != 1 or when.dtype.kind not in "iufM" or not np.isfinite(when).all():
        raise DataError(f"time is {when.dtype} with the shape {when.shape}: give one finite number a sample")
    if not 0 <= overlap < np.inf:
        raise DataError(f"overlap is {overlap}: it must be 0 (one piece of time a device) or more")
    n = len(when)
    _enough(n, devices, "devices")
    rank = np.empty(n)
    rank[np.argsort(when, kind="stable")] = (np.arange(n) + 0.5) / n
    rank += overlap * (keyed(seed, "partition.by_time").random(n) - 0.5)
    return _dealt(np.argsort(rank, kind="stable"), np.diff(np.arange(devices + 1) * n // devices))


def by_site(site: ArrayLike, devices: int, seed: int) -> Array:
    """Return devices that each belong to one site, with samples of it at random; a larger site has more devices.

    `site` `(n,)` is where each sample is from: a building, a region, or the `device` array of another partitioner,
    for two levels (in the manner of pachinko allocation, Reddi et al. 2021). Devices of a site have neighbouring
    numbers. Raises DataError.
    """
    where = np.asarray(site)
    if where.ndim != 1 or where.dtype.kind not in "biuUS":
        raise DataError(f"site is {where.dtype} with the shape {where.shape}: give one name or whole number a sample")
    values, codes, sizes = np.unique(where, return_inverse=True, return_counts=True)
    if devices < len(values):
        raise DataError(f"{devices} devices are too few for {len(values)} sites: each needs at least one")
    _enough(len(where), devices, "devices")
    shares = np.ones(len(values), np.int64)
    for _ in range(devices - len(values)):  # the next one goes where most samples share a device
        shares[np.argmax(np.where(sizes > shares, sizes / shares, 0))] += 1
    order = keyed(seed, "partition.by_site").permutation(len(where))
    order = order[np.argsort(codes[order], kind="stable")]
    within = [np.diff(np.arange(share + 1) * size // share) for share, size in zip(shares, sizes, strict=True)]
    return _dealt(order, np.concatenate(within))


def shifted(
    X: ArrayLike,
    device: ArrayLike,
    seed: int,
    noise: float = 0.0,
    gain: float = 0.0,
    offset: float = 0.0,
    turn: bool = False,
) -> Array:
    """Return the samples as the sensors of different devices would see them, float32 of the same shape.

    `noise`: Gaussian noise, of variance `noise` * i / N on the i-th of N devices (NIID-Bench, Li Q. et al. 2022).
    `gain` and `offset`: each feature of a device is off by a factor 1 + N(0, gain) and by N(0, offset) of the
    feature's standard deviation, for good: calibration. `turn`: images `(n, side, side, ...)` of the i-th device
    are turned by i quarters (rotated MNIST, Ghosh et al. 2020). Raises DataError.
    """
    for name, value in (("noise", noise), ("gain", gain), ("offset", offset)):
        if not 0 <= value < np.inf:
            raise DataError(f"{name} is {value}: it must be 0 or more")
    samples, owner = np.array(X, np.float32), np.asarray(device)
    if samples.ndim < 2 or owner.shape != samples.shape[:1]:
        raise DataError(
            f"X has the shape {samples.shape} and device {owner.shape}: give (n, ...) samples and one device for each"
        )
    if turn and (samples.ndim < 3 or samples.shape[1] != samples.shape[2]):
        raise DataError(f"X has the shape {samples.shape}: only square images (n, side, side, ...) can be turned")
    scale = np.nanstd(samples, 0) if offset else np.float32(0)
    codes = np.unique(owner, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    edges = np.cumsum(np.bincount(codes))
    for i, rows in enumerate(np.split(order, edges[:-1])):
        own = samples[rows]
        if turn:
            own = np.rot90(own, i % 4, (1, 2))
        if gain or offset:
            errors = keyed(seed, "partition.calibration", i).standard_normal((2, *own.shape[1:]))
            own = own * (1 + gain * errors[0]) + offset * scale * errors[1]
        if noise:
            grain = keyed(seed, "partition.noise", i).standard_normal(own.shape, np.float32)
            own = own + (noise * (i + 1) / len(edges)) ** 0.5 * grain
        samples[rows] = own
    return samples


def mixed(labels: Array, sizes: Array, alpha: float, rng: np.random.Generator) -> Array:
    """Return device i of `sizes[i]` samples with a Dirichlet mix of labels; the sizes sum to all samples.

    Raises DataError.
    """
    _above("alpha", alpha)
    if np.min(sizes, initial=0) < 0 or np.sum(sizes) != len(labels):
        raise DataError(f"sizes are {np.sum(sizes)} together, of {len(labels)} samples: divide all, none below 0")
    _, codes, left = np.unique(labels, return_inverse=True, return_counts=True)
    mixes = rng.dirichlet(alpha * left / len(labels), size=len(sizes))
    # Samples of a class in random order, taken from the front: `front[c]` is the next one of class c.
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    front = np.cumsum(left) - left
    owner = np.empty(len(labels), np.int64)
    for device, size in enumerate(sizes):
        wanted = int(size)
        while wanted:
            # What an exhausted class would have given is drawn anew from the others.
            share = np.where(left > 0, mixes[device], 0.0)
            share = share / share.sum() if share.sum() > 0 else left / left.sum()
            taken = np.minimum(rng.multinomial(wanted, share), left)
            for c in np.flatnonzero(taken):
                owner[by_class[front[c] : front[c] + taken[c]]] = device
            front, left, wanted = front + taken, left - taken, wanted - int(taken.sum())
    return owner


def _sized(
    y: ArrayLike, devices: int, rng: np.random.Generator, shares: Callable[[np.random.Generator], Array]
) -> Array:
    """Return devices that have one sample each, and of the others what their `shares` `(devices,)` are worth."""
    n = len(np.asarray(y))
    _enough(n, devices, "devices")
    share = shares(rng)
    edges = np.rint(np.cumsum(share) / share.sum() * (n - devices)).astype(np.int64)
    return _dealt(rng.permutation(n), 1 + np.diff(edges, prepend=0))


def _gammas(rng: np.random.Generator, alpha: float, n: int) -> Array:
    """Return a draw of Dirichlet(alpha) before it is divided by its sum; also where all would be 0 (tiny alpha)."""
    # log Gamma(a) = log Gamma(a + 1) + log(U) / a, for a U in (0, 1].
    logs = np.log(rng.standard_gamma(alpha + 1, n)) + np.log(1 - rng.random(n)) / alpha
    return np.asarray(np.exp(logs - logs.max()))


def _dealt(order: Array, sizes: Array) -> Array:
    """Return the device of each sample where the samples in `order` are dealt out, `sizes[i]` to device i."""
    owner = np.empty(len(order), np.int64)
    owner[order] = np.repeat(np.arange(len(sizes)), sizes)
    return owner


def _above(name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise DataError(f"{name} is {value}: it must be above 0")


def _labels(y: ArrayLike) -> Array:
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.dtype.kind not in "biuUS":
        raise DataError(
            f"y is {labels.dtype} with the shape {labels.shape}: by label needs one class a sample; "
            "use partition.iid for real targets"
        )
    return labels


def _enough(n: int, parts: int, what: str) -> None:
    if parts < 1:
        raise DataError(f"{parts} {what}: ask for at least one")
    if n < parts:
        raise DataError(f"{n} samples are too few for {parts} {what}: each needs at least one")
