"""A device's own rows: what a shard is, and whether it fits a task. Loading and dividing are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from fedthings.errors import DataError
from fedthings.learn.filled import Forest
from fedthings.learn.layers import Embedding
from fedthings.learn.model import prepare
from fedthings.vector import Array

if TYPE_CHECKING:
    from fedthings.learn.task import Task


class Shard(NamedTuple):
    """A device: `X` `(n, *shape)` float32, `y` `(n,)` int64 or `(n,)`/`(n, k)` float32; its test rows.

    `columns` are what its features are called, and its target, in order; () where they have no names.
    """

    X: Array
    y: Array
    test_X: Array  # noqa: N815
    test_y: Array
    columns: tuple[str, ...] = ()


class Cohort(Sequence[Shard]):
    """The shards of n devices in one table: `bounds` `(n, 3)` are where training rows start, stop, test rows stop."""

    def __init__(self, X: Array, y: Array, bounds: Array, columns: tuple[str, ...] = ()) -> None:
        self.X, self.y, self.bounds, self.columns = X, y, bounds, columns

    def __len__(self) -> int:
        return len(self.bounds)

    @overload
    def __getitem__(self, i: int) -> Shard: ...
    @overload
    def __getitem__(self, i: slice) -> Cohort: ...
    def __getitem__(self, i: int | slice) -> Shard | Cohort:
        """Return device i's shard, as views, or a part of the cohort."""
        if isinstance(i, slice):
            return Cohort(self.X, self.y, self.bounds[i], self.columns)
        start, middle, stop = self.bounds[i].tolist()
        X, y = self.X, self.y
        return Shard(X[start:middle], y[start:middle], X[middle:stop], y[middle:stop], self.columns)


def sizes(shards: Sequence[Shard]) -> Array:
    """Return how many training samples each device has, `(n,)` int64."""
    if isinstance(shards, Cohort):
        return np.subtract(shards.bounds[:, 1], shards.bounds[:, 0])
    return np.array([len(shard.X) for shard in shards], np.int64)


def test_sizes(shards: Sequence[Shard]) -> Array:
    """Return how many test samples each device has, `(n,)` int64."""
    if isinstance(shards, Cohort):
        return np.subtract(shards.bounds[:, 2], shards.bounds[:, 1])
    return np.array([len(shard.test_X) for shard in shards], np.int64)


def check(shard: Shard, task: Task, name: str) -> None:
    """Raise DataError with the device `name`, what is wrong and a remedy, unless `shard` fits `task`."""
    if not len(shard.X):
        raise DataError(f"{name} has no training samples: give it some, or leave the device out")
    for part, X, y in (("X", shard.X, shard.y), ("test_X", shard.test_X, shard.test_y)):
        if not len(X) and part == "test_X":
            continue
        if len(X) != len(y):
            raise DataError(f"{name}: {part} has {len(X)} samples and {len(y)} targets: give one for each")
        _samples(f"{name}: {part}", X, task)
        _targets(f"{name}: {part.replace('X', 'y')}", y, task)


def check_test(test: tuple[Array, Array], task: Task) -> None:
    """Raise DataError unless the central test set `(X, y)` fits `task`; where it has windows, X are windows."""
    if not isinstance(test, tuple) or len(test) != 2:
        raise DataError(f"the test set is {type(test).__name__}: give (X, y)")
    X, y = test
    shard, name = Shard(X, y, X[:0], y[:0]), "the test set"
    if len(X) != len(y) or not len(X):
        raise DataError(f"{name} has {len(X)} samples and {len(y)} targets: give one for each, and at least one")
    check(shard, task, name)


def check_all(shards: Sequence[Shard], task: Task, names: Sequence[str], at: Sequence[float]) -> None:
    """Raise DataError with the device and its time `at` (seconds), what is wrong and a remedy, unless all fit."""
    if isinstance(shards, Cohort) and sizes(shards).all():
        try:
            check(Shard(shards.X, shards.y, shards.X[:0], shards.y[:0]), task, "the table")
            return
        except DataError:  # whose it is, if it is anyone's of these, is found below
            pass
    for shard, name, when in zip(shards, names, at, strict=True):
        check(shard, task, f"{name} at {when:g} s")


