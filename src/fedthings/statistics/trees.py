"""Gradient-boosted trees by federated histograms: each level of a tree is a round of sums.

Chen & Guestrin 2016, eq. 5 (leaf), 7 (gain); histograms as in Ke et al. 2017, Alg. 1, of which devices send those of
left children alone. Gradients are whole multiples of 2^-24, so that sums of them are exact, and the trees are those of
one machine with all samples, bit for bit. The edges of the bins are asked first, by the order statistics of a query.
"""

from __future__ import annotations

from math import log
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.learn.data import Shard
from fedthings.learn.filled import Forest
from fedthings.learn.filling import grown
from fedthings.learn.passes import sigmoid
from fedthings.learn.task import Task, within
from fedthings.statistics.features import ends_in, filled, held
from fedthings.statistics.histogram import MOST, order_statistics
from fedthings.statistics.statistic import DONE, Known, Next, Statistic, summed
from fedthings.vector import Array, Payload

GRID = 2.0**24
"""Steps of a gradient of 1."""
TINY = 1e-12
"""What a split must gain: less is rounding."""


class Boosting(Struct, frozen=True, tag="boosting", forbid_unknown_fields=True):
    """Trees that each take `rate` of what is left; `penalty` on the leaves, `least` curvature in each.

    A feature has `bins` at the most. `edges` are those that were asked, float32.
    """

    rate: float = 0.1
    penalty: float = 1.0
    least: float = 1.0
    bins: int = 32
    edges: bytes = b""

    def __post_init__(self) -> None:
        within("strategy.statistic.rate", self.rate, 1e-6, 1)
        within("strategy.statistic.penalty", self.penalty, 0, 1e18)
        within("strategy.statistic.least", self.least, 0, 1e18)
        within("strategy.statistic.bins", self.bins, 2, 256)


def check(spec: Boosting, task: Task) -> None:
    """Raise SpecError unless the model of `task` is a forest alone, whose thresholds are of the data as they are."""
    ends_in(task, "boosting", Forest, loss=("mse", "binary_cross_entropy", "cross_entropy"))
    if len(task.model.layers) > 1 or task.normalise != "none":
        raise SpecError(
            "strategy boosting makes trees of the features as they are: let the model be forest(...) alone, and "
            'task.normalise "none"'
        )


def before(spec: Boosting, task: Task) -> Statistic:
    """Return the statistic of the bins' edges: about as many samples are in each."""

    def read(shard: Shard) -> list[Array]:
        return list(shard.X.reshape(len(shard.X), -1).astype(np.float32).T + np.float32(0))

    shares = np.arange(1, spec.bins) / spec.bins
    return order_statistics(read, task.model.input[0], shares.tolist(), 0.125 / spec.bins)


def informed(spec: Boosting, known: Known) -> Boosting:
    """Return `spec` with the edges that were found; the same one twice is one."""
    edges = np.full(known["value"].shape, MOST, "<f4")
    for i, values in enumerate(known["value"]):
        own = np.unique(values[~np.isnan(values)])
        edges[i, : len(own)] = own
    return msgspec.structs.replace(spec, edges=edges.tobytes())


def build(spec: Boosting, task: Task, seed: int) -> Statistic:
    """Return the statistic of all levels of all trees, after one round for what they begin from."""
    return Grower(spec, task).statistic()


