"""Normalisation forward and backward: over a sample's last axis, over groups of channels, over a batch."""

from __future__ import annotations

import numpy as np

from fedthings.learn import layers
from fedthings.learn.element import Shape
from fedthings.learn.passes import Draw, Kept, Pass, Weights, down
from fedthings.vector import Array


def layer_norm(layer: layers.LayerNorm) -> Pass:
    """Return the pass of layer normalisation over the last axis (Ba et al. 2016, eq. 4)."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        samples = X.reshape(len(X), -1, X.shape[-1])
        centred = samples - samples.mean(-1, keepdims=True)
        scale = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + layer.eps)
        centred *= scale
        Y = centred * w["weight"][:, None]
        Y += w["bias"][:, None]
        return Y.reshape(X.shape), (centred, scale)

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array | None:
        unit, scale = kept
        shape, dY = dY.shape, dY.reshape(unit.shape)
        down(dY * unit, g["weight"])
        down(dY, g["bias"])
        if not deep:
            return None
        dY = dY * w["weight"][:, None]
        dX = dY - dY.mean(-1, keepdims=True) - unit * (dY * unit).mean(-1, keepdims=True)
        dX *= scale
        return np.asarray(dX.reshape(shape))

    return Pass(forward, backward)


def group_norm(layer: layers.GroupNorm, given: Shape) -> Pass:
    """Return the pass of group normalisation (Wu & He 2018, eq. 7): a group of a sample is a row."""
    groups, channels = layer.groups, given[-1]

    def rows(X: Array) -> Array:
        """Return `X` `(K, B, *given)` as `(K, B, groups, places * channels of a group)`."""
        split = X.reshape(*X.shape[:2], -1, groups, channels // groups)
        return split.swapaxes(2, 3).reshape(*X.shape[:2], groups, -1)

    def back(R: Array) -> Array:
        """Return rows as `(K, B * places, channels)`."""
        split = R.reshape(*R.shape[:3], -1, channels // groups).swapaxes(2, 3)
        return split.reshape(len(R), -1, channels)

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        R = rows(X)
        R = R - R.mean(-1, keepdims=True)
        scale = 1 / np.sqrt((R * R).mean(-1, keepdims=True) + layer.eps)
        R *= scale
        unit = back(R)
        Y = unit * w["weight"][:, None]
        Y += w["bias"][:, None]
        return Y.reshape(X.shape), (R, unit, scale)

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array | None:
        R, unit, scale = kept
        shape, dY = dY.shape, dY.reshape(unit.shape)
        down(dY * unit, g["weight"])
        down(dY, g["bias"])
        if not deep:
            return None
        D = rows((dY * w["weight"][:, None]).reshape(shape))
        D = D - D.mean(-1, keepdims=True) - R * (D * R).mean(-1, keepdims=True)
        D *= scale
        return back(D).reshape(shape)

    return Pass(forward, backward)


def batch_norm(layer: layers.BatchNorm) -> Pass:
    """Return the pass of batch normalisation (Ioffe & Szegedy 2015, Alg. 1): a batch is one device's.

    In training it moves the running statistics, which are views of the device's row, as it sees a batch.
    """

    def average(X: Array) -> Array:
        """Return the mean over the batch `(K, 1, C)` of `X` `(K, n, C)`."""
        out = np.empty((len(X), X.shape[-1]), X.dtype)
        down(X, out)
        out /= X.shape[1]
        return out[:, None]

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        samples = X.reshape(len(X), -1, X.shape[-1])
        count = samples.shape[1]
        learns = draw is not None and count > 1
        if learns:
            mean = average(samples)
            unit = samples - mean
            variance = average(unit * unit)
            for name, new in (("mean", mean), ("variance", variance * (count / (count - 1)))):
                w[name][...] += layer.rate * (new[:, 0] - w[name])
        else:
            unit = samples - w["mean"][:, None]
            variance = np.maximum(w["variance"], 0)[:, None]  # a server's step may have gone below
        scale = 1 / np.sqrt(variance + X.dtype.type(layer.eps))
        unit *= scale
        Y = unit * w["weight"][:, None]
        Y += w["bias"][:, None]
        return Y.reshape(X.shape), (unit, scale, learns)

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array | None:
        unit, scale, learns = kept
        shape, dY = dY.shape, dY.reshape(unit.shape)
        down(dY * unit, g["weight"])
        down(dY, g["bias"])
        for name in layers.RUNNING:
            g[name][...] = 0
        if not deep:
            return None
        dX = dY * w["weight"][:, None]
        if learns:
            dX = dX - average(dX) - unit * average(dX * unit)
        dX *= scale
        return np.asarray(dX.reshape(shape))

    return Pass(forward, backward)
