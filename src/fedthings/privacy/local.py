"""Local differential privacy: a device answers a question with noise of its own, so that nobody need be trusted.

Small pure functions for queries: each takes the true values, epsilon and random words of 64 bits, and has beside it
what makes an unbiased estimate of the answers. Chances are whole numbers over 2^64, rounded so that epsilon holds.
"""

from __future__ import annotations

import secrets
from math import ceil, exp, prod

import numpy as np
from numpy.typing import NDArray

from fedthings.learn.task import within
from fedthings.vector import Array

Words = NDArray[np.uint64]
_ALL = 1 << 64


def words(*shape: int) -> Words:
    """Return random words of `shape` from the system's cryptographic generator; a simulation draws keyed ones."""
    return np.frombuffer(secrets.token_bytes(8 * prod(shape)), np.uint64).reshape(shape)


# --------------------------------------------------------------- one of k categories


def randomised_response(values: Array, categories: int, epsilon: float, random: Words) -> Array:
    """Return for each of `values` `(n,)` in 0..categories-1 itself, or any other one, by words `(n, 2)`.

    It is itself with chance e^epsilon / (e^epsilon + categories - 1) (Warner 1965; Kairouz et al. 2016, section 2.1).
    """
    within("epsilon", epsilon, 1e-3, 30)
    others = np.uint64(categories - 1)
    lies = random[:, 0] < np.uint64(_least(exp(-epsilon) * (categories - 1), categories))
    other = (values + 1 + (random[:, 1] % others).astype(np.int64)) % categories
    return np.where(lies, other, values)


def frequencies(answers: Array, categories: int, epsilon: float) -> Array:
    """Return the share of each category `(categories,)` among those who gave `answers` `(n,)`; it may be below 0."""
    lie = exp(-epsilon) / (1 + (categories - 1) * exp(-epsilon))
    seen = np.bincount(answers, minlength=categories) / len(answers)
    return np.asarray((seen - lie) / (1 - categories * lie))


def _least(odds: float, categories: int) -> int:
    """Return the chance to lie, with `odds` against the truth, over 2^64, from above."""
    return min(_ALL - _ALL // categories, ceil(odds / (1 + odds) * _ALL * (1 + 1e-15)), _ALL - 1)


# -------------------------------------------------------------------- a bounded mean


def one_bit(values: Array, low: float, high: float, epsilon: float, random: Words) -> Array:
    """Return a bit `(n,)` for each of `values` `(n,)` between `low` and `high`, by words `(n,)`.

    It is 1 with a chance that rises from 1 / (e^epsilon + 1) to e^epsilon / (e^epsilon + 1) (Ding, Kulkarni, Yekhanin
    2017, equation 1). Values beyond the bounds count as the bounds.
    """
    within("epsilon", epsilon, 1e-3, 30)
    least = (1 + 1e-15) / (exp(epsilon) + 1)
    share = np.clip((np.asarray(values, np.float64) - low) / (high - low), 0, 1)
    chance = np.clip(least + share * (1 - 2 * least), least, 1 - least)
    return np.asarray(random < np.minimum(chance * _ALL, float(_ALL - 2048)).astype(np.uint64), np.uint8)


def mean(bits: Array, low: float, high: float, epsilon: float) -> float:
    """Return the mean of the values of those who gave `bits` `(n,)`; it may lie beyond the bounds."""
    least = 1 / (exp(epsilon) + 1)
    return float(low + (high - low) * (bits.mean() - least) / (1 - 2 * least))


# ------------------------------------------------------------------ many categories


def unary(values: Array, categories: int, epsilon: float, random: Words) -> Array:
    """Return bits `(n, categories)` for `values` `(n,)`, by words `(n, categories)` (OUE; Wang et al. 2017, 4.3).

    The bit of the true category is 1 with chance 1/2, any other with chance 1 / (e^epsilon + 1): better than one
    answer where there are more than 3 e^epsilon + 2 categories.
    """
    within("epsilon", epsilon, 1e-3, 30)
    other = np.uint64(ceil(_ALL / (exp(epsilon) + 1) * (1 + 1e-15)))
    true = np.arange(categories) == np.asarray(values)[:, None]
    return (random < np.where(true, np.uint64(_ALL // 2), other)).astype(np.uint8)


def counts(bits: Array, epsilon: float) -> Array:
    """Return how many of those who gave `bits` `(n, categories)` are of each category; it may be below 0."""
    other = 1 / (exp(epsilon) + 1)
    return np.asarray((bits.sum(0, dtype=np.int64) - len(bits) * other) / (0.5 - other))
