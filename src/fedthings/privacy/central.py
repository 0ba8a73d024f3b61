"""Central differential privacy as data: the budget, the mechanism, and the claim that comes of them for one run.

The unit is the device: two fleets are neighbours where one device's reports are all zero in the second ("zero-out",
Kairouz et al. 2021, definition 1.1). The coordinator sees the reports and is trusted; what it releases is covered.
"""

from __future__ import annotations

from math import ceil, exp, sqrt
from typing import Literal

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from fedthings.errors import SpecError
from fedthings.privacy import accountant, mechanism, noise, rounding
from fedthings.privacy.blt import Blt, Participation, Row, Toeplitz
from fedthings.privacy.clip import AdaptiveClip, Clip
from fedthings.privacy.mechanism import Independent, Mechanism

Source = Literal["secure", "keyed"]
"""Where the noise's key comes from: the system's cryptographic generator, or the federation's seed."""


class CentralDp(Struct, frozen=True, forbid_unknown_fields=True):
    """Training may cost a device at most `epsilon` at `delta`; the coordinator adds the noise of `mechanism`.

    `multiplier` is the noise's deviation over the clipping bound; 0 is what the budget needs for all versions, and
    any other ends the training before the budget is passed. `spent` (epsilon, delta) is what earlier models of the
    same devices have cost; it adds up (Dwork, Roth 2014, theorem 3.16).
    """

    epsilon: float
    delta: float
    mechanism: Mechanism = Blt()
    multiplier: float = 0.0
    spent: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1000:
            raise SpecError(f"privacy.epsilon is {self.epsilon}: it must be above 0, and at most 1,000")
        if not 0 < self.delta < 1:
            raise SpecError(
                f"privacy.delta is {self.delta}: Gaussian noise has an epsilon only for a delta above 0 and below 1; "
                "give one well below 1 over the number of devices, like 1e-6"
            )
        if not (self.multiplier == 0 or 1e-3 <= self.multiplier <= 1e6):
            raise SpecError(
                f"privacy.multiplier is {self.multiplier}: give 0.001 to 1,000,000 times the clipping bound, or 0 for "
                "what the budget needs"
            )
        if min(self.spent) < 0 or self.spent[0] >= self.epsilon or self.spent[1] >= self.delta:
            raise SpecError(
                f"privacy.spent is {list(self.spent)} of epsilon {self.epsilon:g} at delta {self.delta:g}: the budget "
                "is spent already, so nothing more may be learned from these devices; raise the budget only if their "
                "owners agree"
            )
        if self.multiplier and not self.sampled:
            first = accountant.epsilon(1 / self.multiplier, self.left[1])
            if first > self.left[0]:
                raise SpecError(
                    f"privacy.multiplier is {self.multiplier:g}: the first version alone costs epsilon {first:.3g}, "
                    f"above the {self.left[0]:g} that there is; raise it, or give 0 for what the budget needs"
                )

    @property
    def sampled(self) -> bool:
        """Whether the claim rests on random samples of the fleet."""
        return isinstance(self.mechanism, Independent) and self.mechanism.amplified

    @property
    def left(self) -> tuple[float, float]:
        """The epsilon and the delta that are left for this training."""
        return self.epsilon - self.spent[0], self.delta - self.spent[1]


