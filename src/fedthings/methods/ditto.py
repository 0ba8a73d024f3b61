"""Ditto: beside the common model each device trains one of its own, pulled toward the common one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fedthings.learn.data import Shard
from fedthings.learn.local import Personal, Work
from fedthings.learn.task import Task, within
from fedthings.methods.method import Local, Method, Row, Way
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload


class Ditto(Method, frozen=True):
    """Ditto (Li et al. 2021, Alg. 1): v <- v - lr (g(v) + pull (v - x)) on the device, as many steps as it does for x.

    v stays there, 4 bytes a parameter, and begins as the first model received. The bytes are those of averaging, the
    local work twice that.
    """

    pull: float = 0.1

    measures: ClassVar[tuple[str, ...]] = ("train", "evaluate")
    lacks: ClassVar[dict[Way, str]] = {
        "edge": "an edge keeps nothing of its devices' own models",
        "local": "both say which model is a device's own",
        "keep": "a device's own model is v",
        "own": "the pull on one's own code is not known",
    }

    def __post_init__(self) -> None:
        within("strategy.method.pull", self.pull, 0, 1e6)

    def work(self, local: Local) -> Work:
        average, descend = local.averaging(), local.descent(mu=self.pull)

        def work(
            models: Payload,
            states: Sequence[State],
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            weights: Array,
        ) -> tuple[Payload, list[State], Array]:
            report, _, seen = average(models, states, shards, keys, efforts, weights)
            own = owned(models["x"], states)
            descend(models["x"], own, shards, keys, efforts, np.empty_like(own))
            return report, [{"v": row} for row in own], seen

        return work

    def flops(self, task: Task, samples: int, tested: int, effort: float) -> int:
        return 2 * task.flops(samples, tested, effort)

    def personal(self, local: Local) -> Personal:
        return lambda models, states, shards, keys: (owned(models["x"], states), list(states))

    def kept(self, models: Payload, state: State) -> Row:
        return models["x"] if state is None else state["v"]


def owned(received: Array, states: Sequence[State]) -> Array:
    """Return each device's own model "v" `(n, dim)`; the one received where it has none yet."""
    own = np.empty((len(states), received.shape[-1]), received.dtype)
    own[...] = received
    for row, state in zip(own, states, strict=True):
        if state is not None:
            row[...] = state["v"]
    return own
