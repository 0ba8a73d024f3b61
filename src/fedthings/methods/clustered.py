"""IFCA: several models, of which each device trains the one that fits it best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from fedthings.learn.data import Shard
from fedthings.learn.local import Personal, Work
from fedthings.learn.task import Task, within
from fedthings.methods.method import Local, Method, Row, Way
from fedthings.stage import Field, Schema, State
from fedthings.vector import Array, Key, Payload


class Clustered(Method, frozen=True):
    """IFCA with averaging of models (Ghosh et al. 2020, Alg. 1, option II): so many `models`.

    A device takes the model with the least loss on its training samples, trains it, and reports its change in the
    place of that one, zeros in the others, and its weight in the place chosen. Each model moves by the mean change of
    those who chose it. "x" is the first model. Bytes: `models` times those of averaging, both ways.
    """

    models: int = 2

    measures: ClassVar[tuple[str, ...]] = ("train", "evaluate")
    chooses: ClassVar[bool] = True
    plain: ClassVar[bool] = True
    lacks: ClassVar[dict[Way, str]] = {
        "stale": "how many chose a model has no age",
        "edge": "an edge reports the change of one model",
        "secure": "no clipping bounds the models beside the first, so their sum could wrap unseen",
        "privacy": "the models beside the first, and who chose which, have no bound and get no noise",
        "local": "both say which model is a device's own",
        "keep": "a device starts from the model that it chooses",
        "own": "the training loss of one's own code is not known",
    }

    def __post_init__(self) -> None:
        within("strategy.method.models", self.models, 2, 64)

    def fields(self, dim: int) -> Schema:
        return (Field("others", (self.models - 1) * dim), Field("chosen", self.models, "f8", per="one"))

    def sends(self, dim: int) -> dict[str, int]:
        return {"others": (self.models - 1) * dim}

    def state(self, row: Row, fresh: Callable[[int], Row]) -> dict[str, Row]:
        return {"others": np.concatenate([fresh(j).astype(row.dtype) for j in range(1, self.models)])}

    def work(self, local: Local) -> Work:
        average = local.averaging()

        def work(
            models: Payload,
            states: Sequence[State],
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            weights: Array,
        ) -> tuple[Payload, list[State], Array]:
            best = np.array([state["chosen"] for state in states], np.int64)  # by `personal`, for these models
            report, _, seen = average({"x": self._taken(models, best)}, states, shards, keys, efforts, weights)
            x, n = report["x"], len(shards)
            others, chosen = np.zeros((n, self.models - 1, x.shape[-1]), x.dtype), np.zeros((n, self.models))
            chosen[np.arange(n), best] = weights
            beside = np.flatnonzero(best)
            others[beside, best[beside] - 1] = x[beside]
            x[beside] = 0
            return {"x": x, "others": others.reshape(n, -1), "chosen": chosen}, list(states), seen

        return work

    def delta(self, total: Payload, weight: int, state: dict[str, Row]) -> Row:
        share = weight / np.maximum(total["chosen"], 1)
        state["others"] += total["others"] * np.repeat(share[1:], len(total["x"]))
        return np.asarray(total["x"] * share[0])

    def flops(self, task: Task, samples: int, tested: int, effort: float) -> int:
        own = task.window.count(tested) * task.model.flops  # what it chose is measured beside the first model
        return task.flops(samples, tested, effort) + self.closing(task, samples) + own

    def closing(self, task: Task, samples: int) -> int:
        return self.models * task.window.count(samples) * task.model.flops

    def personal(self, local: Local) -> Personal:
        costs = local.costs()

        def chosen(
            models: Payload, states: Sequence[State], shards: Sequence[Shard], keys: Sequence[Key]
        ) -> tuple[Array, list[State]]:
            found = np.stack([costs(self._one(models, j), shards) for j in range(self.models)], -1)
            best = np.argmin(np.nan_to_num(found, nan=np.inf), -1)  # the first of those that cost the same
            return self._taken(models, best), [{"chosen": j} for j in best.tolist()]

        return chosen

    def kept(self, models: Payload, state: State) -> Row:
        return self._one(models, 0 if state is None else state["chosen"])

    def _one(self, models: Payload, j: int) -> Array:
        """Return model `j`, `(dim,)` or `(n, dim)` as they are shared or not."""
        dim = models["x"].shape[-1]
        return models["others"][..., (j - 1) * dim : j * dim] if j else models["x"]

    def _taken(self, models: Payload, best: Array) -> Array:
        """Return the model `(n, dim)` that `best` `(n,)` names for each device."""
        taken = np.empty((len(best), models["x"].shape[-1]), models["x"].dtype)
        for j in range(self.models):
            row, there = self._one(models, j), best == j
            taken[there] = row if row.ndim == 1 else row[there]
        return taken
