"""Profiles that a user writes: complete ones, or those that take from a known one what they do not say."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TypeVar

from msgspec.structs import replace

from fedthings.errors import SpecError, nearest
from fedthings.simulation.devices import Device
from fedthings.simulation.links import Link

Profile = TypeVar("Profile", Device, Link)

ZERO = ("loss", "joules_per_flop", "joules_per_byte_up", "joules_per_byte_down", "joules_per_contact", "round_trip")
"""Figures that may be 0."""


def complete(own: Mapping[str, Profile], known: Mapping[str, Profile], where: str) -> dict[str, Profile]:
    """Return the profiles of a user's table `where` and the `known` ones, each with all its figures.

    Raises SpecError for a figure that is missing or cannot be, a base that is not known, a name that is taken.
    """
    found = dict(known)
    for name, profile in own.items():
        if name in known:
            raise SpecError(f"{where}.{name} is a profile already: choose another name for your own")
        found[name] = _complete(profile, known, f"{where}.{name}")
    return found


def _complete(profile: Profile, known: Mapping[str, Profile], place: str) -> Profile:
    base = profile.based_on
    if base and base not in known:
        raise SpecError(f"{place}.based_on is {base!r}: {nearest(base, known)}")
    missing = {}
    for field in profile.__struct_fields__:
        value = getattr(profile, field)
        if value is None and base:
            value = missing[field] = getattr(known[base], field)
        if value is None:
            example = f'based_on = "{next(iter(known))}"'
            raise SpecError(f"{place} has no {field}: give it, or {example} to take from there what is missing")
        if field != "based_on":
            _check(f"{place}.{field}", field, value)
    return replace(profile, **missing, based_on="")


def _check(place: str, field: str, value: float) -> None:
    least = "at least 0" if field in ZERO else "above 0"
    if not 0 <= value < inf or (value == 0 and field not in ZERO):
        raise SpecError(f"{place} is {value}: it must be {least}, and finite")
    if field == "loss" and value >= 1:
        raise SpecError(f"{place} is {value}: it must be below 1, or nothing would ever arrive")
