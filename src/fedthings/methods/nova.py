"""FedNova: devices that do more local steps do not pull the model further toward their own optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.data import Shard
from fedthings.learn.local import Work
from fedthings.learn.task import Recipe
from fedthings.methods.method import Local, Method, Row, Way
from fedthings.stage import Field, Schema, State
from fedthings.vector import Array, Key, Payload

TAU = "tau"


class Nova(Method, frozen=True):
    """FedNova (Wang et al. 2020, section 4).

    With a_i the weight of all of a device's gradients in its change: x <- x + tau_eff sum p_i change_i / a_i, where
    tau_eff = sum p_i a_i. a_i is the number of steps tau for SGD; (1 - (1 - lr mu)^tau) / (lr mu) with a proximal term;
    (tau - m (1 - m^tau) / (1 - m)) / (1 - m) with momentum m. A device reports change / a_i, and its weight times a_i.
    """

    lacks: ClassVar[dict[Way, str]] = {
        "stale": "what a stale report counts for would be in both of the sums that it multiplies",
        "edge": "an edge reports the change of its model, not in how many steps its devices made it",
        "privacy": "the number of local steps that devices report beside the model has no bound and gets no noise",
        "keep": "a device's steps must begin at the model received",
        "local": "it is not known how layers that stay would change what it reports",
        "own": "how many steps one's own code does is not known",
    }

    def fits(self, recipe: Recipe, mu: float, goal: int) -> None:
        if recipe.optimizer == "adam" or (recipe.optimizer == "momentum" and mu):
            beside = " with strategy.mu" if mu else ""
            raise SpecError(
                f'task.recipe.optimizer is "{recipe.optimizer}"{beside} beside nova, which has no weight for its '
                'steps: set it to "sgd"'
            )

    def fields(self, dim: int) -> Schema:
        return (Field(TAU, 1, "f8", per="one"),)

    def work(self, local: Local) -> Work:
        average, recipe, mu = local.averaging(), local.task.recipe, local.mu

        def work(
            models: Payload,
            states: Sequence[State],
            shards: Sequence[Shard],
            keys: Sequence[Key],
            efforts: Sequence[float],
            weights: Array,
        ) -> tuple[Payload, list[State], Array]:
            report, after, seen = average(models, states, shards, keys, efforts, weights)
            a = weighed(local.steps(shards, efforts), recipe, mu)[:, None]
            x = report["x"]
            x /= a.astype(x.dtype)
            return {"x": x, TAU: weights[:, None] * a}, after, seen

        return work

    def delta(self, total: Payload, weight: int, state: dict[str, Row]) -> Row:
        return total["x"] * (total[TAU] / weight)


def weighed(steps: Array, recipe: Recipe, mu: float) -> Array:
    """Return a_i `(n,)` for devices that do so many `steps` `(n,)`: what their gradients weigh together."""
    tau = steps.astype(np.float64)
    if mu:
        shrink = recipe.lr * mu
        return np.asarray((1 - (1 - shrink) ** tau) / shrink)
    if recipe.optimizer == "momentum":
        m = recipe.momentum
        return np.asarray((tau - m * (1 - m**tau) / (1 - m)) / (1 - m))
    return tau
