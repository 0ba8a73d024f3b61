"""SCAFFOLD: each device corrects its gradients by what its data differs in from the fleet's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.data import Shard
from fedthings.learn.local import Work
from fedthings.learn.task import Recipe
from fedthings.methods.method import Local, Method, Row, Way, enough, one_for_each
from fedthings.stage import Field, Schema, State
from fedthings.vector import Array, Key, Payload


class Scaffold(Method, frozen=True):
    """SCAFFOLD with option II (Karimireddy et al. 2020, Alg. 1), in a fleet of so many `devices`.

    On a device K steps y <- y - lr (g(y) - c_i + c) from x, then c_i+ = c_i - c + (x - y) / (K lr); it reports
    y - x and c_i+ - c_i. On the server c <- c + |S| / N mean(c_i+ - c_i), and "x" goes through the server step. A
    device keeps c_i, 4 bytes a parameter, once its report is kept. Bytes: twice those of averaging, both ways.
    """

    devices: int

    corrects: ClassVar[bool] = True
    lacks: ClassVar[dict[Way, str]] = {
        "asynchronous": "a late report's control variate is of another version, which its analysis leaves out",
        "edge": "an edge reports the change of its model, and has no control variate",
        "secure": "no clipping bounds the control variates, so their sum could wrap unseen",
        "privacy": "the control variates that devices report beside the model have no bound and get no noise",
        "mu": "the control variates would learn the pull too",
        "samples": "the variates of the fleet are a plain mean over devices",
        "keep": "a device's steps must begin at the model received",
        "local": "it is not known how layers that stay would change what it reports",
        "own": "the steps of one's own code cannot be corrected",
    }

    def fits(self, recipe: Recipe, mu: float, goal: int) -> None:
        enough(self.name, self.devices, goal)
        if recipe.optimizer != "sgd":
            raise SpecError(
                f'task.recipe.optimizer is "{recipe.optimizer}" beside scaffold, which takes the mean gradient from '
                'how far K steps of "sgd" went: set it to "sgd"'
            )

    def fields(self, dim: int) -> Schema:
        return (Field("c", dim),)

    def sends(self, dim: int) -> dict[str, int]:
        return {"c": dim}

    def state(self, row: Row, fresh: Callable[[int], Row]) -> dict[str, Row]:
        return {"c": np.zeros_like(row)}

    def work(self, local: Local) -> Work:
        descend, lr = local.corrected(), local.task.recipe.lr

        def work(
            models: Payload,
            states: Sequence[State],
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            weights: Array,
        ) -> tuple[Payload, list[State], Array]:
            x, c = models["x"], models["c"]
            own = one_for_each(states, "c", x)
            change = np.empty_like(own)
            seen = descend(x, None, shards, keys, efforts, change, c - own)
            far = (local.steps(shards, efforts) * lr).astype(x.dtype)[:, None]
            difference = -c - change / far
            own += difference
            return {"x": change, "c": difference}, [{"c": row} for row in own], seen

        return work

    def delta(self, total: Payload, weight: int, state: dict[str, Row]) -> Row:
        state["c"] += weight / self.devices * total["c"]
        return total["x"]
