"""What stands before a model or behind it, forward and backward: see `transforms.py`."""

from __future__ import annotations

from math import pi

import numpy as np

from fedthings.learn import transforms
from fedthings.learn.element import Shape
from fedthings.learn.passes import Draw, Kept, Pass, Weights
from fedthings.vector import Array


def standardise(layer: transforms.Standardise, given: Shape) -> Pass:
    """Return the pass of (x - mean) / deviation, NaN filled."""
    mean, deviation, fill = layer.arrays(given)

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        gaps = np.isnan(X)
        Y = np.where(gaps, fill.astype(X.dtype), X)
        Y -= mean
        Y /= deviation
        return Y, gaps

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array:
        dX = dY / deviation
        np.putmask(dX, kept, 0)
        return dX

    return Pass(forward, backward)


def impute(layer: transforms.Impute) -> Pass:
    """Return the pass that puts a number where there is none."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        gaps = np.isnan(X)
        return np.where(gaps, X.dtype.type(layer.value), X), gaps

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array:
        np.putmask(dY, kept, 0)
        return dY

    return Pass(forward, backward)


def _front(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array | None:
    """Nothing that learns stands before such a layer."""
    return None


def log1p(layer: transforms.Log1p) -> Pass:
    """Return the pass of sign(x) log(1 + |x|)."""
    columns = list(layer.columns) if layer.columns else slice(None)

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        Y = X.copy()
        some = Y[..., columns]
        Y[..., columns] = np.copysign(np.log1p(np.abs(some)), some)
        return Y, None

    return Pass(forward, _front)


def cyclic(layer: transforms.Cyclic) -> Pass:
    """Return the pass of sine and cosine of 2 pi x / period."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        angle = X[..., layer.column] * X.dtype.type(2 * pi / layer.period)
        return behind(X, layer.column, np.stack([np.sin(angle), np.cos(angle)], -1)), None

    return Pass(forward, _front)


def one_hot(layer: transforms.OneHot) -> Pass:
    """Return the pass that makes a 1 among zeros of a whole number."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        known = X[..., layer.column, None] == np.arange(layer.classes, dtype=X.dtype)
        return behind(X, layer.column, known.astype(X.dtype)), None

    return Pass(forward, _front)


def decompose(layer: transforms.Decompose, given: Shape) -> Pass:
    """Return the pass that parts a signal into what is left beside its moving average, and that."""
    steps, around = given[0], layer.around(given[0])

    def averaged(X: Array) -> Array:
        wide = X[:, :, around]
        Y = wide[:, :, :steps].copy()
        for cell in range(1, layer.kernel):
            Y += wide[:, :, cell : cell + steps]
        Y /= layer.kernel
        return Y

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        gaps = np.isnan(X)
        if gaps.any():
            trend = averaged(np.where(gaps, 0, X))
            with np.errstate(invalid="ignore"):  # where all are gaps, so is the trend
                trend /= averaged(1 - gaps.astype(X.dtype))
        else:
            trend = averaged(X)
        return np.concatenate([X - trend, trend], -1), None

    return Pass(forward, _front)


def behind(X: Array, column: int, more: Array) -> Array:
    """Return `X` `(..., n)` less a column, and `more` `(..., k)` behind the others."""
    return np.concatenate([X[..., :column], X[..., column + 1 :], more], -1)


def rescale(layer: transforms.Rescale) -> Pass:
    """Return the pass of x deviation + mean; a loss that reads scaled outputs has left it out."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        mean, deviation = layer.arrays()
        return X * deviation.reshape(X.shape[2:]) + mean.reshape(X.shape[2:]), None

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array:
        return np.asarray(dY * layer.arrays()[1].reshape(dY.shape[2:]))

    return Pass(forward, backward)
