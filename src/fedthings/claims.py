"""What a federation claims of the privacy of its models, and what adds the noise that this needs."""

from __future__ import annotations

from math import sqrt

from fedthings import hidden
from fedthings.aggregate import fold
from fedthings.federation import Federation
from fedthings.phase import Phase, schema
from fedthings.privacy import noise
from fedthings.privacy.central import Source, claimed
from fedthings.privacy.release import Releases
from fedthings.privacy.shares import TwoServers
from fedthings.private import clipping


def releases(federation: Federation, spec: Phase, rounds: int, source: Source) -> Releases | None:
    """Return what adds noise to the sums of the phase `spec`; None where nothing is claimed.

    Raises SpecError where the budget is too small, or the ring.
    """
    clip = clipping(federation.stages)
    if federation.privacy is None or clip is None:
        return None
    x = fold.announced(schema(spec), spec.reports)[0]
    pace, privacy, secure = federation.pace, federation.privacy, spec.secure
    key = noise.fresh() if source == "secure" else noise.known(federation.seed)
    if isinstance(secure, TwoServers):
        shared = hidden.claimed(
            secure, privacy, spec.stages, pace, reports=spec.reports, rounds=rounds, dim=x.dim, source=source
        )
        return Releases(shared, key, b"" if source == "secure" else noise.known(federation.seed, b"helper"))
    claim = claimed(
        privacy,
        clip,
        goal=pace.goal,
        separation=pace.separation,
        cap=pace.cap,
        devices=federation.devices,
        rounds=rounds,
        dim=x.dim,
        source=source,
        lengthened=sqrt(x.dim) * 2.0 ** -(x.scale + 1),
    )
    return Releases(claim, key)
