"""What an attack shows: a lower bound on epsilon, from guesses about canaries (Steinke, Nasr, Jagielski 2023).

Each of m canaries was in or out by a fair coin of its own, in one run. Whoever guesses the coins from what was
released, and is right more often than (epsilon, delta) allows, has shown that epsilon is larger.
"""

from __future__ import annotations

from math import exp, log1p
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedthings.vector import Array

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of the canaries, how many are guessed: with more noise it is better to guess only those that are plain. All are
tried, each with an equal part of the doubt, and the best counts."""


class Shown(NamedTuple):
    """`epsilon` is at least this, except with the doubt that was allowed; by `correct` of so many `guesses`.

    `most` is what these canaries could have shown, had every guess been right.
    """

    epsilon: float
    guesses: int
    correct: int
    most: float


def shown(scores: Array, inside: NDArray[np.bool_], delta: float, confidence: float) -> Shown:
    """Return what `scores` `(m,)` of the canaries show, high for those that look as if they were `inside` `(m,)`."""
    m, doubt = len(scores), (1 - confidence) / len(SHARES)
    if m == 0:
        return Shown(0.0, 0, 0, 0.0)
    margin = scores - _cut(scores)
    right = (margin > 0) == inside
    plain = np.argsort(-np.abs(margin), kind="stable")  # the plainest first
    tried = []
    for guesses in sorted({max(1, int(m * share)) for share in SHARES}, reverse=True):
        correct = int(right[plain[:guesses]].sum())
        tried.append(Shown(lower_bound(m, guesses, correct, delta, doubt), guesses, correct, 0.0))
    return max(tried)._replace(most=lower_bound(m, m, m, delta, doubt))


def _cut(scores: Array) -> float:
    """Return where two groups of scores part: as even in themselves as can be (Otsu 1979)."""
    ranked = np.sort(scores)
    low, m = np.cumsum(ranked)[:-1], np.arange(1, len(ranked))
    if not len(m):
        return float(ranked[0]) / 2
    apart = m * m[::-1] * (low / m - (ranked.sum() - low) / m[::-1]) ** 2
    at = int(apart.argmax())
    return float(ranked[at] + ranked[at + 1]) / 2


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, doubt: float) -> float:
    """Return the epsilon below which so many `correct` guesses have at most the probability `doubt`.

    At delta 0 it is the logit of the Clopper-Pearson bound on the share of correct guesses.
    """
    low, high = 0.0, 1.0
    if chance(canaries, guesses, correct, 0.0, delta) > doubt:
        return 0.0
    while chance(canaries, guesses, correct, high, delta) <= doubt:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(canaries, guesses, correct, middle, delta) <= doubt else (low, middle)
    return low


def chance(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return the most that the probability of `correct` or more right guesses can be under (epsilon, delta).

    Steinke, Nasr, Jagielski 2023, theorem 5.2 and appendix D; which canaries are guessed may depend on what was seen.
    """
    wrong = log1p(exp(-epsilon))  # -log of how often randomised response is right
    k = np.arange(guesses + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    choose = factorials[-1] - factorials - factorials[::-1]
    terms = np.exp(choose - k * wrong - (guesses - k) * (epsilon + wrong))
    beyond = terms[correct:].sum()
    below = np.cumsum(terms[:correct][::-1])
    alpha = (below / np.arange(1, correct + 1)).max(initial=0.0)
    return float(min(1.0, beyond + 2 * canaries * delta * alpha))
