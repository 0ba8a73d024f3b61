"""What noise is worth: epsilon for a delta, and back.

Of a Gaussian mechanism, whatever its matrix, exactly (Balle, Wang 2018, theorem 8); of one that a random sample
amplifies, by dp-accounting, which the extra `privacy` installs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from math import erfc, exp, inf, isnan, log, log1p, pi, sqrt
from typing import Any, Literal

from fedthings.errors import SpecError

DISCRETE = 1e-9
"""What the noise being whole-numbered adds to epsilon at the most.

A discrete Gaussian and a rounded one differ at k by a factor of 1 + (k^2 / sigma^2 - 1) / 24 sigma^2. Over 10^15
numbers the sum of these stays below 10^-9 at `noise.SIGMA`, except with a chance below 10^-30.
"""


def coarse(deviation: float, numbers: int) -> float:
    """Return by how much so many `numbers` of discrete noise of a small `deviation` differ from rounded Gaussian ones.

    It is the largest sum of the logarithms above, except with a chance of e^-70 (Laurent, Massart 2000, lemma 1).
    """
    return (2 * sqrt(70.0 * numbers) + 140) / (24 * deviation**2)


# ---------------------------------------------------------------- Gaussian mechanisms


def delta(mu: float, epsilon: float) -> float:
    """Return the delta at `epsilon` of a Gaussian mechanism whose sensitivity is `mu` deviations of its noise."""
    if mu <= 0:
        return 0.0
    near, far = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    return max(0.0, exp(_log_normal(near)) - exp(min(0.0, epsilon + _log_normal(far))))


def epsilon(mu: float, delta_: float) -> float:
    """Return the least epsilon at `delta_` of such a mechanism, from above; `DISCRETE` is in it."""
    if mu <= 0:
        return 0.0
    if delta(mu, 0.0) <= delta_:
        return DISCRETE
    high = 1.0
    while delta(mu, high) > delta_:
        high *= 2
    return _least(lambda e: delta(mu, e) <= delta_, 0.0, high) + DISCRETE


def mu(epsilon_: float, delta_: float) -> float:
    """Return the largest mu that `epsilon_` at `delta_` allows, from below."""
    allowed = epsilon_ - DISCRETE
    high = 1.0
    while delta(high, allowed) <= delta_:
        high *= 2
    return 1 / _least(lambda z: delta(1 / z, allowed) <= delta_, 1 / high, 1e12)


def _least(enough: Callable[[float], bool], low: float, high: float) -> float:
    """Return the least number between `low` and `high` that is `enough`, from above, to 50 bits."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high) or high - low < 1e-15 * high:
            break
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _log_normal(x: float) -> float:
    """Return the logarithm of the normal distribution function, also far below 0."""
    if x > 8:
        return log1p(-erfc(x / sqrt(2)) / 2)
    if x > -25:
        return log(erfc(-x / sqrt(2)) / 2)
    square = 1 / (x * x)  # Abramowitz, Stegun 1964, 26.2.12
    series = 1 - square * (1 - 3 * square * (1 - 5 * square * (1 - 7 * square)))
    return -x * x / 2 - log(-x * sqrt(2 * pi)) + log(series)


# ------------------------------------------------------------- amplified by sampling


STEP = 1e-3
"""Of a privacy loss distribution; what it rounds makes epsilon larger, here by 0.04 %."""
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)
"""Of Renyi divergences: whole ones, for which the sum of an amplified mechanism is finite and quick."""
LARGE = 100.0
"""An epsilon above which the distributions are large too, and the divergences have to do."""
Method = Literal["pld", "rdp"]
"""Privacy loss distributions (Koskela et al. 2020), or Renyi divergences (Mironov 2017)."""


@cache
def amplified(multiplier: float, share: float, versions: int, delta_: float, method: Method = "pld") -> float:
    """Return epsilon after `versions`, each with a Poisson sample of that `share`, of noise `multiplier`.

    Raises SpecError where dp-accounting is not installed.
    """
    found = dp_accounting()
    event = found.SelfComposedDpEvent(found.PoissonSampledDpEvent(share, found.GaussianDpEvent(multiplier)), versions)
    bound = _epsilon(event, delta_)
    if method == "rdp" or bound > LARGE:
        return bound
    return min(bound, _epsilon(event, delta_, max(STEP, STEP * bound / 4)))


def tree(multiplier: float, versions: int, delta_: float) -> float:
    """Return epsilon by Renyi divergences of a binary tree in which a device takes part once; see `amplified`."""
    return _epsilon(dp_accounting().SingleEpochTreeAggregationDpEvent(multiplier, versions), delta_)


def multiplier(epsilon_: float, delta_: float, share: float, versions: int) -> float:
    """Return the least noise multiplier that makes `amplified` at most `epsilon_`, to a thousandth, from above."""
    high = 1.0
    while amplified(high, share, versions, delta_) > epsilon_:
        high *= 2
        if high > 1e6:
            raise SpecError(f"privacy.epsilon is {epsilon_} for {versions} versions: no noise is enough")
    low = high / 2
    while low > 1e-3 and amplified(low, share, versions, delta_) <= epsilon_:
        low, high = low / 2, low
    while high > low * 1.001:
        middle = sqrt(low * high)
        low, high = (low, middle) if amplified(middle, share, versions, delta_) <= epsilon_ else (middle, high)
    return high


def _epsilon(event: Any, delta_: float, step: float = 0.0) -> float:
    """Return epsilon of `event` by Renyi divergences, or by privacy loss distributions in steps of `step`."""
    found = dp_accounting()
    # Both know what a device adds to a sum: zero-out for the Gaussian is the same as to add or to remove.
    relation = found.NeighboringRelation
    one = relation.REPLACE_SPECIAL if isinstance(event, found.SingleEpochTreeAggregationDpEvent) else None
    one = one or relation.ADD_OR_REMOVE_ONE
    accountant = found.pld.PLDAccountant(one, step) if step else found.rdp.RdpAccountant(ORDERS, one)
    value = float(accountant.compose(event).get_epsilon(delta_))
    return inf if isnan(value) else value


def dp_accounting() -> Any:
    """Return the library. Raises SpecError where it is not installed."""
    try:
        return import_module("dp_accounting")
    except ImportError:
        raise SpecError(
            "an amplified mechanism is accounted for by dp-accounting, which is not installed: "
            'pip install "fedthings[privacy]", or use ft.blt(), which needs no sampling either'
        ) from None
