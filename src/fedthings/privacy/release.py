"""Releases: what stands between a sum of reports and the model that is made of it. Every one is in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from fedthings.privacy import mechanism, noise
from fedthings.privacy.blt import Row
from fedthings.privacy.central import Claim
from fedthings.privacy.clip import BELOW, AdaptiveClip
from fedthings.spelling import decode
from fedthings.vector import Payload


class Releases:
    """`noised` makes a sum one that may be seen; the same `key` makes the same noise (laws 5 and 8).

    `snapshot` holds the key of the next version, never those of versions that were released.
    """

    def __init__(self, claim: Claim, key: bytes) -> None:
        self.claim = decode(msgspec.to_builtins(claim), Claim)  # 8 for 8.0 is 8.0 at once, not only when it is restored
        self._key = key
        self.lines: list[dict[str, Any]] = []
        self.written = 0  # lines that this process has put on the disk
        self.bound = claim.clip.initial if isinstance(claim.clip, AdaptiveClip) else claim.clip.bound
        self._state = mechanism.begin(claim.privacy.mechanism, claim.fit, claim.participation, claim.size)

    @property
    def spent(self) -> bool:
        """Whether the budget allows no further version, though more were planned."""
        return len(self.lines) >= self.claim.versions < self.claim.planned

    def noised(self, total: Payload, now: float, reports: int) -> dict[str, Row]:
        """Return the mean `(dim,)` with noise, of the sums `(dim,)` of so many `reports`, made at `now` seconds.

        The mean is over the goal, whatever has come: a number that depends on nobody's data.
        """
        claim, version = self.claim, len(self.lines) + 1
        this, self._key = noise.ratchet(self._key)
        drawn = _drawn(claim, self._state, version, noise.draw(this, claim.size))
        self.lines.append({"version": version, "time": now, "reports": reports, "bound": self.bound})
        scale = self.bound if isinstance(claim.clip, AdaptiveClip) else 1.0
        mean = _noisy(total["x"], claim.unit, drawn[: claim.dim])
        mean *= scale / claim.goal
        if isinstance(claim.clip, AdaptiveClip):
            over = _noisy(total[BELOW.name], claim.count_unit, drawn[claim.dim :])
            self.bound = claim.clip.follow(self.bound, 0.5 + float(over[0]) / claim.goal)
        return {"x": mean}

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data and arrays; it is as secret as the reports."""
        return {
            "claim": msgspec.to_builtins(self.claim),
            "key": self._key,
            "bound": self.bound,
            "lines": [list(line.values()) for line in self.lines],
            "state": dict(self._state),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self.claim = decode(state["claim"], Claim)
        self._key, self.bound = state["key"], state["bound"]
        self.lines = [dict(zip(("version", "time", "reports", "bound"), line, strict=True)) for line in state["lines"]]
        self._state = {name: np.array(row) for name, row in state["state"].items()}


def _drawn(claim: Claim, state: mechanism.State, version: int, fresh: mechanism.Noise) -> mechanism.Noise:
    return mechanism.go_on(claim.privacy.mechanism, claim.fit, state, version, fresh)


def _noisy(total: Row, unit: float, drawn: mechanism.Noise) -> Row:
    """Return `total` in whole units, with the noise, as numbers again; changes `total` in place."""
    total /= unit
    np.rint(total, out=total)
    total += drawn
    total *= unit
    return total
