"""Convolution and pooling: windows that slide over the spatial axes of samples with channels last.

Inputs are `(K, B, *spatial, C)`: K devices, each with its own filters, B samples each.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fedthings.learn.element import Shape
from fedthings.learn.layers import AvgPool, Conv1d, Conv2d, MaxPool
from fedthings.learn.passes import ACTIVATIONS, Draw, Kept, Pass, Weights, down
from fedthings.vector import Array


def convolution(layer: Conv1d | Conv2d, given: Shape) -> Pass:
    """Return the pass: windows become the rows of one matrix product for each device (im2col)."""
    spatial, channels, filters = given[:-1], given[-1], layer.filters
    size, stride, rank, every, reach = layer.kernel, layer.stride, layer.rank, layer.apart, layer.reach
    out = layer.shape(given)[:-1]
    margins = layer.margins(given)
    padded = tuple(before + n + after for n, (before, after) in zip(spatial, margins, strict=True))
    middle = tuple(slice(before, before + n) for n, (before, _) in zip(spatial, margins, strict=True))
    # Backward, the gradients stand `stride` apart between zeros, and the same windows slide over them.
    apart = tuple(slice(reach - 1, reach + stride * (o - 1), stride) for o in out)
    flipped = (slice(None), *(slice(None, None, -1) for _ in spatial))
    activate, slope = ACTIVATIONS[layer.activation]

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        columns = unfold(spread(X, padded, middle), size, stride, rank, every)
        Y = columns @ w["weight"].reshape(-1, columns.shape[-1], filters)
        Y += w["bias"][:, None]
        activate(Y)
        return Y.reshape(*X.shape[:2], *out, filters), (columns, Y)

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array | None:
        columns, Y = kept
        samples = dY.shape[:2]
        dY = slope(dY.reshape(Y.shape), Y)
        np.matmul(columns.swapaxes(-1, -2), dY, out=g["weight"].reshape(len(Y), -1, filters))
        down(dY, g["bias"])
        if not deep:
            return None
        wide = tuple(n + reach - 1 for n in padded)
        around = spread(dY.reshape(*samples, *out, filters), wide, apart)
        inside = tuple(slice(m.start, m.stop + reach - 1) for m in middle)  # zeros of the margin need no gradient
        windows = unfold(around[:, :, *inside], size, 1, rank, every)
        back = np.ascontiguousarray(w["weight"][flipped].swapaxes(-1, -2)).reshape(-1, windows.shape[-1], channels)
        dX: Array = windows @ back
        return dX.reshape(*samples, *given)

    return Pass(forward, backward)


def spread(X: Array, sizes: Shape, where: tuple[slice, ...]) -> Array:
    """Return `X` `(K, B, *spatial, C)` laid at `where` into zeros of spatial `sizes`."""
    if X.shape[2:-1] == sizes:
        return X
    wide = np.zeros((*X.shape[:2], *sizes, X.shape[-1]), X.dtype)
    wide[:, :, *where] = X
    return wide


def unfold(X: Array, size: int, stride: int, rank: int, apart: int = 1) -> Array:
    """Return the windows of `X` `(K, B, *spatial, C)` as rows `(K, B * places, size**rank * C)`.

    The `size` numbers of a window lie `apart`.
    """
    every, taken = (slice(None, None, stride),) * rank, (slice(None, None, apart),) * rank
    reach = (size - 1) * apart + 1
    windows = sliding_window_view(X, (reach,) * rank, axis=tuple(range(2, 2 + rank)))[:, :, *every, :, *taken]
    places, kernel, width = range(1, 2 + rank), range(3 + rank, 3 + 2 * rank), size**rank * X.shape[-1]
    if X.shape[-1] == 1:  # the longest runs in memory lie along the places: copy the rows as columns
        return windows.transpose(0, *kernel, 2 + rank, *places).reshape(len(X), width, -1).swapaxes(-1, -2)
    return windows.transpose(0, *places, *kernel, 2 + rank).reshape(len(X), -1, width)


def max_pool(layer: MaxPool, given: Shape) -> Pass:
    """Return the pass, one axis after the other; of equal numbers the first has the gradient."""
    axes = [cells(axis, layer.size, layer.step, n) for axis, n in reversed([*enumerate(layer.shape(given)[:-1])])]

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        kept = []
        for where in axes:
            Y = X[where[0]].copy()
            for cell in where[1:]:
                np.maximum(Y, X[cell], out=Y)
            kept.append((X, Y))
            X = Y
        return X, kept

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array:
        for where, (X, Y) in zip(reversed(axes), reversed(kept), strict=True):
            dX = np.zeros(X.shape, dY.dtype)
            for cell in where[:-1]:
                taken = np.where(X[cell] == Y, dY, 0)
                dX[cell] += taken
                dY = dY - taken  # exact: all of it or nothing was taken
            dX[where[-1]] += dY
            dY = dX
        return dY

    return Pass(forward, backward)


def avg_pool(layer: AvgPool, given: Shape) -> Pass:
    """Return the pass of the mean over each window, one axis after the other."""
    axes = [cells(axis, layer.size, layer.step, n) for axis, n in reversed([*enumerate(layer.shape(given)[:-1])])]
    count = layer.size ** len(axes)

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        shapes = []
        for where in axes:
            shapes.append(X.shape)
            Y = X[where[0]].copy()
            for cell in where[1:]:
                Y += X[cell]
            X = Y
        X /= count
        return X, shapes

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array:
        dY /= count
        for where, shape in zip(reversed(axes), reversed(kept), strict=True):
            dX = np.zeros(shape, dY.dtype)
            for cell in where:
                dX[cell] += dY
            dY = dX
        return dY

    return Pass(forward, backward)


def cells(axis: int, size: int, stride: int, out: int) -> list[tuple[slice, ...]]:
    """Return, for each cell of a window along a spatial axis, the index of that cell of all the windows."""
    ahead = (slice(None),) * (2 + axis)
    return [(*ahead, slice(cell, cell + stride * (out - 1) + 1, stride)) for cell in range(size)]
