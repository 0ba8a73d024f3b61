"""Bytes, seconds and joules as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit by name: how many of the basic one it is, and from which value on it is used."""

    name: str
    size: float
    least: float


BYTES = tuple(Unit(name, 1000.0**i, 999.5 * 1000.0 ** (i - 1)) for i, name in enumerate(("B", "kB", "MB", "GB", "TB")))
SECONDS = (Unit("s", 1, 0), Unit("min", 60, 99.95), Unit("h", 3600, 5970), Unit("d", 86400, 172_500))
JOULES = tuple(
    Unit(name, 1000.0 ** (i - 1), 999.5 * 1000.0 ** (i - 2)) for i, name in enumerate(("mJ", "J", "kJ", "MJ", "GJ"))
)


def unit(value: float, units: Sequence[Unit]) -> Unit:
    """Return the largest of `units` that `value` is to be read in."""
    return next((unit for unit in reversed(units) if abs(value) >= unit.least), units[0])


def quantity(size: float) -> str:
    """Return `size` in bytes as people read it."""
    return said(size, BYTES)


def duration(seconds: float) -> str:
    """Return `seconds` as people read them."""
    return said(seconds, SECONDS)


def energy(joules: float) -> str:
    """Return `joules` as people read them."""
    return said(joules, JOULES)


def said(value: float, units: Sequence[Unit]) -> str:
    """Return `value` in the one of `units` it is to be read in, with three digits."""
    chosen = unit(value, units) if value else next(unit for unit in units if unit.size == 1)
    value /= chosen.size
    return f"{value:,.0f} {chosen.name}" if abs(value) >= 999.5 else f"{value:.3g} {chosen.name}"
