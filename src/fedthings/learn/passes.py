"""Each layer forward and backward on cohorts: K devices, each with its own parameters and B samples.

Every product is one stacked matmul over K, and no sum crosses devices, so that a cohort equals a stack of
devices bit for bit (law 3). Forward gives `(K, B, *shape)` and what backward needs; backward writes the
parameters' gradients and gives the input's. An array that backward is given is its own to overwrite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fedthings.learn import layers
from fedthings.learn.element import Shape
from fedthings.vector import Array

Weights: TypeAlias = Mapping[str, Array]
"""The arrays of one layer, `(K, *shape)`, or `(1, *shape)` where devices share them (forward only)."""
Kept: TypeAlias = Any
Draw: TypeAlias = Callable[[int, Shape], Array] | None
"""Uniform numbers in [0, 1) for the layer at an index, in the shape of its input; None when not training."""


class Pass(NamedTuple):
    """`backward` gives None where the gradient of the input is not asked for (`deep`)."""

    forward: Callable[[Weights, Array, Draw], tuple[Array, Kept]]
    backward: Callable[[Weights, Kept, Array, Weights, bool], Array | None]


# ------------------------------------------------------------------ activations: in place


def _keep(Y: Array) -> None:
    pass


def _relu(Y: Array) -> None:
    np.maximum(Y, 0, out=Y)


def _tanh(Y: Array) -> None:
    np.tanh(Y, out=Y)


def _sigmoid(Y: Array) -> None:
    Y[...] = sigmoid(Y)


def _softmax(Y: Array) -> None:
    Y -= Y.max(-1, keepdims=True)
    np.exp(Y, out=Y)
    Y /= Y.sum(-1, keepdims=True)


def _straight(dY: Array, Y: Array) -> Array:
    return dY


def _relu_slope(dY: Array, Y: Array) -> Array:
    np.putmask(dY, Y <= 0, 0)
    return dY


def _tanh_slope(dY: Array, Y: Array) -> Array:
    dY *= 1 - Y * Y
    return dY


def _sigmoid_slope(dY: Array, Y: Array) -> Array:
    dY *= Y * (1 - Y)
    return dY


def _softmax_slope(dY: Array, Y: Array) -> Array:
    dY -= (dY * Y).sum(-1, keepdims=True)
    dY *= Y
    return dY


ACTIVATIONS: dict[str, tuple[Callable[[Array], None], Callable[[Array, Array], Array]]] = {
    "linear": (_keep, _straight),
    "relu": (_relu, _relu_slope),
    "tanh": (_tanh, _tanh_slope),
    "sigmoid": (_sigmoid, _sigmoid_slope),
    "softmax": (_softmax, _softmax_slope),
}
"""Each activation in place, and the gradient before it from the gradient and the output after it."""


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + e^-z) without overflow."""
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1, small) / (1 + small))


# ------------------------------------------------------------------ layers


def down(D: Array, out: Array) -> None:
    """Write the sum over B of `D` `(K, B, n)` to `out` `(K, n)`; a product, for it is faster than a sum."""
    np.matmul(np.ones((1, D.shape[1]), D.dtype), D, out=out[:, None])


def dense(layer: layers.Dense) -> Pass:
    """Return the pass of Y = activation(X W + b)."""
    activate, slope = ACTIVATIONS[layer.activation]

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        Y = X @ w["weight"]
        Y += w["bias"][:, None]
        activate(Y)
        return Y, (X, Y)

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array | None:
        X, Y = kept
        dY = slope(dY, Y)
        np.matmul(X.swapaxes(-1, -2), dY, out=g["weight"])
        down(dY, g["bias"])
        return dY @ w["weight"].swapaxes(-1, -2) if deep else None

    return Pass(forward, backward)


def activation(name: str) -> Pass:
    """Return the pass of an activation that stands alone."""
    activate, slope = ACTIVATIONS[name]

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        Y = X.copy()
        activate(Y)
        return Y, Y

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array:
        return slope(dY, kept)

    return Pass(forward, backward)


def flatten(given: Shape) -> Pass:
    """Return the pass that lays each sample out as one row."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        return X.reshape(*X.shape[:2], prod(given)), None

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array:
        return dY.reshape(*dY.shape[:2], *given)

    return Pass(forward, backward)


def dropout(layer: layers.Dropout, index: int) -> Pass:
    """Return the pass that drops a share of the numbers in training, and none otherwise."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        if draw is None:
            return X, None
        mask = (draw(index, X.shape) >= layer.rate).astype(X.dtype)
        mask /= 1 - layer.rate
        return X * mask, mask

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array:
        return dY if kept is None else dY * kept

    return Pass(forward, backward)
