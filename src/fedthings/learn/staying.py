"""Layers that stay on the device: which of a model's parameters travel, and the learner that keeps the others.

With the head local it is FedPer (Arivazhagan et al. 2019), trained by turns FedRep (Collins et al. 2021), with the body
local LG-FedAvg (Liang et al. 2020), with the normalisation layers local FedBN (Li et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.data import Shard
from fedthings.learn.descent import corrected
from fedthings.learn.element import snake
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.local import Work, of_their_own
from fedthings.learn.model import Sequential
from fedthings.stage import State
from fedthings.vector import Array, Key, Layout, Payload

if TYPE_CHECKING:
    from fedthings.learn.task import Task

HEAD, BODY = "head", "body"


def names(model: Sequential) -> dict[str, set[int]]:
    """Return the layers that each name stands for.

    "head" is the last layer that learns, "body" all before it, a kind such as "layer_norm" all of that kind, and
    "dense.1" the second of its kind; so a normalisation that is put before the model changes no name.
    """
    learn = sorted({int(part.name.split(".")[0]) for part in model.layout.parts})
    found = {HEAD: {learn[-1]}, BODY: set(learn[:-1])}
    for index in learn:
        kind = snake(type(model.layers[index]).__name__)
        same = found.setdefault(kind, set())
        found[f"{kind}.{len(same)}"] = {index}
        same.add(index)
    return found


def layers(model: Sequential, local: Sequence[str]) -> set[int]:
    """Return the layers that `local` names. Raises SpecError for one that is none, and where no layer would travel."""
    known, found = names(model), set()
    for name in local:
        if not known.get(name):
            raise SpecError(f"task.local has {name!r}, which is no layer that learns: valid are {', '.join(known)}")
        found |= known[name]
    if local and found >= known[HEAD] | known[BODY]:
        raise SpecError(f"task.local is {list(local)}, which is all that learns: leave one layer to be shared")
    return found


def layout(task: Task) -> Layout:
    """Return where the parameters that travel lie in "x"."""
    whole = task.model.layout
    stay = layers(task.model, task.local) if task.local else set()
    return Layout((p.name, p.shape) for p in whole.parts if int(p.name.split(".")[0]) not in stay) if stay else whole


def travels(task: Task) -> Array:
    """Return which parameters of the model travel, bool `(dim,)`."""
    stay = layers(task.model, task.local)
    found = np.ones(task.model.layout.dim, bool)
    for part in task.model.layout.parts:
        found[part.start : part.stop] = int(part.name.split(".")[0]) not in stay
    return found


def whole(task: Task, received: Array, state: State, seed: int) -> Array:
    """Return the model `(dim,)` of a device: what it `received` `(k,)`, and its own layers, at first as `seed` says."""
    row = task.model.init(seed).astype(received.dtype)
    there = travels(task)
    if state is not None:
        row[~there] = state["own"]
    row[there] = received
    return row


def alternating(task: Task, mu: float) -> Work:
    """Return the work of FedRep: `task.local_epochs` of the layers that stay alone, then the recipe's of the others."""
    there = travels(task)
    longer = msgspec.structs.replace(task.recipe, epochs=task.local_epochs)
    first = corrected(msgspec.structs.replace(task, recipe=longer), mu, ~there)
    then = corrected(task, mu, there)

    def work(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
        weights: Array,
    ) -> tuple[Payload, list[State], Array]:
        own = np.array(models["x"])
        change = np.empty_like(own)
        seen = first(models["x"], own, shards, keys, efforts, change, None)
        seen = seen + then(models["x"], own, shards, keys, efforts, change, None)
        return {"x": change}, [None] * len(shards), seen

    return work


def staying(learner: Learner, task: Task, seed: int) -> Learner:
    """Return the learner of `task`, whose local layers are the device's state, from `learner` of the whole model.

    What devices measure is measured of their own model.
    """
    there = travels(task)
    fresh = task.model.init(seed)

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        rows = np.empty((len(shards), len(there)), models["x"].dtype)
        rows[:, there] = models["x"]
        rows[:, ~there] = fresh[~there]
        for row, state in zip(rows, states, strict=True):
            if state is not None:
                row[~there] = state["own"]
        inner = [None if state is None else state["rest"] for state in states]
        fit, after = learner.many({**models, "x": rows}, inner, shards, keys, efforts)
        metrics = {**fit.metrics, **of_their_own({n: m for n, m in fit.metrics.items() if n != "train"})}
        if "x" not in fit.report:
            return fit._replace(metrics=metrics), list(states)
        x = fit.report["x"]
        own = (rows + x)[:, ~there]
        kept: list[State] = [{"own": row, "rest": rest} for row, rest in zip(own, after, strict=True)]
        return fit._replace(report={**fit.report, "x": x[:, there]}, metrics=metrics), kept

    return Learner(learner.init, alone(many), many)
