"""Stragglers: by what factor a task takes longer than its operations say, with a tail that is heavy."""

from __future__ import annotations

from math import exp, inf
from statistics import NormalDist
from typing import TypeAlias

from msgspec import Struct

from fedthings.errors import SpecError

_quantile = NormalDist().inv_cdf


class LogNormal(Struct, frozen=True, tag_field="kind", tag="log_normal", forbid_unknown_fields=True):
    """Median 1; `spread` is the standard deviation of the logarithm: at 1, one task in 100 takes over 10 times."""

    spread: float

    def __post_init__(self) -> None:
        if not 0 <= self.spread < 10:
            raise SpecError(f"stragglers.spread is {self.spread}: it must be from 0 to below 10")

    def factor(self, draw: float) -> float:
        """Return the quantile `draw`, in (0, 1)."""
        return exp(self.spread * _quantile(draw))


class Pareto(Struct, frozen=True, tag_field="kind", tag="pareto", forbid_unknown_fields=True):
    """At least 1, and over x with probability x^-tail: at 1.5, one in 1,000 takes over 100 times (Pareto type I)."""

    tail: float

    def __post_init__(self) -> None:
        if not 0 < self.tail < inf:
            raise SpecError(f"stragglers.tail is {self.tail}: it must be above 0; 1.5 is heavy, 5 is light")

    def factor(self, draw: float) -> float:
        """Return the quantile `draw`, in (0, 1)."""
        return float((1 - draw) ** (-1 / self.tail))


Stragglers: TypeAlias = LogNormal | Pareto
