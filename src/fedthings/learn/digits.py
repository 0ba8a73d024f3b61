"""scikit-learn's bundled handwritten digits, unevenly over devices: real data, nothing to fetch."""

from __future__ import annotations

import numpy as np

from fedthings.errors import DataError
from fedthings.learn.fleet import Fleet
from fedthings.learn.partition import mixed
from fedthings.vector import keyed

LEAST = 20
"""Samples that every device has; of these a fifth are its test samples."""


def digits(devices: int = 10, seed: int = 0) -> Fleet:
    """Return 1,797 images of 8x8, as 64 features from 0 to 1, unevenly over `devices` devices.

    The devices differ in size (shares from Dirichlet(2)) and in their mix of digits (Dirichlet, 1 a class).
    Raises DataError where scikit-learn is missing or there are too many devices.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the digits come with scikit-learn, which is not installed: pip install 'fedthings[demo]'"
        ) from None
    X, y = load_digits(return_X_y=True)
    spare = len(y) - LEAST * devices
    if devices < 1 or spare < 0:
        raise DataError(f"devices is {devices}: the digits can be split over 1 to {len(y) // LEAST} devices")
    rng = keyed(seed, "digits")
    edges = np.rint(np.cumsum(rng.dirichlet(np.full(devices, 2.0))) * spare).astype(np.int64)
    edges[-1] = spare
    sizes = LEAST + np.diff(edges, prepend=0)
    # `mixed` takes alpha times the prior of each class, here a tenth.
    owner = mixed(y, sizes, 10.0, rng)
    split = np.zeros(len(y), np.int8)
    for device, size in enumerate(sizes):
        split[rng.permutation(np.flatnonzero(owner == device))[: size // 5]] = 1
    return Fleet.from_arrays(np.asarray(X, np.float32) / 16, y, owner, split)
