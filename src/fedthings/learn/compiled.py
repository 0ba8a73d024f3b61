"""Local steps in compiled code, one device after the other in a core's cache; the distribution fedthings-kernels.

Nothing here computes: it says what the kernels know, and hands them addresses.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from fedthings.learn.data import Cohort, Shard, sizes
from fedthings.learn.descent import Descent, schedule
from fedthings.learn.descent import descent as plain
from fedthings.learn.layers import Layer, snake
from fedthings.learn.losses import LOSSES, scoring, target
from fedthings.learn.task import Task
from fedthings.vector import Array, Key

OFF = "FEDTHINGS_KERNELS"
"""With "0" in this variable of the environment the kernels count as not installed."""


@cache
def kernels() -> Any:
    """Return the module of the kernels, or None where it is not installed."""
    if os.environ.get(OFF) == "0" or find_spec("fedthings_kernels") is None:
        return None
    return import_module("fedthings_kernels")


def described() -> str:
    """Return version and instruction set of the kernels."""
    return f"kernels {kernels().version} {kernels().instructions()}"


def lacking(task: Task) -> str:
    """Return what keeps the kernels from training `task`, "" where nothing does."""
    if kernels() is None:
        return "fedthings-kernels is not installed"
    model = scoring(task.model, LOSSES[task.loss])
    names = [snake(type(layer).__name__) for layer in model.layers]
    unknown = [name for name in (*names, task.loss, task.recipe.optimizer) if not kernels().supports(name)]
    return f"they have no {unknown[0]}" if unknown else ""


def descent(task: Task, mu: float, threads: int) -> Descent:
    """Return the local steps of `task` on `threads`, which never change the result."""
    recipe, loss = task.recipe, LOSSES[task.loss]
    model = scoring(task.model, loss)
    program = kernels().Program(tuple(model.input), [written(layer) for layer in model.layers], loss.name)
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
        X, y, alive = addresses(task, shards)
        words = np.array([key.word("shuffle") for key in keys], np.uint64) if (steps > 1).any() else None
        seen = np.zeros((len(shards), 2), np.int64)
        kernels().train(
            program,
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
        del alive
        return seen

    return descend


def written(layer: Layer) -> tuple[Any, ...]:
    """Return `layer` as the kernels read it: its name, then its fields."""
    name = snake(type(layer).__name__)
    fields = [getattr(layer, field) for field in layer.__struct_fields__]
    if name in ("max_pool", "avg_pool"):
        fields[1] = layer.step  # type: ignore[union-attr]
    return (name, *fields)


def addresses(task: Task, shards: Sequence[Shard]) -> tuple[Array, Array, list[Array]]:
    """Return where each device's samples and targets lie, uint64 `(n,)`, and the arrays to keep alive meanwhile."""
    loss = LOSSES[task.loss]
    kind = np.int64 if loss.y == "labels" else np.float32
    if isinstance(shards, Cohort):
        X, y = shards.X, shards.y
        if X.dtype == np.float32 and y.dtype == kind and X.flags.c_contiguous and y.flags.c_contiguous:
            start = shards.bounds[:, 0]
            places = (_address(a) + start * a.strides[0] for a in (X, y))
            return *(place.astype(np.uint64) for place in places), [X, y]  # type: ignore[return-value]
    alive = []
    found = np.empty((2, len(shards)), np.uint64)
    for i, shard in enumerate(shards):
        X = np.ascontiguousarray(shard.X, np.float32)
        y = X if loss.y == "input" else np.ascontiguousarray(target(task.model, loss, X[None], shard.y[None])[0], kind)
        alive += [X, y]
        found[:, i] = _address(X), _address(y)
    return found[0], found[1], alive


def _address(a: Array) -> int:
    return int(a.__array_interface__["data"][0])
