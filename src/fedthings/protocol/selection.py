"""Selection: which of the free devices are asked. A rule is a spec and a function; a new one is a file beside this.

Whatever the rule, its draws are keyed and do not depend on who joined first, and one draw costs O(log n) (law 1).
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.protocol.attendance import Attendance
from fedthings.protocol.roster import Roster


class Known(NamedTuple):
    """What a rule may look at: the time, who came and went, and the seconds that a device has for a task."""

    now: float
    attendance: Attendance
    seconds: Callable[[str], float]


class Uniform(Struct, frozen=True, tag_field="kind", tag="uniform", forbid_unknown_fields=True):
    """Each free device with the same chance (McMahan et al. 2017, Alg. 1)."""


class Forecast(Struct, frozen=True, tag_field="kind", tag="forecast", forbid_unknown_fields=True):
    """Of `choices` times as many drawn uniformly, those that are most likely to stay until their report.

    The likelihood is forecast from how long each has stayed before; those who have never left are as good as any.
    """

    choices: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.choices <= 1000:
            raise SpecError(f"pace.selection.choices is {self.choices}: it must be from 1 (uniform) to 1,000")


Selection: TypeAlias = Uniform | Forecast

Random: TypeAlias = Callable[[], int]
"""Gives the next keyed 64 bits."""


def uniform(spec: Uniform, free: Roster, count: int, random: Random, known: Known) -> list[str]:
    """Return `count` of the `free`, taken out."""
    return [free.draw(random()) for _ in range(count)]


def forecast(spec: Forecast, free: Roster, count: int, random: Random, known: Known) -> list[str]:
    """Return the `count` of those drawn that will most likely be there as long as they need, taken out of `free`."""
    drawn = [free.draw(random()) for _ in range(min(len(free), ceil(spec.choices * count)))]

    def stays(device: str) -> float:
        return known.attendance.forecast(device, known.now, known.seconds(device))

    drawn.sort(key=stays, reverse=True)  # stable: those alike stay in the order of the draw
    free.extend(drawn[count:])
    return drawn[:count]


RULES: dict[type, Callable[[Any, Roster, int, Random, Known], list[str]]] = {Uniform: uniform, Forecast: forecast}
"""The function of each rule; it takes those it chooses out of the free."""


def choose(spec: Selection, free: Roster, count: int, random: Random, known: Known) -> list[str]:
    """Return `count` of more than so many `free` devices, by the rule of `spec`, taken out of `free`."""
    return RULES[type(spec)](spec, free, count, random, known)
