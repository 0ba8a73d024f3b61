"""Local steps and outputs in compiled code, one device after the other in a core's cache: fedthings-kernels.

Nothing here computes: it says what the kernels know, and hands them addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from fedthings.kernels import kernels
from fedthings.learn.data import Cohort, Shard, check, sizes
from fedthings.learn.descent import Descent, schedule
from fedthings.learn.descent import descent as plain
from fedthings.learn.element import snake
from fedthings.learn.layers import Conv1d, Layer
from fedthings.learn.losses import LOSSES, scoring, target
from fedthings.learn.model import Outputs, Sequential, forwarding, transformed
from fedthings.learn.task import Task
from fedthings.vector import Array, Key


def lacking(task: Task) -> str:
    """Return what keeps the kernels from training `task`, "" where nothing does."""
    if kernels() is None:
        return "fedthings-kernels is not installed"
    model = behind(task)
    names = [snake(type(layer).__name__) for layer in model.layers]
    unknown = [name for name in (*names, task.loss, task.recipe.optimizer) if not kernels().supports(name)]
    if unknown:
        return f"they have no {unknown[0]}"
    try:
        program(task)
    except ValueError as error:  # sizes that only NumPy takes
        return f"they cannot take the model: {error}"
    return ""


def behind(task: Task) -> Sequential:
    """Return the model that the kernels compute: less the transforms in front, which NumPy makes beforehand."""
    model = scoring(task.model, LOSSES[task.loss])
    return Sequential(model.shapes[model.front], model.layers[model.front :]) if model.front else model


def program(task: Task) -> Any:
    """Return the model and loss of `task` as the kernels read them."""
    model = behind(task)
    return kernels().Program(tuple(model.input), [written(layer) for layer in model.layers], task.loss)


def descent(task: Task, mu: float, threads: int) -> Descent:
    """Return the local steps of `task` on `threads`, which never change the result; they raise DataError."""
    recipe, read, targets = task.recipe, program(task), once()
    momentum = recipe.momentum if recipe.optimizer == "momentum" else -1.0
    other = plain(task, mu)

    def descend(
        received: Array,
        own: Array | None,
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
        change: Array,
    ) -> Array:
        if received.dtype != np.float32:
            return other(received, own, shards, keys, efforts, change)
        counts = sizes(shards)
        _, steps, done = schedule(recipe, counts, efforts)
        words = np.array([key.word("shuffle") for key in keys], np.uint64) if (steps > 1).any() else None
        seen = np.zeros((len(shards), 2), np.int64)
        try:
            X, y, alive = addresses(task, shards, targets)
            kernels().train(
                read,
                X,
                y,
                counts,
                np.ascontiguousarray(received),
                start=own,
                keys=words,
                steps=done,
                batch=recipe.batch,
                epochs=recipe.epochs,
                lr=recipe.lr,
                momentum=momentum,
                decay=recipe.weight_decay,
                mu=mu,
                change=change,
                seen=seen,
                threads=threads,
            )
        except ValueError:
            for shard, key in zip(shards, keys, strict=True):
                if len(shard.X):
                    check(shard, task, key.device)  # DataError, with the device and what to do
            raise
        del alive
        return seen

    return descend


def outputs(task: Task, threads: int) -> Outputs:
    """Return what gives the outputs that the loss of `task` reads, on `threads`; it raises ValueError."""
    model, read = scoring(task.model, LOSSES[task.loss]), program(task)
    other = forwarding(model)

    def give(rows: Array, X: Array) -> Array:
        if rows.dtype != np.float32:
            return other(rows, X)
        n, count = X.shape[:2]
        if X.shape[2:] != model.input:
            raise ValueError(f"samples {X.shape[2:]}, the model takes {model.input}")
        X = _row(transformed(model, X), np.float32)
        out = np.empty((n, count, *model.outputs), np.float32)
        starts = np.arange(n, dtype=np.uint64)
        kernels().outputs(
            read,
            _address(X) + starts * np.uint64(X.strides[0]),
            np.full(n, count),
            np.ascontiguousarray(rows),
            _address(out) + starts * np.uint64(out.strides[0]),
            threads,
        )
        return out

    return give


def written(layer: Layer) -> tuple[Any, ...]:
    """Return `layer` as the kernels read it: its name, then its fields."""
    name = snake(type(layer).__name__)
    fields = [getattr(layer, field) for field in layer.__struct_fields__]
    if name in ("max_pool", "avg_pool"):
        fields[1] = layer.step  # type: ignore[union-attr]
    if isinstance(layer, Conv1d) and layer.dilation == 1:  # they know no other, and refuse a field more
        fields.pop()
    return (name, *fields)


Reading: TypeAlias = Callable[[Array, type[np.generic]], Array]
"""`(a, kind) -> a`: as compiled code can read it."""


def once() -> Reading:
    """Return what reads a table, and has it still when the same one comes again: a fleet's is the same every time."""
    last: list[tuple[Array, Array]] = []

    def read(a: Array, kind: type[np.generic]) -> Array:
        if _plain(a, kind):
            return a
        if not last or last[0][0] is not a:
            last[:] = [(a, _row(a, kind))]
        return last[0][1]

    return read


def addresses(task: Task, shards: Sequence[Shard], targets: Reading) -> tuple[Array, Array, list[Array]]:
    """Return where each device's samples and targets lie, uint64 `(n,)`, and the arrays to keep alive meanwhile.

    `targets` reads a table of targets. Raises ValueError where shapes are not the task's: compiled code would read
    beyond them.
    """
    loss, model = LOSSES[task.loss], task.model
    shape = model.shapes[model.front]
    itself = loss.y == "input"
    kind = np.int64 if loss.y == "labels" else np.float32
    if isinstance(shards, Cohort):
        X, y = shards.X, shards.X if itself else shards.y
        width = prod(shape) if itself else 1 if loss.y == "labels" else prod(model.outputs)
        as_it_is = not model.front and (model.rescale is None or itself)
        if as_it_is and X.shape[1:] == shape and prod(y.shape[1:]) == width and _plain(X, np.float32):
            y = X if itself else targets(y, kind)
            start = shards.bounds[:, 0]
            places = (_address(a) + start * a.strides[0] for a in (X, y))
            return *(place.astype(np.uint64) for place in places), [X, y]  # type: ignore[return-value]
    alive = []
    found = np.empty((2, len(shards)), np.uint64)
    for i, shard in enumerate(shards):
        if shard.X.shape[1:] != model.input or len(shard.y) < len(shard.X):
            raise ValueError(
                f"device {i}: {shard.X.shape} samples, {shard.y.shape} targets, the model takes {model.input}"
            )
        X = _row(transformed(model, shard.X[None])[0] if model.front else shard.X, np.float32)
        y = X if itself else _row(target(model, loss, X[None], shard.y[None])[0], kind)
        alive += [X, y]
        found[:, i] = _address(X), _address(y)
    return found[0], found[1], alive


def _row(a: Array, kind: type[np.generic]) -> Array:
    """Return `a` as compiled code can read it."""
    return a if _plain(a, kind) else np.array(a, kind, order="C")


def _plain(a: Array, kind: type[np.generic]) -> bool:
    return a.dtype == kind and a.flags.c_contiguous and a.flags.aligned


def _address(a: Array) -> int:
    return int(a.__array_interface__["data"][0])
