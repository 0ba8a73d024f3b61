"""Local differential privacy: a device answers a question with noise of its own, so that nobody need be trusted.

Small pure functions for queries: each takes the true values, epsilon and random words of 64 bits. Every answer is bits,
whose sums `estimate` takes the noise out of. Chances are whole numbers over 2^64, rounded so that epsilon holds.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from math import ceil, exp, inf, prod
from typing import NamedTuple, TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedthings.errors import SpecError
from fedthings.learn.task import within
from fedthings.vector import Array, Key

Words = NDArray[np.uint64]
_ALL = 1 << 64


def words(*shape: int) -> Words:
    """Return random words of `shape` from the system's cryptographic generator; a simulation draws keyed ones."""
    return np.frombuffer(secrets.token_bytes(8 * prod(shape)), np.uint64).reshape(shape)


Draw: TypeAlias = Callable[[Key, int], Words]
"""What gives a device so many random words for the answer with this key."""


def drawn(key: Key, count: int) -> Words:
    """Return `count` words from the system's cryptographic generator, whatever the `key`."""
    return words(count)


def simulated(key: Key, count: int) -> Words:
    """Return the `count` words of `key`, as a simulation draws them: who knows the seed can take the noise away."""
    return key.rng("local").integers(0, _ALL, count, np.uint64)


class LocalDp(Struct, frozen=True, forbid_unknown_fields=True):
    """Each device answers a query once, with noise of its own: that costs it `epsilon`, whatever its data.

    `between`: the low and the high bound of a mean; values beyond them count as the bounds.
    """

    epsilon: float
    between: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        within("local.epsilon", self.epsilon, 1e-3, 30)
        if self.between and not (len(self.between) == 2 and -inf < self.between[0] < self.between[1] < inf):
            raise SpecError(f"local.between is {list(self.between)}: give two finite numbers, the lower one first")


# ---------------------------------------------------------------------- the estimate


class Chances(NamedTuple):
    """With what chance a bit of an answer is 1 where it should be 0 (`least`), and where it should be 1 (`most`)."""

    least: float
    most: float


def estimate(ones: Array, n: int, chances: Chances) -> tuple[Array, Array]:
    """Return which share of `n` devices have each bit `(k,)`, from the sums `ones` `(k,)`, and the standard error.

    The share is unbiased, so it may be below 0 or above 1. Of devices that all differ the error is a little less than
    is said: a sum of unlike coins varies less than one of like coins.
    """
    least, most = chances
    seen = np.asarray(ones, np.float64) / n
    likely = np.clip(seen, least, most)
    return (seen - least) / (most - least), np.sqrt(likely * (1 - likely) / n) / (most - least)


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


def response_chances(categories: int, epsilon: float) -> Chances:
    """Return the chances of the bit of each category in randomised responses."""
    lie = exp(-epsilon) / (1 + (categories - 1) * exp(-epsilon))
    return Chances(lie, exp(epsilon) * lie)


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


def bit_chances(epsilon: float) -> Chances:
    """Return the chances of the bit of a value at the low and at the high bound."""
    least = 1 / (exp(epsilon) + 1)
    return Chances(least, 1 - least)


# ------------------------------------------------------------------ many categories


def unary(values: Array, categories: int, epsilon: float, random: Words) -> Array:
    """Return bits `(n, categories)` for `values` `(n,)`, by words `(n, categories)` (OUE; Wang et al. 2017, 4.3).

    The bit of the true category is 1 with chance 1/2, any other with chance 1 / (e^epsilon + 1): better than one
    answer where there are more than 3 e^epsilon + 2 categories (4.4).
    """
    within("epsilon", epsilon, 1e-3, 30)
    other = np.uint64(ceil(_ALL / (exp(epsilon) + 1) * (1 + 1e-15)))
    true = np.arange(categories) == np.asarray(values)[:, None]
    return (random < np.where(true, np.uint64(_ALL // 2), other)).astype(np.uint8)


def unary_chances(epsilon: float) -> Chances:
    """Return the chances of each bit in unary encoding."""
    return Chances(1 / (exp(epsilon) + 1), 0.5)
