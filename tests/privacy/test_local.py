"""Local answers: unbiased, with the variance of the papers, and no answer tells more than epsilon."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import pytest

from fedthings.errors import SpecError
from fedthings.privacy import local
from fedthings.vector import keyed

N = 200_000


def words(*shape: int) -> np.ndarray:
    return keyed("local", *shape).integers(0, 2**64, shape, np.uint64)


def chance(answer, low: int = 0, high: int = 2**64 - 1) -> float:
    """Return how many words of 2^64 give `answer(word)` true: they are those below a threshold."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if answer(np.uint64(middle)) else (low, middle - 1)
    return (low + 1) / 2**64


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("categories", [2, 5])
def test_randomised_response(epsilon, categories):
    lie = chance(lambda w: local.randomised_response(np.array([0]), categories, epsilon, np.array([[w, 0]]))[0] != 0)
    assert log((1 - lie) / (lie / (categories - 1))) <= epsilon * (1 + 1e-9)
    assert log((1 - lie) / (lie / (categories - 1))) == pytest.approx(epsilon, rel=1e-6)
    values = np.arange(N) ** 2 % categories
    answers = local.randomised_response(values, categories, epsilon, words(N, 2))
    want = np.bincount(values, minlength=categories) / N
    spread = sqrt(0.25 / N) * (exp(epsilon) + categories - 1) / (exp(epsilon) - 1)
    ones = np.bincount(answers, minlength=categories)
    shares, error = local.estimate(ones, N, local.response_chances(categories, epsilon))
    assert np.abs(shares - want).max() < 5 * spread
    assert (np.abs(shares - want) < 5 * error).all() and (error < 1.01 * spread).all()
    one = local.randomised_response(np.full(N, 1), categories, 0.1, words(N, 2))
    lies = np.bincount(one, minlength=categories)[[c for c in range(categories) if c != 1]]
    assert np.ptp(lies) < 6 * sqrt(N)  # no lie is likelier than another


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 20.0])
def test_one_bit_mean(epsilon):
    chances = [
        chance(lambda w, value=value: local.one_bit(np.array([value]), -1, 3, epsilon, np.array([w]))[0] == 1)
        for value in (-1.0, 3.0)
    ]
    for one, other in (chances, chances[::-1], [1 - c for c in chances], [1 - c for c in chances[::-1]]):
        assert log(one / other) <= epsilon * (1 + 1e-6)
    values = keyed("values").uniform(-1, 3, N)
    bits = local.one_bit(values, -1, 3, epsilon, words(N))
    spread = 4 * (exp(epsilon) + 1) / (exp(epsilon) - 1) / 2 / sqrt(N)
    share, error = local.estimate(bits.sum(), N, local.bit_chances(epsilon))
    assert abs(-1 + 4 * share - values.mean()) < 5 * spread
    assert 4 * error == pytest.approx(spread, rel=0.01)  # the bits are 1 about half of the time
    beyond = local.one_bit(np.full(N, 99.0), -1, 3, epsilon, words(N))
    share, error = local.estimate(beyond.sum(), N, local.bit_chances(epsilon))
    assert abs(share - 1) < 5 * error + 1e-9 and 4 * error < 1.01 * spread


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 20.0])
def test_unary_encoding(epsilon):
    of = {
        true: chance(
            lambda w, true=true: local.unary(np.array([0 if true else 1]), 2, epsilon, np.array([[w, w]]))[0, 0]
        )
        for true in (True, False)
    }
    assert of[True] == 0.5
    assert log((of[True] / of[False]) * ((1 - of[False]) / (1 - of[True]))) <= epsilon * (1 + 1e-9)
    values = np.arange(20_000) % 7 % 4
    bits = local.unary(values, 4, epsilon, words(20_000, 4))
    shares, error = local.estimate(bits.sum(0), 20_000, local.unary_chances(epsilon))
    deviation = sqrt(20_000 * 4 * exp(epsilon) / (exp(epsilon) - 1) ** 2 + 20_000)  # Wang et al. 2017, section 4.3
    assert np.abs(20_000 * shares - np.bincount(values, minlength=4)).max() < 5 * deviation
    assert (20_000 * error < deviation).all()


def test_words_come_from_the_system_and_epsilon_is_checked():
    assert local.words(3, 2).shape == (3, 2)
    assert not np.array_equal(local.words(4), local.words(4))
    with pytest.raises(SpecError, match="epsilon is 0"):
        local.unary(np.zeros(1, int), 2, 0, local.words(1, 2))
