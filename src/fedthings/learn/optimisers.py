"""Local optimisers: one step of K devices at once, on rows `(K, dim)` in place.

The weight decay of all is an L2 term in the gradient, g + weight_decay theta (as in PyTorch's SGD and Adam).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedthings.vector import Array

if TYPE_CHECKING:
    from fedthings.learn.task import Recipe


class Optimiser(NamedTuple):
    """`step(theta, gradient, moments, count)` changes theta and the moments, and uses up the gradient.

    `moments` are as many rows `(K, dim)` as the number says, zero at first; `count` `(K, 1)` is the
    number of this step for each device, from 1.
    """

    moments: int
    step: Callable[[Array, Array, tuple[Array, ...], Array], None]


def build(recipe: Recipe) -> Optimiser:
    """Return the optimiser of `recipe`."""
    return {"sgd": sgd, "momentum": momentum, "adam": adam}[recipe.optimizer](recipe)


def sgd(recipe: Recipe) -> Optimiser:
    """theta - lr g (Robbins & Monro 1951)."""

    def step(theta: Array, g: Array, moments: tuple[Array, ...], count: Array) -> None:
        decay(theta, g, recipe.weight_decay)
        g *= recipe.lr
        theta -= g

    return Optimiser(0, step)


def momentum(recipe: Recipe) -> Optimiser:
    """v = momentum v + g; theta - lr v (Polyak 1964, as in PyTorch's SGD)."""

    def step(theta: Array, g: Array, moments: tuple[Array, ...], count: Array) -> None:
        (v,) = moments
        decay(theta, g, recipe.weight_decay)
        v *= recipe.momentum
        v += g
        np.multiply(v, recipe.lr, out=g)
        theta -= g

    return Optimiser(1, step)


def adam(recipe: Recipe) -> Optimiser:
    """theta - lr m^ / (sqrt(v^) + eps) (Kingma & Ba 2015, Alg. 1)."""

    def step(theta: Array, g: Array, moments: tuple[Array, ...], count: Array) -> None:
        m, v = moments
        decay(theta, g, recipe.weight_decay)
        m *= recipe.beta1
        m += (1 - recipe.beta1) * g
        g *= g
        g *= 1 - recipe.beta2
        v *= recipe.beta2
        v += g
        # m^ = m / (1 - beta1^t), v^ = v / (1 - beta2^t)
        rate = (recipe.lr / (1 - recipe.beta1**count)).astype(theta.dtype)
        root = np.sqrt(1 - recipe.beta2**count).astype(theta.dtype)
        np.sqrt(v, out=g)
        g /= root
        g += recipe.eps
        np.divide(m, g, out=g)
        g *= rate
        theta -= g

    return Optimiser(2, step)


def decay(theta: Array, g: Array, rate: float) -> None:
    """Add `rate` theta to the gradient."""
    if rate:
        g += rate * theta
