"""Buffered linear Toeplitz noise: what is added to one version is taken back, in part, in those that follow.

The noise of all versions is C^-1 z, z independent, C a lower triangular Toeplitz matrix whose first column is
c_0 = 1, c_t = sum_j omega_j theta_j^(t - 1): a device needs C, and d buffers of the model's size make the noise
(Dvijotham, McMahan, Pillutla, Steinke, Thakurta 2024). For devices that come back, the parameters are fitted to n
versions, k participations and b versions between two of them (McMahan, Xu, Zhang 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import isfinite, log, sqrt
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedthings.learn.task import within

Row = NDArray[np.float64]
ROUNDS = 300
"""Steps of the fit at the most."""


class Blt(Struct, frozen=True, tag_field="kind", tag="blt", forbid_unknown_fields=True):
    """Noise by `buffers` buffers, each of the model's size in float64 at the coordinator."""

    buffers: int = 3

    def __post_init__(self) -> None:
        within("privacy.mechanism.buffers", self.buffers, 1, 8)


class Participation(NamedTuple):
    """In `versions` a device takes part at most `times`, each at least `apart` versions after the one before."""

    versions: int
    apart: int
    times: int


class Toeplitz(NamedTuple):
    """The decays theta `(d,)` and scales omega `(d,)` of C."""

    theta: Row
    omega: Row


# ------------------------------------------------------------------------ the matrix


def column(decays: Row, scales: Row, n: int) -> Row:
    """Return the first column `(n,)`: 1, then sum_j scales_j decays_j^(t - 1)."""
    out = np.ones(n)
    if n > 1:
        powers = np.exp(np.arange(n - 1)[:, None] * np.log(decays))
        out[1:] = powers @ scales
    return out


def squares(c: Row, participation: Participation) -> Row:
    """Return `(n,)` the squared sensitivity of the first 1 to n versions, for reports of norm 1.

    Where c is not negative and does not grow, the worst device takes part as early and as often as it may (Kalinin,
    Lampert 2024, theorem 2).
    """
    n, apart, times = participation
    total = np.zeros(n)
    for start in range(0, min(n, apart * times), apart):
        total[start:] += c[: n - start]
    return np.cumsum(total * total)


def error(fit: Toeplitz, participation: Participation) -> float:
    """Return the root mean square error of the prefix sums, for noise that hides reports of norm 1 at multiplier 1."""
    theta, omega = fit
    return _error(theta, omega, *_inverse(theta, _zeros(theta, omega)), participation)


def growth(fit: Toeplitz, versions: int) -> float:
    """Return the deviation of the noise of the last version, the largest there is, over that of fresh noise."""
    buffers, square, out = np.zeros_like(fit.theta), 0.0, 1.0
    for _ in range(versions):  # as in `stream`, without its rounding: the first column of C^-1
        square += out * out
        buffers = buffers * fit.theta + out
        out = -float(fit.omega @ buffers)
    return sqrt(square)


def _error(theta: Row, omega: Row, decays: Row, scales: Row, participation: Participation) -> float:
    n = participation.versions
    prefix = np.cumsum(column(decays, scales, n))
    sensitivity = squares(column(theta, omega, n), participation)[-1]
    return float(np.sqrt(sensitivity * np.cumsum(prefix * prefix).mean()))


def _zeros(theta: Row, omega: Row) -> Row:
    """Return the decays of C^-1: c(x) = prod (1 - zeros x) / prod (1 - theta x), so these are its zeros' inverses."""
    found = np.linalg.eigvals(np.diag(theta) - np.outer(np.ones_like(omega), omega))
    return np.asarray(np.sort(found.real)[::-1])


def _residues(poles: Row, zeros: Row) -> Row:
    """Return the scales of prod (1 - zeros x) / prod (1 - poles x) as a column."""
    apart = poles[:, None] - poles
    np.fill_diagonal(apart, 1)
    return np.asarray(np.prod(poles[:, None] - zeros, axis=1) / np.prod(apart, axis=1), np.float64)