def _samples(where: str, X: Array, task: Task) -> None:
    """Check shape and numbers of the samples."""
    if X.shape[1:] != task.model.input:
        raise DataError(
            f"{where} has samples of shape {X.shape[1:]}, the model takes {task.model.input}: "
            "reshape the data, or change the model's input"
        )
    if X.dtype.kind not in "fiub":
        raise DataError(f"{where} is {X.dtype}: convert it to float32")
    if np.isinf(X).any():
        raise DataError(f"{where} has {_first(np.isinf(X))} infinite: repair the value or set it to NaN")
    _looked_up(where, X, task)
    front = getattr(task.model, "layers", ())[:1]
    gaps = task.normalise == "fleet" or task.model.stem or any(isinstance(layer, Forest) for layer in front)
    if np.isnan(X).any() and not gaps:
        layers = 'set normalise="fleet", or put impute(0.0) first in the model'
        raise DataError(
            f"{where} has {_first(np.isnan(X))} missing (NaN): {layers if task.model.passes else 'fill the gaps first'}"
        )


def _looked_up(where: str, X: Array, task: Task) -> None:
    """Check the numbers of which an embedding that stands in front, behind preparation alone, looks up vectors."""
    model = task.model
    layer = model.layers[model.stem] if model.passes and model.stem < len(model.layers) else None
    if not isinstance(layer, Embedding):
        return
    read = prepare(model, X[None].astype(np.float32, copy=False))[0]
    numbers = read if layer.column is None else read[..., layer.column]
    wrong = ((numbers < 0) | (numbers >= layer.rows) | (numbers != np.rint(numbers))) & ~np.isnan(numbers)
    if wrong.any():
        raise DataError(
            f"{where} has {numbers[wrong][0]:g} where layer {model.stem} (embedding) looks up a vector: it takes whole "
            f"numbers from 0 to {layer.rows - 1}; number the categories so, or give it more rows"
        )


def _targets(where: str, y: Array, task: Task) -> None:
    """Check that the targets are what the loss compares outputs with."""
    outputs = task.model.outputs
    if task.loss in ("reconstruction", "nearest"):
        return
    if y.dtype.kind not in "fiub":
        raise DataError(f"{where} is {y.dtype}: number the classes, or convert it to float32")
    if not np.isfinite(y).all():
        raise DataError(f"{where} has {_first(~np.isfinite(y))} not finite: leave such samples out")
    width = prod(y.shape[1:])
    if task.loss == "cross_entropy":
        if width != 1:
            raise DataError(f"{where} has shape {y.shape}: give one class number for each sample")
        if (y != np.rint(y)).any():
            wrong = y[y != np.rint(y)][0]
            raise DataError(f"{where} has the label {wrong}: cross_entropy takes whole class numbers")
        if y.min() < 0 or y.max() >= outputs[0]:
            wrong = y.min() if y.min() < 0 else y.max()
            raise DataError(
                f"{where} has the label {wrong:g}, the model has {outputs[0]} outputs: labels go from 0 to "
                f"{outputs[0] - 1}; renumber them, or give the last layer more units"
            )
    elif width != prod(outputs):
        raise DataError(
            f"{where} has {width} targets a sample, the model has {prod(outputs)} outputs: "
            f"give the last layer {width} units, or choose the targets"
        )
    elif task.loss == "binary_cross_entropy" and not np.isin(y, (0, 1)).all():
        raise DataError(
            f"{where} has the label {y[~np.isin(y, (0, 1))][0]:g}: binary_cross_entropy takes 0 and 1; "
            "for more classes use cross_entropy"
        )


def _first(wrong: Array) -> str:
    """Say where the first wrong number stands, and how many there are."""
    sample, *feature = np.argwhere(wrong)[0].tolist()
    place = f", feature {', '.join(map(str, feature))}" if feature else ""
    return f"{int(wrong.sum())} of {wrong.size} numbers (the first: sample {sample}{place})"
