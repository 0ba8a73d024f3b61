"""Losses: what each sample costs, and the gradient of a device's mean cost by the model's outputs.

Outputs are `(K, B, *shape)`, K devices with B samples each. A loss that contains an activation reads the
numbers before it, and the model's own last such activation is then left out (`model.without`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Literal, NamedTuple

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn.model import Sequential, prepare, without
from fedthings.learn.passes import sigmoid
from fedthings.vector import Array


class Loss(NamedTuple):
    """`of(outputs, y) -> (costs (K, B), gradient like outputs)`.

    `y` is "labels" `(K, B)` int64, "values" `(K, B, n)` for n outputs, or "input": the sample itself, flat,
    as it is after scaling and imputation. `contains` names the activation that is part of the loss.
    """

    name: str
    y: Literal["labels", "values", "input"]
    contains: str
    of: Callable[[Array, Array], tuple[Array, Array]]


def cross_entropy(outputs: Array, y: Array) -> tuple[Array, Array]:
    """-log softmax(outputs)[y]; its gradient softmax - onehot (Bishop 2006, eq. 4.109)."""
    samples = np.arange(y.size)
    z = outputs.reshape(y.size, -1)
    z = z - z.max(-1, keepdims=True)
    p = np.exp(z)
    total = p.sum(-1, keepdims=True)
    labels = y.reshape(-1)
    costs = np.log(total[:, 0]) - z[samples, labels]
    p /= total
    p[samples, labels] -= 1
    p /= y.shape[-1]
    return costs.reshape(y.shape), p.reshape(outputs.shape)


def binary_cross_entropy(outputs: Array, y: Array) -> tuple[Array, Array]:
    """-y log s(z) - (1 - y) log(1 - s(z)), as max(z, 0) - z y + log(1 + e^-|z|); gradient s(z) - y."""
    z = outputs.reshape(y.shape)
    costs = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    return costs[..., 0], ((sigmoid(z) - y) / y.shape[1]).reshape(outputs.shape)


def mse(outputs: Array, y: Array) -> tuple[Array, Array]:
    """Mean over the outputs of d^2, d = output - y."""
    d = outputs.reshape(y.shape) - y
    return (d * d).mean(-1), (d * (2 / _share(y))).reshape(outputs.shape)


def mae(outputs: Array, y: Array) -> tuple[Array, Array]:
    """Mean over the outputs of |d|, d = output - y."""
    d = outputs.reshape(y.shape) - y
    return np.abs(d).mean(-1), (np.sign(d) / _share(y)).reshape(outputs.shape)


def huber(outputs: Array, y: Array) -> tuple[Array, Array]:
    """Mean over the outputs of d^2 / 2 where |d| < 1, |d| - 1/2 beyond (Huber 1964)."""
    d = outputs.reshape(y.shape) - y
    size, slope = np.abs(d), np.clip(d, -1, 1)
    costs = np.where(size < 1, d * d / 2, size - 0.5)
    return costs.mean(-1), (slope / _share(y)).reshape(outputs.shape)


def nearest(outputs: Array, y: Array) -> tuple[Array, Array]:
    """Less the largest output: of centroids, the squared distance to the nearest (Lloyd 1982)."""
    slope = np.zeros_like(outputs)
    np.put_along_axis(slope, outputs.argmax(-1)[..., None], -1 / outputs.shape[1], -1)
    return -outputs.max(-1), slope


def _share(y: Array) -> int:
    return int(y.shape[-2] * y.shape[-1])


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", "labels", "softmax", cross_entropy),
        Loss("binary_cross_entropy", "values", "sigmoid", binary_cross_entropy),
        Loss("mse", "values", "", mse),
        Loss("mae", "values", "", mae),
        Loss("huber", "values", "", huber),
        Loss("reconstruction", "input", "", mse),
        Loss("nearest", "input", "", nearest),
    )
}


def scoring(model: Sequential, loss: Loss) -> Sequential:
    """Return the model whose outputs `loss` reads: scaled, where the model's last layer gives them their units."""
    if model.rescale is not None:
        model = Sequential(model.input, model.layers[:-1])
    return without(model, loss.contains) if loss.contains else model


def target(model: Sequential, loss: Loss, X: Array, y: Array) -> Array:
    """Return what `loss` compares outputs with, from `X` `(K, B, *input)` and `y` `(K, B, ...)`; scaled as they are."""
    if loss.y == "labels":
        return y.reshape(y.shape[:2]).astype(np.int64, copy=False)
    if loss.y == "input":
        return prepare(model, X).reshape(*X.shape[:2], -1)
    values = y.reshape(*y.shape[:2], prod(model.outputs)).astype(X.dtype, copy=False)
    if model.rescale is None:
        return values
    mean, deviation = model.rescale.arrays()
    return np.asarray((values - mean.astype(X.dtype)) / deviation.astype(X.dtype))


def in_units(model: Sequential, values: Array) -> Array:
    """Return scaled outputs or targets `(..., n)` in the units of the data."""
    if model.rescale is None:
        return values
    mean, deviation = model.rescale.arrays()
    return np.asarray(values * deviation.astype(values.dtype) + mean.astype(values.dtype))


def fit(model: Sequential, name: str) -> None:
    """Raise SpecError where the outputs of `model` cannot be judged by the loss `name`."""
    outputs = model.outputs
    if model.rescale is not None and name not in ("mse", "mae", "huber"):
        raise SpecError(
            f"task.loss is {name!r} and the model ends with rescale: leave it out, or use mse, mae or huber"
        )
    if name == "cross_entropy" and (len(outputs) != 1 or outputs[0] < 2):
        wanted = "one output for each class, at least 2; for 1 output use binary_cross_entropy"
    elif name == "binary_cross_entropy" and outputs != (1,):
        wanted = "1 output, such as dense(1) last; for several classes use cross_entropy"
    elif name == "reconstruction" and prod(outputs) != prod(model.input):
        wanted = f"as many outputs as the input has numbers, {prod(model.input)}"
    else:
        return
    raise SpecError(f"task.loss is {name!r} and the model's outputs are {outputs}: it needs {wanted}")
