"""FedProto: devices with networks of their own exchange one vector for each class instead of weights.

The row that travels holds sums and shares by class, so that its mean over devices, which every fold makes, is that of
all their samples: the vector of a class is sum / share. A device works alone here: networks differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from fedthings.learn import slopes
from fedthings.learn.data import Shard, sizes
from fedthings.learn.learner import Fit, Learner, alone
from fedthings.learn.losses import cross_entropy
from fedthings.learn.metrics import add, collect, nothing
from fedthings.learn.model import Sequential, backward, chunk, forward, forwarding, mlp, prepare
from fedthings.stage import State
from fedthings.vector import Array, Key, Payload, digest

if TYPE_CHECKING:
    from fedthings.learn.task import Task


LEAST = 0.01
"""The share of a class, over that of each if all were alike, below which its vector is not known.

What rounding leaves of a class that no device of a version has is a ratio of two errors, which can be anything.
"""


class Fleetwide(NamedTuple):
    """The fleet's vectors `(classes, width)`, and of which classes there is one `(classes,)`."""

    vectors: Array
    known: Array


def body(task: Task, device: str) -> Sequential:
    """Return the network of `device`: its name alone decides which of the bodies."""
    layer = task.model.prototypes
    assert layer is not None
    sizes = layer.bodies[digest("body", device) % len(layer.bodies)]
    return mlp(*task.model.shapes[-2], *sizes, layer.width, layer.classes)


def held(task: Task, device: str, seed: int, state: State) -> tuple[Sequential, Array]:
    """Return what predicts on `device`: its network behind what prepares the input, and its row `(dim,)`."""
    network = body(task, device)
    whole = Sequential(task.model.input, (*task.model.layers[:-1], *network.layers))
    return whole, network.init(seed) if state is None else state["x"]


def fleetwide(task: Task, row: Array) -> Fleetwide:
    """Return the vectors that a received row `(dim,)` means."""
    sums, shares = task.model.layout.views(row).values()
    known = shares * len(shares) > LEAST
    return Fleetwide(sums / np.where(known, shares, 1)[:, None], known)


def learner(task: Task, weight: Literal["samples", "equal"], trains: bool, silent: bool) -> Learner:
    """Return the learner that reports the change of sums and shares; its state is {"x": the device's network}.

    Metrics are of the device's network as it was before. One that does not train measures alone; `silent` does not.
    """

    def many(
        models: Payload,
        states: Sequence[State],
        shards: Sequence[Shard],
        keys: Sequence[Key],
        efforts: Sequence[float],
    ) -> tuple[Fit, list[State]]:
        received = models["x"]
        n, counts = len(shards), sizes(shards)
        change = np.empty((n, received.shape[-1]), received.dtype)
        seen = np.zeros((n, 2), np.int64)
        metrics = {} if silent else nothing(task, n)
        after = list(states)
        for i, (state, shard, key) in enumerate(zip(states, shards, keys, strict=True)):
            network, near = body(task, key.device), received if received.ndim == 1 else received[i]
            own = network.init(key.seed) if state is None else state["x"].copy()
            with np.errstate(all="ignore"):  # a network that diverges is the engine's to refuse
                if not silent:
                    for name, sums in _measured(task, network, own, shard).items():
                        metrics[name][i] = sums
                if trains:
                    (X,) = prepare(task.model, shard.X[None].astype(own.dtype, copy=False))
                    ready, slope = shard._replace(X=X), _slope(task, network, fleetwide(task, near))
                    seen[i] = slopes.one(task, 0.0, slope, own, own, ready, key, efforts[i])
                    change[i] = _told(task, network, own, ready) - near
                    after[i] = {"x": own}
        if not trains:
            return Fit({}, np.ones(n, np.int64), metrics), after
        weights = counts if weight == "samples" else np.minimum(counts, 1)
        return Fit({"x": change}, weights, metrics if silent else {"train": seen, **metrics}), after

    return Learner(lambda: None, alone(many), many)


def _slope(task: Task, network: Sequential, fleet: Fleetwide) -> slopes.Slope:
    """Return what gives the gradient of the cost with the pull toward the fleet's vectors (Alg. 1, eq. 7)."""
    layer, below = task.model.prototypes, _below(network)
    assert layer is not None

    def give(row: Array, X: Array, y: Array, key: Key, step: int) -> tuple[Array, Array]:
        gradient = np.empty((1, row.size), row.dtype)
        weights, slope = network.split(row[None]), network.split(gradient)
        out, tape = forward(network, weights, X[None])
        costs, above = cross_entropy(out, y[None])
        apart = (tape[-1][0] - fleet.vectors[y]) * fleet.known[y, None]
        # Back through the last layer, then with the pull on what it was given.
        flow = network.passes[-1].backward(weights[-1], tape[-1], above, slope[-1], True)
        flow = flow + 2 * layer.pull / apart[0].size * apart
        backward(below, weights[:-1], tape[:-1], flow, slope[:-1])
        return gradient[0], (costs + layer.pull * np.square(apart).mean(-1))[0]

    return give


def _below(network: Sequential) -> Sequential:
    """Return `network` less its last layer: what makes the vectors."""
    return Sequential(network.input, network.layers[:-1])


def _told(task: Task, network: Sequential, own: Array, shard: Shard) -> Array:
    """Return sums and shares by class, over samples that are prepared, as a row like the one that travels (eq. 3)."""
    layer = task.model.prototypes
    assert layer is not None
    below, y = _below(network), shard.y.astype(np.int64).reshape(-1)
    give, size = forwarding(below), chunk(below)
    row = own[: below.layout.dim]
    made = np.concatenate([give(row, shard.X[None, i : i + size])[0] for i in range(0, len(y), size)])
    told = np.empty(task.model.layout.dim, own.dtype)
    sums, shares = task.model.layout.views(told).values()
    member = (y[:, None] == np.arange(layer.classes)).astype(own.dtype) / own.dtype.type(len(y))
    sums[...], shares[...] = member.T @ made, member.sum(0)
    return told


def _measured(task: Task, network: Sequential, own: Array, shard: Shard) -> dict[str, Array]:
    """Return the sums `(m,)` of each metric of the device's network on its test samples."""
    total, give, size = nothing(task, 1), forwarding(network), chunk(network)
    for i in range(0, len(shard.test_X), size):
        X, y = shard.test_X[None, i : i + size], shard.test_y[None, i : i + size]
        out = give(own, prepare(task.model, X.astype(own.dtype, copy=False)))
        for name, more in collect(task, out, X, y).items():
            add(total[name], more)
    return {name: sums[0] for name, sums in total.items()}
