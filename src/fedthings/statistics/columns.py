"""The columns of a device's data, by name or by number: features in order, then the target, called y too."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from fedthings.errors import DataError, nearest
from fedthings.learn.data import Shard
from fedthings.vector import Array

SAMPLES = ""
"""The column that every sample has a value in, 0."""
SHOWN = 30
"""Columns that a message names at the most."""


def names(shard: Shard) -> tuple[str, ...]:
    """Return what the columns of `shard` are called: by number where they have no names."""
    features = prod(shard.X.shape[1:])
    return shard.columns or (*map(str, range(features)), "y")


def place(shard: Shard, column: str | int) -> int:
    """Return which column is meant: -1 is the target, and SAMPLES none. Raises DataError naming those there are."""
    if column == SAMPLES:
        return -1
    there = names(shard)
    features = len(there) - 1
    if isinstance(column, int):
        if 0 <= column < features:
            return column
    elif column in there[:features]:
        return there.index(column)
    elif column in ("y", there[-1]) and prod(shard.y.shape[1:]) == 1:
        return -1
    more = "" if len(there) <= SHOWN else f" and {len(there) - SHOWN} more"
    hint = nearest(str(column), there) if len(there) > SHOWN else ""
    known = f"there are {', '.join(there[:SHOWN])}{more}"
    raise DataError(f"no column {column!r}: {hint + '; ' if hint else ''}{known}")


def values(shard: Shard, column: str | int) -> Array:
    """Return the values `(n,)` float32 of a column in all samples, those for tests too; what is missing is NaN."""
    if column == SAMPLES:
        return np.zeros(len(shard.X) + len(shard.test_X), np.float32)
    at = place(shard, column)
    if at < 0:
        parts: Sequence[Array] = (shard.y.reshape(-1), shard.test_y.reshape(-1))
    else:
        parts = [X.reshape(len(X), prod(X.shape[1:]))[:, at] for X in (shard.X, shard.test_X)]
    found = np.concatenate([part.astype(np.float32) for part in parts])
    found[~np.isfinite(found)] = np.nan
    return found + np.float32(0)  # no negative zero
