"""Data that a function makes when it is asked for: it may arrive over time, and who never works costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from fedthings.errors import DataError
from fedthings.learn.data import Cohort, Shard, sizes, test_sizes
from fedthings.learn.names import Names, places
from fedthings.learn.tables import table
from fedthings.vector import Array

Making: TypeAlias = Callable[[str, float], Any]
"""`(name, at) -> Shard`, `(X, y)` or `(X, y, test_X, test_y)`: what the device has at time `at` (seconds)."""
MakingMany: TypeAlias = Callable[[Sequence[str], Sequence[float]], Sequence[Shard]]
"""`(names, ats) -> shards`: the same for many at once, best as one `Cohort`."""
Size: TypeAlias = int | tuple[int, int]
"""How many training samples, or how many of these and of test samples."""
MOST = 1000
"""Devices whose data is made only to count it."""


class Stream:
    """The data that `make` says each of `names` has; `count` says how much without making it."""

    fixed = False

    def __init__(
        self, make: Making, names: Names, count: Size | Callable[[str, float], Size] | None, many: MakingMany | None
    ) -> None:
        self.make, self.names, self.count, self.many = make, names, count, many
        self._like: Shard | None = None  # an empty shard of the shapes and types that all have
        self._like = _nothing_of(self.cohort(names[:1], [0.0])[0])

    def described(self) -> str:
        """Return what there is."""
        assert self._like is not None
        return f"made by a function, X {self._like.X.shape[1:]}"

    @property
    def sizes(self) -> Array:
        """How many training samples each device has at time 0, `(n,)`. Raises DataError."""
        return self._counted[:, 0]

    @property
    def test_sizes(self) -> Array:
        """How many test samples each device has at time 0, `(n,)`. Raises DataError."""
        return self._counted[:, 1]

    @cached_property
    def _counted(self) -> Array:
        n = len(self.names)
        if isinstance(self.count, int | tuple):
            return np.broadcast_to(np.array(_pair(self.count), np.int64), (n, 2))
        if self.count is None and n > MOST:
            raise DataError(
                f"how much data {n:,} devices have is known only by making it: "
                "give Fleet.from_function size=, or ask fleet.counts(name, at) for one"
            )
        return np.array([self.counts(name, 0.0) for name in self.names], np.int64)

    def counts(self, name: str, at: float) -> tuple[int, int]:
        """Return how many training and test samples `name` has at `at`. Raises DataError."""
        if isinstance(self.count, int | tuple):
            places(self.names, [name])
            return _pair(self.count)
        if self.count is not None:
            places(self.names, [name])
            return _pair(self.count(name, at))
        shard = self.cohort([name], [at])[0]
        return len(shard.X), len(shard.test_X)

    def cohort(self, names: Sequence[str], at: Sequence[float]) -> Sequence[Shard]:
        """Return the shards that `names` have at their times. Raises DataError with device, time and remedy."""
        places(self.names, names)
        if self.many is None:
            made: Sequence[Shard] = [
                self._shard(_asked(self.make, name, when), name, when) for name, when in zip(names, at, strict=True)
            ]
        else:
            made = _asked(self.many, names, at)
            if not isinstance(made, Sequence) or len(made) != len(names):
                raise DataError(f"cohort= returned {_kind(made)} for {len(names)} devices: return one shard for each")
            if not isinstance(made, Cohort) or not self._fits(made):
                made = [self._shard(*one) for one in zip(made, names, at, strict=True)]
        self._agree(made, names, at)
        return made

    def _fits(self, made: Cohort) -> bool:
        """Return whether a table has what all shards have; where not, they are looked at one by one."""
        like = self._like
        if like is None or made.X.dtype != np.float32 or made.y.dtype != like.y.dtype or len(made.X) != len(made.y):
            return False
        start, middle, stop = made.bounds.T
        whole = (start >= 0) & (start < middle) & (middle <= stop) & (stop <= len(made.X))
        return bool(whole.all()) and made.X.shape[1:] == like.X.shape[1:] and made.y.shape[1:] == like.y.shape[1:]

    def _shard(self, made: Any, name: str, at: float) -> Shard:
        """Return what a function has made as a shard, in the types that learning takes."""
        where, columns = f"{name} at {at:g} s", made.columns if isinstance(made, Shard) else ()
        made = made[:4] if isinstance(made, Shard) else made
        if not isinstance(made, tuple | list) or len(made) not in (2, 4):
            raise DataError(
                f"{where}: the function returned {_kind(made)}: return (X, y), (X, y, test_X, test_y) or a Shard"
            )
        if not len(made[0]):
            raise DataError(
                f"{where} has no training samples: return at least one at all times, "
                "or let the world keep the device away until it has some"
            )
        parts = _arrays(made[0], made[1], where)
        like = self._like or Shard(parts[0][:0], parts[1][:0], parts[0][:0], parts[1][:0])
        tests = like[2:4]
        if len(made) == 4 and len(made[2]):
            tests = _arrays(made[2], made[3], f"{where}: test samples")
        shard = Shard(*parts, *tests, columns)
        for part, array, other in zip(Shard._fields[:4], shard[:4], like[:4], strict=True):
            if array.shape[1:] != other.shape[1:] or array.dtype != other.dtype:
                raise DataError(
                    f"{where}: {part} holds {array.dtype} of shape {array.shape[1:]} a sample, "
                    f"{self.names[0]} at 0 s {other.dtype} of shape {other.shape[1:]}: make all alike, "
                    "as the model takes them"
                )
        return shard

    def _agree(self, made: Sequence[Shard], names: Sequence[str], at: Sequence[float]) -> None:
        """Raise DataError where there is another number of samples than size= says."""
        if self.count is None:
            return
        found = np.stack([sizes(made), test_sizes(made)], -1)
        if isinstance(self.count, int | tuple):
            said = np.broadcast_to(np.array(_pair(self.count)), found.shape)
        else:
            said = np.array([_pair(self.count(name, when)) for name, when in zip(names, at, strict=True)])
        wrong = np.flatnonzero((found != said).any(1))
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"{names[first]} at {at[first]:g} s has {found[first, 0]} training and {found[first, 1]} test samples, "
                f"size= says {said[first, 0]} and {said[first, 1]}: make both the same, or leave size= out"
            )


def _nothing_of(shard: Shard) -> Shard:
    return Shard(shard.X[:0], shard.y[:0], shard.test_X[:0], shard.test_y[:0], shard.columns)


def _asked(function: Callable[[Any, Any], Any], who: Any, at: Any) -> Any:
    """Return what a user's function says; an error of its own tells for whom and when."""
    try:
        return function(who, at)
    except Exception as error:
        if isinstance(who, str):
            error.add_note(f"while the fleet's function made the data of {who} at {at:g} s")
        raise


def _arrays(X: Any, y: Any, where: str) -> tuple[Array, Array]:
    """Return samples and targets, checked and converted."""
    samples = table(X, y, where=where)
    if samples.classes:
        raise DataError(f"{where}: y has text labels such as {samples.classes[0]!r}: number them, alike on all devices")
    return samples.X, samples.y


def _pair(size: Size) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, tuple) else (int(size), 0)


def _kind(made: Any) -> str:
    return f"{type(made).__name__} of {len(made)}" if hasattr(made, "__len__") else type(made).__name__