class Grower:
    """What devices and server agree on: `row` says by its number "grown" which tree and which level are next."""

    def __init__(self, spec: Boosting, task: Task) -> None:
        layer: Any = task.model.layers[-1]
        self.spec, self.model, self.loss = spec, task.model, task.loss
        self.units, self.trees, self.depth = layer.units, layer.trees, layer.depth
        self.f, self.bins = task.model.input[0], spec.bins
        self.slots = max(1, 2 ** (self.depth - 2))  # left children of the last level that is split
        self.shape = (self.units, self.slots, self.f, self.bins)
        self.edges = np.frombuffer(spec.edges, "<f4").reshape(-1, self.bins - 1)

    def statistic(self) -> Statistic:
        """Return what is summed in each round, and what follows."""
        dim, rounds = int(np.prod(self.shape)), 1 + self.trees * self.depth
        return Statistic(
            summed(gradient=dim, curvature=dim), rounds, np.zeros_like, self.measure, self.step, needed=rounds
        )

    # --------------------------------------------------------------- on the device

    def measure(self, row: Array, shard: Shard) -> Payload:
        """Return the histograms of the level that is next: of all samples, or of the left children."""
        own = held(self.model, row)
        X = shard.X.reshape(len(shard.X), -1).astype(np.float32)
        turn, level = divmod(max(int(own["grown"][0]) - 1, 0), self.depth)
        gradient, curvature = self._slopes(self._before(own, X, turn), shard.y)
        binned = np.stack([np.searchsorted(e, x, "left") for e, x in zip(self.edges, _low(X).T, strict=True)])
        found = np.zeros((2, *self.shape))
        for unit in range(self.units):
            tree = turn * self.units + unit
            node = grown(own["feature"][tree], own["threshold"][tree], X, level)
            some = np.flatnonzero(node % 2 == 0) if level else np.arange(len(X))
            slot = node[some] // 2 * self.bins
            for i, bins in enumerate(binned):
                for sums, slopes in zip(found, (gradient, curvature), strict=True):
                    counted = np.bincount(slot + bins[some], slopes[some, unit], self.slots * self.bins)
                    sums[unit, :, i] = counted.reshape(self.slots, self.bins)
        return {"gradient": found[0].reshape(-1), "curvature": found[1].reshape(-1)}

    def _before(self, own: dict[str, Array], X: Array, turn: int) -> Array:
        """Return what the trees before this `turn` say of `X`, `(n, units)`."""
        said = np.tile(own["bias"], (len(X), 1))
        for tree in range(turn * self.units):
            leaf = grown(own["feature"][tree], own["threshold"][tree], X, self.depth)
            said[:, tree % self.units] += own["value"][tree][leaf]
        return said

    def _slopes(self, said: Array, y: Array) -> tuple[Array, Array]:
        """Return gradient and curvature of the loss `(n, units)`, on the grid on which sums are exact."""
        if self.loss == "cross_entropy":
            said = said - said.max(1, keepdims=True)
            p = np.exp(said)
            p /= p.sum(1, keepdims=True)
            slope, bend = p - np.eye(self.units)[y.reshape(-1).astype(np.int64)], p * (1 - p)
        elif self.loss == "binary_cross_entropy":
            p = sigmoid(said)
            slope, bend = p - y.reshape(-1, 1), p * (1 - p)
        else:
            slope, bend = said - y.reshape(len(y), self.units), np.ones_like(said)
        return np.rint(slope * GRID) / GRID, np.rint(bend * GRID) / GRID

    # --------------------------------------------------------------- on the server

    def step(self, row: Array, known: Known, totals: Payload) -> Next:
        """Return the row with one level more, or with what all trees begin from."""
        own = held(self.model, row)
        G, H = (totals[name].reshape(self.shape) for name in ("gradient", "curvature"))
        made = int(own["grown"][0])
        own["grown"] = np.array([made + 1.0])
        if not made:
            own["bias"] = self._base(G[:, 0, 0].sum(-1), H[:, 0, 0].sum(-1))
            return Next(filled(self.model, row, own), {})
        turn, level = divmod(made - 1, self.depth)
        if level:
            half = 2 ** (level - 1)
            G, H = (_both(left[:, :half], known[name]) for left, name in ((G, "gradient"), (H, "curvature")))
        else:
            G, H = G[:, :1], H[:, :1]
        for unit in range(self.units):
            for node in range(2**level):
                self._split(own, turn * self.units + unit, level, node, G[unit, node], H[unit, node])
        stop = DONE if made == self.trees * self.depth else ""
        return Next(filled(self.model, row, own), {"gradient": G, "curvature": H}, stop)

    def _split(self, own: dict[str, Array], tree: int, level: int, node: int, G: Array, H: Array) -> None:
        """Split a node, of which `G` and `H` `(f, bins)` are the histograms, where most is gained, if anything is."""
        left, bend = G.cumsum(1)[:, :-1], H.cumsum(1)[:, :-1]
        whole, all_ = G[0].sum(), H[0].sum()
        least = max(self.spec.least, 1 / GRID)
        may = (bend >= least) & (all_ - bend >= least) & (self.edges < MOST)
        gain = self._worth(left, bend) + self._worth(whole - left, all_ - bend) - self._worth(whole, all_)
        gain = np.where(may, gain, 0)
        feature, bin_ = np.unravel_index(int(gain.argmax()), gain.shape)
        splits = gain[feature, bin_] > TINY
        at = 2**level - 1 + node
        own["feature"][tree, at] = feature if splits else 0
        own["threshold"][tree, at] = self.edges[feature, bin_] if splits else MOST
        if level == self.depth - 1:
            low, bent = (left[feature, bin_], bend[feature, bin_]) if splits else (whole, all_)
            own["value"][tree, 2 * node] = self._leaf(low, bent)
            own["value"][tree, 2 * node + 1] = self._leaf(whole - low, all_ - bent) if splits else 0

    def _worth(self, G: Any, H: Any) -> Any:
        return G * G / np.maximum(H + self.spec.penalty, TINY)

    def _leaf(self, G: float, H: float) -> float:
        return -self.spec.rate * G / max(H + self.spec.penalty, TINY)

    def _base(self, G: Array, H: Array) -> Array:
        """Return what the trees begin from: the mean, or the logarithm of the odds or of the shares."""
        if self.loss == "mse":
            return -G / np.maximum(H, TINY)
        p = 0.5 if self.loss == "binary_cross_entropy" else 1 / self.units
        share = np.clip(p - G * p * (1 - p) / np.maximum(H, TINY), TINY, 1 - TINY)
        odds = self.loss == "binary_cross_entropy"
        return np.array([log(one / (1 - one)) if odds else log(one) for one in share.tolist()])


def _both(left: Array, above: Array) -> Array:
    """Return the histograms of all children from those of the left ones and of their parents: exact on the grid."""
    return np.stack([left, above - left], 2).reshape(left.shape[0], -1, *left.shape[2:])


def _low(X: Array) -> Array:
    """Return `X` where what is missing goes left."""
    return np.where(np.isnan(X), -MOST, X)
