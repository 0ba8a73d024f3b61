"""Principal components in one round, from the summed products of the features (Jolliffe 2002, section 2.3).

The model is the linear autoencoder they make: its first layer gives the components, its second what they say of the
sample. How far a sample is from that is how unusual it is.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.learn.data import Shard
from fedthings.learn.layers import Dense
from fedthings.learn.task import Task
from fedthings.statistics.features import ends_in, filled, parts, width
from fedthings.statistics.ridge import narrow, packed, unpacked, with_one
from fedthings.statistics.statistic import DONE, Known, Next, Statistic, summed
from fedthings.vector import Array, Payload


class Pca(Struct, frozen=True, tag="pca", forbid_unknown_fields=True):
    """As many components as the last but one layer has units."""


def check(spec: Pca, task: Task) -> None:
    """Raise SpecError unless the last two layers of `task` are such an autoencoder."""
    ends_in(task, "pca", Dense, Dense, loss=("reconstruction",))
    f, k = width(task.model, 2), width(task.model)
    narrow("pca", f)
    if k > f or task.model.outputs != (f,):
        raise SpecError(f"strategy pca: the last layers go from {f} features to at most as many, and back to {f}")


def build(spec: Pca, task: Task, seed: int) -> Statistic:
    """Return the statistic of one round."""
    model = task.model
    f, k = width(model, 2), width(model)

    def measure(row: Array, shard: Shard) -> Payload:
        products = np.zeros((f + 1, f + 1))
        for some, _ in parts(model, shard, row, 2):
            Z = with_one(some)
            products += Z.T @ Z
        return {"products": packed(products)}

    def step(row: Array, known: Known, totals: Payload) -> Next:
        mean, components = principal(unpacked(totals["products"], f + 1), k)
        code = {"weight": components, "bias": -mean @ components}
        return Next(filled(model, row, code, {"weight": components.T, "bias": mean}), {}, DONE)

    return Statistic(summed(products=(f + 1) * (f + 2) // 2), 1, lambda row: row, measure, step)


def principal(products: Array, k: int) -> tuple[Array, Array]:
    """Return the mean `(f,)` and the k directions of the largest variance `(f, k)` of `products` `(f + 1, f + 1)`.

    The last row is that of the ones. The largest number of a direction is above 0, so that its sign is known.
    """
    n = max(products[-1, -1], 1.0)
    mean = products[-1, :-1] / n
    _, vectors = np.linalg.eigh(products[:-1, :-1] / n - np.outer(mean, mean))
    components = vectors[:, ::-1][:, :k]
    largest = np.take_along_axis(components, np.abs(components).argmax(0)[None], 0)
    return mean, components * np.where(largest < 0, -1, 1)
