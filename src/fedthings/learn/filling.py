"""What the layers give that a statistic fills (`filled.py`); no gradient goes through them.

A sum over features or trees is made in the same order for one sample and for many, so that a cohort equals a stack of
devices bit for bit (law 3).
"""

from __future__ import annotations

import numpy as np

from fedthings.errors import SpecError
from fedthings.learn import filled
from fedthings.learn.passes import Draw, Kept, Pass, Weights
from fedthings.vector import Array


def _no_gradient(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array | None:
    raise SpecError("the model has a layer that only a statistic fills: set strategy to the one it is for")


def centroids(layer: filled.Centroids) -> Pass:
    """Return the pass of offset - |x - centroid|^2, for each centroid."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        apart = X[:, :, None] - w["centroid"][:, None]
        apart *= apart
        return w["offset"][:, None] - apart.sum(-1), None

    return Pass(forward, _no_gradient)


def gaussians(layer: filled.Gaussians) -> Pass:
    """Return the pass of constant - |(x - centre) precision|^2 / 2, for each class."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        apart = X[:, :, None] - w["centre"][:, None]
        apart *= w["precision"][:, None]
        apart *= apart
        return w["constant"][:, None] - apart.sum(-1) / 2, None

    return Pass(forward, _no_gradient)


def forest(layer: filled.Forest) -> Pass:
    """Return the pass of the sum of trees, each of which goes right where a feature is above a threshold."""

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        Y = np.empty((*X.shape[:2], layer.units), X.dtype)
        for k, (samples, out) in enumerate(zip(X, Y, strict=True)):
            own = {name: array[min(k, len(array) - 1)] for name, array in w.items()}
            out[...] = own["bias"]
            for turn in range(layer.trees):
                for unit in range(layer.units):
                    tree = turn * layer.units + unit
                    leaf = grown(own["feature"][tree], own["threshold"][tree], samples, layer.depth)
                    out[:, unit] += own["value"][tree][leaf]
        return Y, None

    return Pass(forward, _no_gradient)


def grown(feature: Array, threshold: Array, X: Array, depth: int) -> Array:
    """Return the node `(n,)` at `depth` that each sample `X` `(n, f)` comes to, counted from the left; NaN goes left.

    The nodes of a tree lie in `feature` and `threshold` `(2^d - 1,)` level by level.
    """
    node = np.zeros(len(X), np.int64)
    rows = np.arange(len(X))
    for _ in range(depth):
        above = X[rows, feature[node].astype(np.int64)] > threshold[node]
        node = 2 * node + 1 + above
    return np.asarray(node - (2**depth - 1))
