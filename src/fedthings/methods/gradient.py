"""FedSGD: one gradient of all of a device's samples, and the server takes the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
import numpy as np

from fedthings.learn.data import Shard
from fedthings.learn.local import Work
from fedthings.learn.task import Recipe, Task
from fedthings.methods.method import Local, Method, Way
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload


class Gradient(Method, frozen=True):
    """FedSGD (McMahan et al. 2017, section 2): a device reports minus its gradient, whatever its recipe says.

    It is one step of all samples at rate 1; weight decay is taken from the recipe. The server step has the rate.
    """

    lacks: ClassVar[dict[Way, str]] = {
        "edge": "an edge would take the steps itself, at rate 1",
        "partial": "one step has no part",
        "mu": "at the model received the pull is 0",
        "keep": "a gradient is of the model received",
        "local": "it is not known how layers that stay would change what it reports",
        "own": "one's own code does steps, and gives no gradient",
    }

    def work(self, local: Local) -> Work:
        descend = local.descent(recipe=whole(local.task.recipe))

        def work(
            models: Payload,
            states: Sequence[State],
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            weights: Array,
        ) -> tuple[Payload, list[State], Array]:
            x = models["x"]
            change = np.empty((len(shards), x.shape[-1]), x.dtype)
            seen = descend(x, None, shards, keys, efforts, change)
            return {"x": change}, [None] * len(shards), seen

        return work

    def flops(self, task: Task, samples: int, tested: int, effort: float) -> int:
        return msgspec.structs.replace(task, recipe=whole(task.recipe)).flops(samples, tested)


def whole(recipe: Recipe) -> Recipe:
    """Return the recipe of one step of all samples at rate 1."""
    return msgspec.structs.replace(recipe, optimizer="sgd", lr=1.0, batch=0, epochs=1)
