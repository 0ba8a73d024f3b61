"""Fine-tuning: after the last version each device trains the common model on its own samples, and keeps what comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
import numpy as np

from fedthings.learn.data import Shard
from fedthings.learn.local import Personal
from fedthings.learn.task import Task, positive
from fedthings.methods.method import Local, Method, Row, Way
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload


class Tuned(Method, frozen=True):
    """Averaging, then so many `epochs` of the recipe at rate `lr` on each device (Wang et al. 2019).

    It is done with the closing evaluation, which asks at most a thousand devices. `lr` 0 is that of the recipe.
    """

    epochs: int = 5
    lr: float = 0.0

    measures: ClassVar[tuple[str, ...]] = ("evaluate",)
    lacks: ClassVar[dict[Way, str]] = {
        "edge": "an edge keeps nothing of its devices' own models",
        "privacy": "it is done with the closing evaluation, which a claim leaves out",
        "local": "both say which model is a device's own",
        "keep": "a device's own model is the tuned one",
        "own": "one's own code trains as it likes",
    }

    def __post_init__(self) -> None:
        positive("strategy.method.epochs", self.epochs)
        if self.lr:
            positive("strategy.method.lr", self.lr)

    def closing(self, task: Task, samples: int) -> int:
        recipe = msgspec.structs.replace(task.recipe, epochs=self.epochs)
        return msgspec.structs.replace(task, recipe=recipe).flops(samples, 0)

    def personal(self, local: Local) -> Personal:
        recipe = local.task.recipe
        recipe = msgspec.structs.replace(recipe, epochs=self.epochs, lr=self.lr or recipe.lr)
        descend = local.descent(mu=0.0, recipe=recipe)

        def tune(
            models: Payload, states: Sequence[State], shards: Sequence[Shard], keys: Sequence[Key]
        ) -> tuple[Array, list[State]]:
            own = np.empty((len(shards), models["x"].shape[-1]), models["x"].dtype)
            own[...] = models["x"]
            descend(models["x"], own, shards, keys, [1.0] * len(shards), np.empty_like(own))
            return own, [{"v": row} for row in own]

        return tune

    def kept(self, models: Payload, state: State) -> Row:
        return models["x"] if state is None else state["v"]
