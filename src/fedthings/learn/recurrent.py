"""Embedding and gated recurrent unit, forward and backward on cohorts."""

from __future__ import annotations

import numpy as np

from fedthings.learn import layers
from fedthings.learn.element import Shape
from fedthings.learn.passes import Draw, Kept, Pass, Weights, down, sigmoid
from fedthings.learn.preparing import behind
from fedthings.vector import Array


def embedding(layer: layers.Embedding) -> Pass:
    """Return the pass that looks up a vector for each number; what is beyond the rows has the nearest row."""
    column, width = layer.column, layer.width

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        numbers = X if column is None else X[..., column]
        which = np.clip(np.nan_to_num(numbers), 0, layer.rows - 1).astype(np.int64)
        vectors = np.broadcast_to(w["vectors"], (len(X), layer.rows, width))
        flat = which.reshape(len(X), -1)
        Y = np.take_along_axis(vectors, flat[..., None], 1).reshape(*which.shape, width)
        return Y if column is None else behind(X, column, Y), flat

    def backward(w: Weights, kept: Kept, dY: Array, g: Weights, deep: bool) -> Array | None:
        own = dY if column is None else dY[..., -width:]
        g["vectors"][...] = 0
        for table, which, slope in zip(g["vectors"], kept, own.reshape(len(kept), -1, width), strict=True):
            np.add.at(table, which, slope)  # in the order of the samples, a device at a time
        if not deep:
            return None
        if column is None:
            return np.zeros(dY.shape[:-1], dY.dtype)
        rest = dY[..., :-width]
        return np.insert(rest, column, 0, -1)

    return Pass(forward, backward)


def gru(layer: layers.Gru, given: Shape) -> Pass:
    """Return the pass of a gated recurrent unit (Cho et al. 2014, eq. 5-8, with the candidate as PyTorch has it).

    r = s(W_r x + U_r h), z = s(W_z x + U_z h), n = tanh(W_n x + r (U_n h)), h <- (1 - z) n + z h; all with biases.
    """
    steps, channels = given
    U = layer.units
    gates = slice(0, 2 * U)
    last = slice(2 * U, 3 * U)

    def forward(w: Weights, X: Array, draw: Draw) -> tuple[Array, Kept]:
        K, B = X.shape[:2]
        G = X.reshape(K, B * steps, channels) @ w["weight"]
        G += w["bias"][:, None]
        G = G.reshape(K, B, steps, 3 * U)
        H = np.zeros((K, B, steps + 1, U), X.dtype)
        kept = np.empty((K, B, steps, 4 * U), X.dtype)  # r, z, n, and U_n h
        h = np.zeros((K, B, U), X.dtype)
        for t in range(steps):
            R = h @ w["recurrent"]
            R += w["recurrent_bias"][:, None]
            rz = sigmoid(G[:, :, t, gates] + R[..., gates])
            r, z = rz[..., :U], rz[..., U:]
            n = np.tanh(G[:, :, t, last] + r * R[..., last])
            h = n + z * (h - n)
            H[:, :, t + 1] = h
            kept[:, :, t, gates], kept[:, :, t, last], kept[:, :, t, 3 * U :] = rz, n, R[..., last]
        return H[:, :, 1:].copy() if layer.sequence else h, (X, H, kept)

    def backward(w: Weights, saved: Kept, dY: Array, g: Weights, deep: bool) -> Array | None:
        X, H, kept = saved
        K, B = X.shape[:2]
        dG, dR = np.empty((2, K, B, steps, 3 * U), X.dtype)  # slopes before the gates, of what comes from x and from h
        back = w["recurrent"].swapaxes(-1, -2)
        dh = np.zeros((K, B, U), X.dtype) if layer.sequence else dY
        for t in reversed(range(steps)):
            if layer.sequence:
                dh = dh + dY[:, :, t]
            r, z, n, q = (kept[:, :, t, i * U : (i + 1) * U] for i in range(4))
            dn = dh * (1 - z) * (1 - n * n)
            dz = dh * (H[:, :, t] - n) * z * (1 - z)
            dr = dn * q * r * (1 - r)
            for D, candidate in ((dG, dn), (dR, dn * r)):
                D[:, :, t, :U], D[:, :, t, U : 2 * U], D[:, :, t, last] = dr, dz, candidate
            dh = dh * z + np.ascontiguousarray(dR[:, :, t]) @ back
        dG, dR = (D.reshape(K, B * steps, 3 * U) for D in (dG, dR))
        rows = X.reshape(K, B * steps, channels)
        before = H[:, :, :-1].reshape(K, B * steps, U)
        np.matmul(rows.swapaxes(-1, -2), dG, out=g["weight"])
        np.matmul(before.swapaxes(-1, -2), dR, out=g["recurrent"])
        down(dG, g["bias"])
        down(dR, g["recurrent_bias"])
        return (dG @ w["weight"].swapaxes(-1, -2)).reshape(X.shape) if deep else None

    return Pass(forward, backward)