class Claim(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is claimed of one run, and all that its epsilon is computed from.

    Sums of reports are rounded to multiples of `unit`, the count of adaptive clipping to those of `count_unit`, and
    get whole-numbered noise of `deviation` such steps. `rounding` is by how much fixed point may have lengthened a
    report, `share` the sampling rate that is assumed (0: none), `versions` how many the budget allows, `theta` and
    `omega` what BLT was fitted to. `shared`: each of two servers adds such noise to its share of the sums, and epsilon
    is against either of them, who knows its own; the deviation is that of the `factors`.
    """

    privacy: CentralDp
    clip: Clip | AdaptiveClip
    goal: int
    planned: int
    versions: int
    apart: int
    times: int
    share: float
    dim: int
    unit: float
    count_unit: float
    deviation: float
    rounding: float
    source: Source
    theta: tuple[float, ...] = ()
    omega: tuple[float, ...] = ()
    shared: bool = False
    factors: tuple[int, int] = noise.WIDEST

    @property
    def participation(self) -> Participation:
        """How often a device can have taken part."""
        return Participation(self.planned, self.apart, self.times)

    @property
    def fit(self) -> Toeplitz | None:
        """The parameters of the mechanism, where it has any."""
        return Toeplitz(np.array(self.theta), np.array(self.omega)) if self.theta else None

    @property
    def squares(self) -> Row:
        """`(planned,)` the squared sensitivity of the first 1, 2, ... versions, for reports of norm 1."""
        return mechanism.squares(self.privacy.mechanism, self.fit, self.participation)

    @property
    def multiplier(self) -> float:
        """The deviation of fresh noise over the clipping bound."""
        return self.deviation * self.unit / _bound(self.clip)

    @property
    def bound(self) -> float:
        """The clipping bound; of adaptive clipping 1, in units of it."""
        return _bound(self.clip)

    @property
    def size(self) -> int:
        """How many numbers get noise in a version."""
        return self.dim + isinstance(self.clip, AdaptiveClip)

    def mus(self) -> np.ndarray:
        """Return `(planned,)` the sensitivity after 1, 2, ... versions, in deviations of the noise; no sampling."""
        moved = np.sqrt(self.squares) * _steps(self) + _feedback(self, np.arange(1, self.planned + 1))
        return np.asarray(moved / self.deviation)

    def epsilon(self, version: int) -> float:
        """Return what `version` versions cost, with what was spent before. Raises SpecError without dp-accounting."""
        spent, delta = self.privacy.spent[0], self.privacy.left[1]
        if version == 0:
            return spent
        if self.share:
            return spent + accountant.amplified(self.deviation / _steps(self), self.share, version, delta)
        coarse = _coarse(self)
        return spent + accountant.epsilon(float(self.mus()[version - 1]), delta * exp(-coarse)) + 2 * coarse


def _bound(clip: Clip | AdaptiveClip) -> float:
    return clip.bound if isinstance(clip, Clip) else 1.0  # in units of the bound


def _steps(claim: Claim) -> float:
    """Return how many steps, as an L2 norm, one report moves a rounded sum at the most."""
    if claim.shared:
        return rounding.longest(_bound(claim.clip) / claim.unit, claim.dim)  # rounded on the device, and nowhere else
    most = (_bound(claim.clip) + claim.rounding) / claim.unit + sqrt(claim.dim)  # two roundings, half a step each
    return sqrt(most**2 + (0.5 / claim.count_unit + 1) ** 2) if claim.count_unit else most


def _coarse(claim: Claim) -> float:
    """Return how far the noise of all versions is from a rounded Gaussian one; for `SIGMA` epsilon has it already."""
    return accountant.coarse(claim.deviation, claim.size * claim.planned) if claim.shared else 0.0


def _feedback(claim: Claim, versions: np.ndarray) -> np.ndarray:
    """Return by how many steps the rounding of earlier noise may move it: one for each number of each version.

    Two neighbours have equal releases where their fresh noise differs by C d + e: d is what the report has moved, e
    the difference of two roundings, which depends on the past alone. So this is a Gaussian mechanism of adaptive
    shifts whose norms are bounded together (Smith, Thakurta 2022, theorem 3.1).
    """
    return np.sqrt(versions * float(claim.size)) * isinstance(claim.privacy.mechanism, Blt)


def claimed(
    privacy: CentralDp,
    clip: Clip | AdaptiveClip,
    *,
    goal: int,
    separation: int,
    cap: int,
    devices: int,
    rounds: int,
    dim: int,
    source: Source,
    lengthened: float = 0.0,
    shared: bool = False,
    factors: noise.Factors = noise.WIDEST,
) -> Claim:
    """Return the claim for `rounds` versions, with noise as the budget needs it. Raises SpecError where none is enough.

    A device reports at most `cap` times (0: always), with `separation` versions in between; fixed point has
    `lengthened` a report by so much. For noise of two servers see `distributed.claimed`.
    """
    apart = separation + 1
    sampled = privacy.sampled
    times = rounds if sampled else min(cap or rounds, ceil(rounds / apart))
    deviation = noise.deviation(factors)
    claim = Claim(
        privacy=privacy,
        clip=clip,
        goal=goal,
        planned=rounds,
        versions=rounds,
        apart=apart,
        times=times,
        share=goal / devices if sampled else 0.0,
        dim=dim,
        unit=(privacy.multiplier or 1.0) * _bound(clip) / deviation,
        count_unit=0.0,
        deviation=deviation,
        rounding=lengthened,
        source=source,
        shared=shared,
        factors=factors,
    )
    fit = mechanism.fitted(privacy.mechanism, claim.participation)
    if fit is not None:
        claim = replace(claim, theta=tuple(fit.theta.tolist()), omega=tuple(fit.omega.tolist()))
    counts = clip.budget if isinstance(clip, AdaptiveClip) else 0.0
    if privacy.multiplier:
        claim = replace(claim, count_unit=_count_unit(_steps(claim) / sqrt(1 - counts), counts))
        return replace(claim, versions=_affordable(claim))
    steps = _allowed(claim)
    most = rounding.shortest(steps, dim) if shared else steps * sqrt(1 - counts) - sqrt(dim)
    if most <= 0:
        raise SpecError(
            f"privacy.epsilon is {privacy.epsilon:g}: noise for {dim:,} parameters cannot be made that strong; raise "
            "it, or lower rounds"
        )
    return replace(claim, unit=(_bound(clip) + lengthened) / most, count_unit=_count_unit(steps, counts))


def _count_unit(steps: float, share: float) -> float:
    """Return the unit in which a count is that `share` of a report's squared `steps`; 0 where nothing is counted."""
    return 0.5 / max(sqrt(share) * steps - 1, 1.0) if share else 0.0


def _allowed(claim: Claim) -> float:
    """Return how many steps a report may move a sum for all versions to cost what is left."""
    epsilon, delta = claim.privacy.left
    if claim.share:
        return claim.deviation / accountant.multiplier(epsilon, delta, claim.share, claim.planned)
    most = _mu(claim) * claim.deviation - float(_feedback(claim, np.array(claim.planned)))
    return float(most / sqrt(claim.squares[-1]))


def _mu(claim: Claim) -> float:
    """Return the sensitivity, in deviations of the noise, that what is left allows; 0 where it allows none."""
    (epsilon, delta), coarse = claim.privacy.left, _coarse(claim)
    return accountant.mu(epsilon - 2 * coarse, delta * exp(-coarse)) if epsilon > 2 * coarse else 0.0


def _affordable(claim: Claim) -> int:
    """Return how many versions the budget allows. Raises SpecError where it allows none."""
    if claim.share:
        low, high = 0, claim.planned + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if claim.epsilon(middle) > claim.privacy.epsilon else (middle, high)
        found = low
    else:
        found = int(np.searchsorted(claim.mus(), _mu(claim), side="right"))
    if not found:
        raise SpecError(
            f"privacy.multiplier is {claim.privacy.multiplier:g}: the first version alone costs more than epsilon "
            f"{claim.privacy.left[0]:g}; raise it, or give 0 for what the budget needs"
        )
    return found
