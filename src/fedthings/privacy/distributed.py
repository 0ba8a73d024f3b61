"""Noise of two servers: each adds its own to its share, in the ring, so that nobody has a sum without noise.

Leader and helper each add all the noise that the claim needs: each knows its own, so only that of the other hides a
report from it. Whoever sees only models has the noise of both against it. The noise is discrete, and so is what it
hides (Kairouz, Liu, Steinke 2021): sums wrap, and a wrap would spoil a model, but show nothing, since what wraps has
its noise already.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Any

import msgspec

from fedthings.errors import SpecError, WireError
from fedthings.privacy import central, mechanism, noise
from fedthings.privacy.blt import Blt
from fedthings.privacy.central import CentralDp, Claim, Source
from fedthings.privacy.clip import Clip
from fedthings.spelling import decode

MOST = 1 << 20
"""Versions of a claim that is believed at the most."""
TAIL = 9.0
"""Deviations: one number in 4 * 10^18 has more noise than the ring has room for."""


def claimed(
    privacy: CentralDp,
    clip: Clip,
    *,
    bits: int,
    reports: int,
    reach: float,
    finest: int,
    goal: int,
    separation: int,
    cap: int,
    rounds: int,
    dim: int,
    source: Source,
) -> Claim:
    """Return the claim of the finest steps for which the ring of `bits` has room. Raises SpecError where it has none.

    A version has at most so many `reports`, none of their numbers goes beyond `reach`, nor is it more than the `finest`
    steps. See `central.claimed` for the rest.
    """
    pace = {"goal": goal, "separation": separation, "cap": cap, "devices": 0, "rounds": rounds}
    for factors in noise.SIZES:
        try:
            claim = central.claimed(privacy, clip, **pace, dim=dim, source=source, shared=True, factors=factors)
        except SpecError:
            if factors == noise.WIDEST:
                raise
            break  # coarser steps would do, if the rounding to them did not cost more than there is
        most = steps(claim, reach)
        if most <= finest and reports * most + spread(claim) < 1 << (bits - 1):
            return claim
    raise SpecError(
        f"secure.bits is {bits}: sums of {reports} reports with the noise of two servers would wrap; "
        f"{'set it to 32' if bits == 16 else 'lower pace.concurrency'}"
    )


def steps(claim: Claim, reach: float) -> int:
    """Return how many steps a number of at most `reach` has at the most."""
    return int(reach / claim.unit) + 1


def spread(claim: Claim) -> float:
    """Return what the noise of both servers together does not go beyond, in steps."""
    grown = mechanism.growth(claim.privacy.mechanism, claim.fit, claim.participation)
    return TAIL * sqrt(2) * grown * claim.deviation


def written(claim: Claim) -> bytes:
    """Return `claim` as the helper is told it; equal claims are equal bytes."""
    return msgspec.json.encode(claim)


def check(claim: Claim) -> None:
    """Raise SpecError unless the noise of a claim is what its epsilon is computed from, and is enough.

    It came from the network, and whoever sent it may want less noise than it says.
    """
    if not 1 <= claim.versions <= claim.planned <= MOST:  # before anything is computed for each
        raise SpecError(f"a claim of {claim.versions} of {claim.planned} versions: there are 1 to {MOST:,}")
    theta, omega = claim.theta, claim.omega  # BLT's sensitivity is that of weights that do not grow (`blt.squares`)
    falls = all(0 < t < 1 for t in theta) and all(w > 0 for w in omega) and sum(omega) <= 1
    good = (
        claim.shared
        and not claim.share
        and min(claim.apart, claim.times, claim.goal) >= 1
        and isinstance(claim.clip, Clip)
        and 0 < claim.unit < inf
        and claim.factors in noise.SIZES
        and claim.deviation == noise.deviation(claim.factors)
        and len(theta) == len(omega)
        and falls
        and bool(theta) == isinstance(claim.privacy.mechanism, Blt)
    )
    if not good:
        raise SpecError("a claim whose noise is not that of its epsilon")
    if not claim.epsilon(claim.versions) <= claim.privacy.epsilon * (1 + 1e-9):
        raise SpecError(f"the noise of the task is not enough for epsilon {claim.privacy.epsilon:g}")


def read(data: bytes) -> Claim:
    """Return the claim that was `written`. Raises WireError where it is none, or `check` refuses it."""
    try:
        claim = decode(msgspec.json.decode(data), Claim)
        check(claim)
        return claim
    except (SpecError, msgspec.DecodeError) as error:
        raise WireError("malformed", f"a claim that is none: {error}") from None


class Stream:
    """The noise of one server over the versions; the same `key` makes the same noise (laws 5 and 8)."""

    def __init__(self, claim: Claim, key: bytes) -> None:
        self.claim, self.version, self._key = claim, 0, key
        self._state = mechanism.begin(claim.privacy.mechanism, claim.fit, claim.participation, claim.size)

    def at(self, version: int) -> mechanism.Noise:
        """Return the noise `(size,)` of `version`, later than any before; what is left out is drawn and never shown.

        So what is released is always the noise of that version of the claim, whichever others were not made.
        """
        assert version > self.version
        claim = self.claim
        for number in range(self.version + 1, version + 1):
            this, self._key = noise.ratchet(self._key)
            fresh = noise.draw(this, claim.size, claim.factors)
            drawn = mechanism.go_on(claim.privacy.mechanism, claim.fit, self._state, number, fresh)
        self.version = version
        return drawn

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data and arrays; it holds the key of the next version, never of one before."""
        return {"key": self._key, "version": self.version, "state": dict(self._state)}

    def restore(self, state: Any) -> None:
        """Take up the state that `snapshot` returned."""
        self._key, self.version = state["key"], state["version"]
        self._state = {name: row.copy() for name, row in state["state"].items()}
