"""What a statistic is of: the samples as the model's last layers see them, and those layers, which it fills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.data import Shard
from fedthings.learn.element import snake
from fedthings.learn.layers import Dense
from fedthings.learn.model import Sequential, chunk
from fedthings.learn.task import Task
from fedthings.vector import Array


def features(model: Sequential, row: Array, X: Array, last: int = 1) -> Array:
    """Return what the last layers of `model` are given for samples `X` `(n, *input)`, `(n, f)` float64.

    What is before them stays as it is in `row` `(dim,)`: scaling, imputation, or an extractor that was trained.
    """
    weights, front = model.split(row[None].astype(np.float64)), len(model.layers) - last
    parts = []
    for start in range(0, max(len(X), 1), chunk(model)):
        part: Any = X[None, start : start + chunk(model)].astype(np.float64)
        for i in range(front):
            part, _ = model.passes[i].forward(weights[i], part, None)
        parts.append(part[0])
    return np.concatenate(parts)


def parts(
    model: Sequential, shard: Shard, row: Array, last: int = 1, size: int = 1 << 14
) -> Iterator[tuple[Array, Array]]:
    """Yield features and targets of some thousand training samples of a device at a time."""
    for start in range(0, len(shard.X), size):
        some = slice(start, start + size)
        yield features(model, row, shard.X[some], last), shard.y[some]


def filled(model: Sequential, row: Array, *last: Mapping[str, Array]) -> Array:
    """Return `row` `(dim,)` with the arrays of the `last` layers replaced, those named of each, in order."""
    made = row.astype(np.float32)
    own = model.split(made[None])[len(model.layers) - len(last) :]
    for layer, arrays in zip(own, last, strict=True):
        for name, array in arrays.items():
            layer[name][0] = array
    return made


def held(model: Sequential, row: Array) -> dict[str, Array]:
    """Return the arrays of the last layer in `row` `(dim,)`, float64."""
    return {name: array[0] for name, array in model.split(row[None].astype(np.float64))[-1].items()}


def width(model: Sequential, last: int = 1) -> int:
    """Return how many features the last layers are given."""
    return int(np.prod(model.shapes[-1 - last]))


def ends_in(task: Task, method: str, *kinds: type, loss: tuple[str, ...]) -> None:
    """Raise SpecError unless the model ends in layers of these `kinds`, linear ones, and has one of the losses."""
    layers: Any = task.model.layers if isinstance(task.model, Sequential) else ()
    ends = layers[len(layers) - len(kinds) :]
    plain = len(ends) == len(kinds) and all(isinstance(x, kind) for x, kind in zip(ends, kinds, strict=True))
    if not plain or any(
        getattr(layer, "activation", "linear") != "linear" for layer in ends if isinstance(layer, Dense)
    ):
        wanted = ", ".join(f"{snake(kind.__name__)}(...)" for kind in kinds)
        raise SpecError(f"strategy {method} fills the model's last layers: let it end in {wanted}, without activation")
    if task.loss not in loss:
        raise SpecError(f"task.loss is {task.loss!r} with strategy {method}: it makes a model for {' or '.join(loss)}")
