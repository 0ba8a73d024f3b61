"""Models that are Python code, as a user's package would hold them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import fedthings as ft
from fedthings.learn import to_torch

PORTABLE = ft.mlp(6, 5, 3)


def by_hand(inputs: int = 6, classes: int = 3):
    """Softmax regression in NumPy; one batch at a time, in an order of its own."""

    def init(seed):
        return {"W": np.random.default_rng(seed).normal(0, 0.1, (inputs, classes)), "b": np.zeros(classes, "f4")}

    def predict(params, X):
        return X @ params["W"] + params["b"]

    def train(params, data, recipe, key, mu, effort):
        W, b = params["W"].copy(), params["b"].copy()
        order = key.rng("my order").permutation(len(data.X))
        size = recipe.batch or len(order)
        batches = [order[at : at + size] for _ in range(recipe.epochs) for at in range(0, len(order), size)]
        costs = []
        for batch in batches[: max(1, round(effort * len(batches)))]:
            z = predict({"W": W, "b": b}, data.X[batch])
            p = np.exp(z - z.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            costs += (-np.log(p[np.arange(len(batch)), data.y[batch]])).tolist()
            p[np.arange(len(batch)), data.y[batch]] -= 1
            W -= recipe.lr * (data.X[batch].T @ p / len(batch) + mu * (W - params["W"]))
            b -= recipe.lr * (p.mean(0) + mu * (b - params["b"]))
        return {"W": W, "b": b}, None, {"loss": costs}

    return ft.lift(init, train, predict, input=inputs, outputs=classes)


def center():
    """The mean of all samples, measured by the distance to it: no model that predicts."""

    def train(params, data, recipe):
        return {"mean": params["mean"] + recipe.lr * (data.X.mean(0) - params["mean"])}, None, {}

    def evaluate(params, X, y):
        far = np.linalg.norm(X - params["mean"], axis=1)
        return {"loss": far**2, "apart": far, "within": far < 3}

    return ft.lift(
        lambda seed: {"mean": np.full(6, 9.0)},
        train,
        evaluate=evaluate,
        input=6,
        outputs=1,
        metrics={"apart": "low", "within": "high"},
    )


def portable(at_once: bool = False):
    """The portable model as a module, to compare both engines."""
    return ft.with_torch(lambda: to_torch.module(PORTABLE), input=6, at_once=at_once)


def net(width: int = 8, at_once: bool = False):
    """Plain layers."""

    def build():
        return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))

    return ft.with_torch(build, input=6, at_once=at_once)


def normed(rate: float = 0.5):
    """Layers that draw at random and layers that count."""

    def build():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(rate), nn.Linear(8, 3))

    return ft.with_torch(build, input=6)


class Frozen(nn.Module):
    """A feature map that stays, and a head that learns."""

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Linear(6, 10), nn.Linear(10, 3)
        self.features.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.relu(self.features(x)))


class Adapted(nn.Linear):
    """A layer that stays, and two thin matrices beside it that learn (LoRA)."""

    def __init__(self, inputs: int, outputs: int, rank: int):
        super().__init__(inputs, outputs)
        self.requires_grad_(False)
        self.thin = nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False))
        nn.init.zeros_(self.thin[1].weight)

    def forward(self, x):
        return super().forward(x) + self.thin(x)


class Gated(nn.Module):
    """A recurrent network over 6 steps of one channel."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


class Follower(nn.Module):
    """A buffer that is assigned anew in each step, and a counter that does not travel."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(6))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.seen = 0.5 * self.seen + 0.5 * x.mean(0)
            self.steps = self.steps + 1
            x = x / self.steps
        return self.layer(x - self.seen)


def frozen():
    return ft.with_torch(Frozen, input=6)


def adapted(rank: int = 2, width: int = 64):
    return ft.with_torch(lambda: nn.Sequential(Adapted(6, width, rank), nn.Tanh(), Adapted(width, 3, rank)), input=6)


def gated():
    return ft.with_torch(Gated, input=(6, 1))


def follower():
    return ft.with_torch(Follower, input=6)


def images(at_once: bool = False):
    """A small convolutional network, channels first."""

    def build():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 3))

    return ft.with_torch(build, input=(1, 8, 8), at_once=at_once)