def _inverse(theta: Row, zeros: Row) -> tuple[Row, Row]:
    return zeros, _residues(zeros, theta)


# --------------------------------------------------------------------------- the fit


@lru_cache(maxsize=64)
def fitted(buffers: int, participation: Participation) -> Toeplitz:
    """Return the C of the least error of prefix sums that the fit finds; equal arguments give equal bits.

    Poles and zeros lie in (0, 1) and take turns, theta_1 > zero_1 > theta_2 > ..., so that c is above 0 and falls; each
    is a share of the one before. BFGS on the logits of the shares, gradients by differences.
    """

    def loss(logits: Row) -> float:
        theta, zeros = _poles(logits)
        with np.errstate(all="ignore"):
            omega = _residues(theta, zeros)
            found = log(max(_error(theta, omega, *_inverse(theta, zeros), participation), 1e-300))
        return found if isfinite(found) and (omega > 0).all() else 1e6

    n = max(participation.versions, 2)
    best = min((_descended(loss, start) for start in _starts(buffers, n)), key=loss)
    theta, zeros = _poles(best)
    return Toeplitz(theta, _residues(theta, zeros))


def _poles(logits: Row) -> tuple[Row, Row]:
    shares = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    falling = np.cumprod(shares, dtype=np.float64)
    return falling[0::2], falling[1::2]


def _starts(buffers: int, n: int) -> list[Row]:
    """Return where fits begin: 1 - theta and 1 - zero from 1 / n or 1 / n^2 to 3 / 4, evenly in their logarithm."""
    starts = []
    for power in (1.0, 1.5):
        falling = 1 - np.geomspace(min(0.4, n**-power), 0.75, 2 * buffers)
        shares = falling / np.concatenate([[1.0], falling[:-1]])
        starts.append(np.log(shares) - np.log1p(-shares))
    return starts


def _descended(loss: Callable[[Row], float], x: Row) -> Row:
    """Return a minimum of `loss` near `x` (BFGS; Nocedal, Wright 2006, alg. 6.1)."""
    here, slope = loss(x), _slope(loss, x)
    inverse = np.eye(len(x))
    for _ in range(ROUNDS):
        step = -inverse @ slope
        if step @ slope >= 0:
            inverse, step = np.eye(len(x)), -slope
        step *= min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        size = 1.0
        while (there := loss(x + size * step)) > here + 1e-4 * size * (step @ slope) and size > 1e-10:
            size /= 2
        if size <= 1e-10 or here - there < 1e-9:
            return x if there >= here else x + size * step
        moved = size * step
        after = _slope(loss, x + moved)
        change, bend = after - slope, moved @ (after - slope)
        if bend > 1e-14:
            left = np.eye(len(x)) - np.outer(moved, change) / bend
            inverse = left @ inverse @ left.T + np.outer(moved, moved) / bend
        x, here, slope = x + moved, there, after
    return x


def _slope(loss: Callable[[Row], float], x: Row) -> Row:
    width = 1e-5
    steps = width * np.eye(len(x))
    return np.array([(loss(x + step) - loss(x - step)) / (2 * width) for step in steps])


# ------------------------------------------------------------------------- the stream


def stream(fit: Toeplitz, buffers: Row, fresh: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the noise of one version `(dim,)` for the `fresh` `(dim,)`; `buffers` `(d, dim)` change in place.

    Row t of C^-1 z, as whole numbers: fresh - round(sum_j omega_j buffer_j), after which buffer_j becomes theta_j
    buffer_j + noise (Dvijotham et al. 2024, alg. 1). The rounding depends on earlier noise alone.
    """
    out = np.empty_like(fresh)
    for start in range(0, len(fresh), BLOCK):
        block = slice(start, start + BLOCK)
        some = buffers[:, block]
        out[block] = fresh[block] - np.rint(fit.omega @ some).astype(np.int64)
        some *= fit.theta[:, None]
        some += out[block]
    return out


BLOCK = 1 << 14
"""Numbers of a row seen to at once, so that all buffers of them stay in the cache."""
