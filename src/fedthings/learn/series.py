"""Rows in the order of time as windows: what a device does with its series before it trains or predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.lib.stride_tricks import sliding_window_view

from fedthings.errors import DataError, SpecError
from fedthings.learn.data import Shard
from fedthings.learn.element import Shape, positive
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload

if TYPE_CHECKING:
    from fedthings.learn.task import Task


class Window(Struct, frozen=True, forbid_unknown_fields=True):
    """A sample is `steps` rows `(steps, features)`, the next begins `stride` rows later.

    Its target is that of its last row, or of the row `ahead` of it. A device's training rows are one series in the
    order of time, and so are its test rows. By default each row is a sample.
    """

    steps: int = 1
    stride: int = 1
    ahead: int = 0

    def __post_init__(self) -> None:
        positive("window.steps", self.steps)
        positive("window.stride", self.stride)
        if self.ahead < 0:
            raise SpecError(f"window.ahead is {self.ahead}: it must be 0 or more")

    @property
    def plain(self) -> bool:
        """Whether each row is a sample."""
        return self == Window()

    def count(self, rows: int) -> int:
        """Return how many samples `rows` rows make."""
        return max(0, (rows - self.steps - self.ahead) // self.stride + 1)

    def fits(self, given: Shape) -> None:
        """Raise SpecError unless a model takes samples of this window."""
        if self.steps > 1 and (len(given) < 2 or given[0] != self.steps):
            raise SpecError(
                f"task.window has {self.steps} steps and the model takes {given}: give the model the input "
                f"({self.steps}, features)"
            )

    def shard(self, rows: Shard) -> Shard:
        """Return the samples in a device's rows; those of X are views."""
        X, y = self._samples(rows.X, rows.y)
        test_X, test_y = self._samples(rows.test_X, rows.test_y)
        return rows._replace(X=X, y=y, test_X=test_X, test_y=test_y)

    def check(self, rows: Shard, name: str) -> None:
        """Raise DataError where the rows of device `name` make no sample, though there are some."""
        least = self.steps + self.ahead
        if 0 < len(rows.X) < least:
            raise DataError(
                f"{name} has {len(rows.X)} training rows, and one sample takes {least} (task.window): collect more, or "
                "leave the device out"
            )

    def _samples(self, X: Array, y: Array) -> tuple[Array, Array]:
        count, first = self.count(len(X)), self.steps - 1 + self.ahead
        stop = first + (count - 1) * self.stride + 1 if count else first
        return windows(X, self.steps)[: count * self.stride : self.stride][:count], y[first : stop : self.stride]


def windows(X: Array, steps: int) -> Array:
    """Return each `steps` rows of `X` `(n, ...)` that stand together, `(n - steps + 1, steps, ...)`, as a view."""
    if steps == 1:
        return X
    if len(X) < steps:
        return np.empty((0, steps, *X.shape[1:]), X.dtype)
    return np.moveaxis(sliding_window_view(X, steps, axis=0), -1, 1)


def as_samples(X: Array, given: Shape) -> Array:
    """Return samples for a model that takes `given`: where `X` holds rows of a series, each window that ends in one."""
    if X.ndim == len(given) and X.shape[1:] == given[1:] and len(given) > 1:
        return windows(X, given[0])
    return X


def windowed(task: Task, learner: Learner) -> Learner:
    """Return `learner` for shards that hold rows, which it sees as the samples of the task's window."""
    if task.window.plain:
        return learner

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        return learner.many(models, states, [task.window.shard(rows) for rows in shards], keys, efforts)

    return Learner(learner.init, alone(many), many)
