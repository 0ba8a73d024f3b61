"""Partitioners: which sample goes to which device, where the data has no owners of its own.

Each returns the `device` array `(n,)` int64 and gives every device at least one sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedthings.errors import DataError
from fedthings.vector import Array, keyed


def iid(y: ArrayLike, devices: int, seed: int) -> Array:
    """Return devices of equal size (within one sample) with samples drawn at random. Raises DataError."""
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


def mixed(labels: Array, sizes: Array, alpha: float, rng: np.random.Generator) -> Array:
    """Return device i of `sizes[i]` samples with a Dirichlet mix of labels; the sizes sum to all samples.

    Raises DataError.
    """
    if not alpha > 0:
        raise DataError(f"alpha is {alpha}: it must be above 0")
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
