"""q-FFL: devices that the model serves badly count for more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fedthings.learn.data import Shard
from fedthings.learn.local import Work
from fedthings.learn.task import Task, within
from fedthings.methods.method import Local, Method, Row, Way
from fedthings.stage import Field, Schema, State
from fedthings.vector import Array, Key, Payload

LEAST = 1e-10
"""Added to each loss, as in the authors' code: a loss of 0 has no power below 0."""


class Fair(Method, frozen=True):
    """q-FedAvg, which solves q-FFL (Li et al. 2020, Alg. 2); `q` 0 is averaging, where all devices count alike.

    With F_k the training loss of the model received and L = 1 / lr: x <- x + sum F_k^q change_k / sum h_k, where
    h_k = F_k^q + q F_k^(q - 1) L |change_k|^2. The algorithm's Delta and h are these times L, which cancels. It costs
    a forward pass of the training samples, and 8 bytes. Scale targets so that no number of F_k^q change_k is above 64.
    """

    q: float = 1.0

    lacks: ClassVar[dict[Way, str]] = {
        "stale": "the losses in its divisor have no age",
        "edge": "an edge reports the change of its model, not the losses of its devices",
        "privacy": "the sum that it divides by tells losses, which have no bound and get no noise",
        "samples": "the losses say what a device counts for",
        "keep": "a device's steps must begin at the model received",
        "local": "it is not known how layers that stay would change what it reports",
        "own": "the training loss of one's own code is not known",
    }

    def __post_init__(self) -> None:
        within("strategy.method.q", self.q, 0, 10)

    def fields(self, dim: int) -> Schema:
        return (Field("h", 1, "f8", per="one"),)

    def work(self, local: Local) -> Work:
        average, costs, q, lipschitz = local.averaging(), local.costs(), self.q, 1 / local.task.recipe.lr

        def work(
            models: Payload,
            states: Sequence[State],
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            weights: Array,
        ) -> tuple[Payload, list[State], Array]:
            loss = costs(models["x"], shards)[:, None] + LEAST
            report, after, seen = average(models, states, shards, keys, efforts, weights)
            x = report["x"]
            far = np.square(x, dtype=np.float64).sum(-1, keepdims=True)
            h = loss**q + q * loss ** (q - 1) * lipschitz * far
            x *= (loss**q).astype(x.dtype)
            return {"x": x, "h": h}, after, seen

        return work

    def flops(self, task: Task, samples: int, tested: int, effort: float) -> int:
        return task.flops(samples, tested, effort) + task.window.count(samples) * task.model.flops

    def delta(self, total: Payload, weight: int, state: dict[str, Row]) -> Row:
        return total["x"] * (weight / total["h"])
