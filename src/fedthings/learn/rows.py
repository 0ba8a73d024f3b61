"""A fleet's samples in one table, sorted by participant: shards are slices of it, and nobody's data is copied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedthings.errors import DataError
from fedthings.learn.data import Cohort
from fedthings.learn.names import Names, places
from fedthings.learn.tables import Table
from fedthings.vector import Array


class Rows:
    """The samples of `names`; `codes` `(samples,)` is the place among them of each sample's participant."""

    fixed = True

    def __init__(self, samples: Table, codes: Array, names: Names) -> None:
        key = 2 * codes + samples.test
        counts = np.bincount(key, minlength=2 * len(names))
        if (key[1:] >= key[:-1]).all():
            self.X, self.y = samples.X, samples.y
        else:
            order = np.argsort(key, kind="stable")
            self.X, self.y = samples.X[order], samples.y[order]
        # Training samples of i lie in bounds[2i]:bounds[2i + 1], its test samples after them.
        self.bounds = np.concatenate([[0], np.cumsum(counts)])
        self.names, self.columns = names, samples.columns
        self.sizes: Array = counts[0::2]
        self.test_sizes: Array = counts[1::2]
        empty = np.flatnonzero(self.sizes == 0)
        if len(empty):
            more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
            raise DataError(f"{names[empty[0]]}{more} has no training samples: give it some (split 0) or leave it out")

    def described(self) -> str:
        """Return what there is."""
        samples = f"{self.sizes.sum():,} training and {self.test_sizes.sum():,} test samples"
        return f"{samples}, X {self.X.shape[1:]}"

    def cohort(self, names: Sequence[str], at: Sequence[float]) -> Cohort:
        """Return the shards of `names`, the same at all times."""
        bounds = self.bounds[2 * places(self.names, names)[:, None] + np.arange(3)]
        return Cohort(self.X, self.y, bounds, self.columns)

    def counts(self, name: str, at: float) -> tuple[int, int]:
        """Return how many training and test samples `name` has."""
        place = places(self.names, [name])[0]
        return int(self.sizes[place]), int(self.test_sizes[place])
