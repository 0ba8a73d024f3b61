"""FedDyn: each device's objective bends with what it has learned, until its optimum is the fleet's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from fedthings.learn.data import Shard
from fedthings.learn.local import Work
from fedthings.learn.task import Recipe, positive
from fedthings.methods.method import Local, Method, Row, Way, enough, one_for_each
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload


class Dyn(Method, frozen=True):
    """FedDyn (Acar et al. 2021, Alg. 1), in a fleet of so many `devices`.

    A device minimises f_k(y) - <h_k, y> + alpha / 2 |y - x|^2 from x, then h_k <- h_k - alpha (y - x); it reports
    y - x, the bytes of averaging, and keeps h_k, 4 bytes a parameter. On the server h <- h - alpha |P| / m
    mean(y - x), and mean(y - x) - h / alpha goes through the server step.
    """

    devices: int
    alpha: float = 0.01

    corrects: ClassVar[bool] = True
    lacks: ClassVar[dict[Way, str]] = {
        "asynchronous": "it takes the mean of the models of one version, and late reports are of others",
        "edge": "an edge's devices would bend toward the edge's own model, not the fleet's",
        "privacy": "it divides by the number of good reports, which their values decide",
        "mu": "alpha is its pull already",
        "samples": "it is a plain mean over devices",
        "keep": "a device's steps must begin at the model received",
        "local": "it is not known how layers that stay would change what it reports",
        "own": "the steps of one's own code cannot be corrected",
    }

    def __post_init__(self) -> None:
        positive("strategy.method.alpha", self.alpha)

    def fits(self, recipe: Recipe, mu: float, goal: int) -> None:
        enough(self.name, self.devices, goal)

    def state(self, row: Row, fresh: Callable[[int], Row]) -> dict[str, Row]:
        return {"h": np.zeros_like(row)}

    def work(self, local: Local) -> Work:
        descend = local.corrected(self.alpha)

        def work(
            models: Payload,
            states: Sequence[State],
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            weights: Array,
        ) -> tuple[Payload, list[State], Array]:
            own = one_for_each(states, "h", models["x"])
            change = np.empty_like(own)
            seen = descend(models["x"], None, shards, keys, efforts, change, -own)
            own -= self.alpha * change
            return {"x": change}, [{"h": row} for row in own], seen

        return work

    def delta(self, total: Payload, weight: int, state: dict[str, Row]) -> Row:
        h = state["h"]
        h -= self.alpha * weight / self.devices * total["x"]
        return total["x"] - h / self.alpha
