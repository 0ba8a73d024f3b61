"""Releases: what stands between a sum of reports and the model that is made of it. Every one is in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from fedthings.privacy import mechanism
from fedthings.privacy.blt import Row
from fedthings.privacy.central import Claim
from fedthings.privacy.clip import BELOW, AdaptiveClip
from fedthings.privacy.distributed import Stream
from fedthings.spelling import decode
from fedthings.vector import Array, Payload


class Releases:
    """`noised` makes a sum one that may be seen, `hide` a share of one; the same `key` makes the same noise (law 8).

    `other` is the key of the helper's noise, where a simulation makes that too. `snapshot` holds the key of the next
    version, never those of versions that were released.
    """

    def __init__(self, claim: Claim, key: bytes, other: bytes = b"") -> None:
        self.claim = decode(msgspec.to_builtins(claim), Claim)  # 8 for 8.0 is 8.0 at once, not only when it is restored
        self._stream = Stream(self.claim, key)
        self._other = Stream(self.claim, other) if other else None
        self.lines: list[dict[str, Any]] = []
        self.written = 0  # lines that this process has put on the disk
        self.bound = claim.clip.initial if isinstance(claim.clip, AdaptiveClip) else claim.clip.bound

    @property
    def spent(self) -> bool:
        """Whether the budget allows no further version, though more were planned."""
        return len(self.lines) >= self.claim.versions < self.claim.planned

    def noised(self, total: Payload, now: float, reports: int) -> dict[str, Row]:
        """Return the mean `(dim,)` with noise, of the sums `(dim,)` of so many `reports`, made at `now` seconds.

        The mean is over the goal, whatever has come: a number that depends on nobody's data.
        """
        claim, drawn = self.claim, self._stream.at(self._noted(now, reports))
        scale = self.bound if isinstance(claim.clip, AdaptiveClip) else 1.0
        mean = _noisy(total["x"], claim.unit, drawn[: claim.dim])
        mean *= scale / claim.goal
        if isinstance(claim.clip, AdaptiveClip):
            over = _noisy(total[BELOW.name], claim.count_unit, drawn[claim.dim :])
            self.bound = claim.clip.follow(self.bound, 0.5 + float(over[0]) / claim.goal)
        return {"x": mean}

    def hide(self, total: Array, now: float, reports: int, alone: bool) -> None:
        """Add our noise to our share `(dim,)` of the sum of `reports` in the ring; `alone`: and the helper's too.

        With no `reports` nothing is added: the version is made without any, and counts as a release all the same.
        """
        version = self._noted(now, reports)
        for stream in (self._stream, self._other) if alone else (self._stream,):
            if reports and stream is not None:
                total += stream.at(version).astype(total.dtype)

    def _noted(self, now: float, reports: int) -> int:
        """Write the release of the next version into the ledger, and return its number."""
        version = len(self.lines) + 1
        self.lines.append({"version": version, "time": now, "reports": reports, "bound": self.bound})
        return version

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data and arrays; it is as secret as the reports."""
        return {
            "claim": msgspec.to_builtins(self.claim),
            "bound": self.bound,
            "lines": [list(line.values()) for line in self.lines],
            "stream": self._stream.snapshot(),
            "other": None if self._other is None else self._other.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `snapshot` returned."""
        self.claim = decode(state["claim"], Claim)
        self.bound = state["bound"]
        self.lines = [dict(zip(("version", "time", "reports", "bound"), line, strict=True)) for line in state["lines"]]
        self._stream = _taken_up(self.claim, state["stream"])
        self._other = None if state["other"] is None else _taken_up(self.claim, state["other"])


def _taken_up(claim: Claim, state: Any) -> Stream:
    stream = Stream(claim, b"")
    stream.restore(state)
    return stream


def _noisy(total: Row, unit: float, drawn: mechanism.Noise) -> Row:
    """Return `total` in whole units, with the noise, as numbers again; changes `total` in place."""
    total /= unit
    np.rint(total, out=total)
    total += drawn
    total *= unit
    return total
