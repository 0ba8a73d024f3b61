"""When devices are there: always, by a duty cycle, by the hour of their day, or as a trace recorded it.

One device's stretches and the changes of a whole fleet, slice by slice, are the same times, bit for bit: both are
made of the same few sums and products of the same keyed draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, cos, inf, pi
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from fedthings.errors import SpecError
from fedthings.simulation.draws import uniform, uniforms
from fedthings.vector import Array

HOUR = 3600.0
HORIZON = 3650 * 24 * HOUR
"""Seconds after which a device that has not come back is taken to be gone: ten years."""
LEAST = 1e-6
"""The largest share of a day at least: one device in a million."""
PHASE, ZONE, JITTER, TURN, DAYS = 1, 2, 3, 4, 5
"""The numbers of a device's draws; 0 is its group's, those from `DAYS` on are of its days."""


class Slice(NamedTuple):
    """Changes in the order of time, and of the devices at equal times: arrays `(n,)` of when, who and whether."""

    at: Array
    who: Array
    there: Array


def ordered(at: Array, who: Array, there: Array) -> Slice:
    """Return the changes in order; what happens to one device at one time keeps its order."""
    order = np.lexsort((who, at))
    return Slice(at[order], who[order], there[order])


class Availability(Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True, omit_defaults=True):
    """What all have in common: `stretches` says it all, the rest follows."""

    def stretches(self, name: str, key: int, start: float) -> Iterator[tuple[float, float]]:
        """Yield from when until when the device is there, those before `start` left out; neighbours may touch."""
        raise NotImplementedError

    def slices(self, names: Array, keys: Array) -> Iterator[Slice]:
        """Yield the changes of `names`, sorted, in the order of time; first come those there at 0, at 0."""
        raise NotImplementedError

    def after(self, name: str, key: int, start: float, seconds: float) -> float:
        """Return when the device will have been there for `seconds` since `start`; inf if never."""
        for begin, end in self.stretches(name, key, start):
            begin = max(begin, start)
            if end - begin >= seconds:
                return begin + seconds
            seconds -= max(0.0, end - begin)
        return inf

    def leaves(self, name: str, key: int, start: float, seconds: float) -> float:
        """Return when the device, there at `start`, leaves within `seconds`; inf where it stays."""
        reached = start
        for begin, end in self.stretches(name, key, start):
            if begin > reached:
                break
            reached = max(reached, end)
            if reached >= start + seconds:
                return inf
        return reached


class Always(Availability, frozen=True, tag="always"):
    """There from the start to the end."""

    def stretches(self, name: str, key: int, start: float) -> Iterator[tuple[float, float]]:
        yield 0.0, inf

    def slices(self, names: Array, keys: Array) -> Iterator[Slice]:
        n = len(names)
        yield Slice(np.zeros(n), np.arange(n), np.ones(n, bool))


class DutyCycle(Availability, frozen=True, tag="duty_cycle"):
    """Awake for `awake` of every `every` seconds; each device has a phase of its own."""

    awake: float
    every: float

    def __post_init__(self) -> None:
        if not 0 < self.every < inf:
            raise SpecError(f"available.every is {self.every}: give the seconds from waking to waking, above 0")
        if not 0 < self.awake < self.every:
            raise SpecError(
                f"available.awake is {self.awake}, of every {self.every} seconds: it must be above 0 and below "
                'these, or kind = "always"'
            )

    def stretches(self, name: str, key: int, start: float) -> Iterator[tuple[float, float]]:
        phase = uniform(key, PHASE) * self.every
        cycle = int(start // self.every) - 1
        while cycle * self.every < start + HORIZON:
            woke = cycle * self.every + phase
            if woke + self.awake > start:
                yield woke, woke + self.awake
            cycle += 1

    def slices(self, names: Array, keys: Array) -> Iterator[Slice]:
        who = np.arange(len(keys), dtype=np.int32)
        phase = uniforms(keys, PHASE) * self.every
        sleeps = (-1 * self.every + phase) + self.awake
        at_start = sleeps > 0
        yield _present(who[at_start])
        cycle, late = 0, Slice(sleeps[at_start], who[at_start], np.zeros(at_start.sum(), bool))
        while True:
            wakes = cycle * self.every + phase
            cycle += 1
            found = _joined(late, _all(wakes, who, True), _all(wakes + self.awake, who, False))
            now, late = _split(found, cycle * self.every)
            yield now

    def after(self, name: str, key: int, start: float, seconds: float) -> float:
        # Any `every` seconds hold exactly `awake`: whole cycles need no walk.
        cycles = max(0, ceil(seconds / self.awake) - 1)
        rest = seconds - cycles * self.awake
        return super().after(name, key, start + cycles * self.every, rest)


def _swing() -> tuple[float, ...]:
    return tuple(round(0.25 + 0.15 * cos((hour - 3) / 12 * pi), 3) for hour in range(24))


class Diurnal(Availability, frozen=True, tag="diurnal"):
    """By the hour of a device's day: `hours` is the share of devices that are there at 0:00, 1:00, ... 23:00.

    Between full hours the share runs straight. Once a day, at an hour of its own, a device draws how easily it
    comes, and is there while the share is above that: it stays for hours, not for moments. `zones` are hours ahead
    of UTC, each as likely (name one twice to double it); each device's clock is off by up to half an hour.
    Time 0 is midnight UTC. By default the share swings four-fold between night (0.40 at 3:00, when phones are idle
    and charging) and afternoon (0.10), the swing that Bonawitz et al. 2019 (section 9) saw; the level is a guess.
    """

    hours: tuple[float, ...] = _swing()
    zones: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if len(self.hours) != 24:
            raise SpecError(f"available.hours has {len(self.hours)} figures: give 24, one for each hour of the day")
        for hour, share in enumerate(self.hours):
            if not 0 <= share <= 1:
                raise SpecError(f"available.hours[{hour}] is {share}: it must be a share, from 0 to 1")
        if max(self.hours) < LEAST:
            raise SpecError(
                f"available.hours are at most {max(self.hours)}: give one hour a share of {LEAST} or more, "
                "or no device would ever be there"
            )
        if not self.zones:
            raise SpecError("available.zones is empty: give hours ahead of UTC, such as [-8, 0, 5.5]")
        for zone in self.zones:
            if not -12 <= zone <= 14:
                raise SpecError(f"available.zones has {zone}: it must be hours ahead of UTC, from -12 to 14")

    def stretches(self, name: str, key: int, start: float) -> Iterator[tuple[float, float]]:
        shift = self.zones[int(uniform(key, ZONE) * len(self.zones))] + uniform(key, JITTER) - 0.5
        offset = ceil(shift)
        lag = offset - shift  # hours from a full hour of time to the device's next full hour
        turn = int(uniform(key, TURN) * 24)
        hour, day, ease = int(start // HOUR) - 1, -2, 0.0
        while hour * HOUR < start + HORIZON:
            if (hour + turn) // 24 != day:
                day = (hour + turn) // 24
                ease = uniform(key, DAYS + 1 + day)
            here, then = self.hours[(hour + offset) % 24], self.hours[(hour + offset + 1) % 24]
            if here > ease or then > ease:
                begin, end = (hour + lag) * HOUR, (hour + 1 + lag) * HOUR
                if not here > ease:
                    begin = ((hour + lag) + (ease - here) / (then - here)) * HOUR
                elif not then > ease:
                    end = ((hour + lag) + (ease - here) / (then - here)) * HOUR
                if end > start:
                    yield begin, end
            hour += 1

    def slices(self, names: Array, keys: Array) -> Iterator[Slice]:
        who = np.arange(len(keys), dtype=np.int32)
        shares, zones = np.array(self.hours), np.array(self.zones)
        shift = zones[(uniforms(keys, ZONE) * len(zones)).astype(np.int64)] + uniforms(keys, JITTER) - 0.5
        offset = np.ceil(shift)
        lag = offset - shift
        clock = offset.astype(np.int8) % np.int8(24)
        turn = (uniforms(keys, TURN) * 24).astype(np.int8)
        ease = uniforms(keys, DAYS + 1 + (turn.astype(np.int64) - 1) // 24)
        # The hour that runs at 0 began before it: what changed in it until 0 is how the device is found.
        late = _crossings(-1, shares, clock, lag, ease, who)
        there = shares[(clock - np.int8(1)) % 24] > ease
        before = late.at <= 0
        there[late.who[before]] = late.there[before]
        yield _present(who[there])
        late = Slice(*(column[~before] for column in late))
        hour = changed = 0
        while (hour - changed) * HOUR < HORIZON:
            drawn = np.flatnonzero(turn == -hour % 24)  # whose day begins
            share = shares[(clock[drawn] + np.int8(hour % 24)) % 24]
            was = share > ease[drawn]
            ease[drawn] = uniforms(keys[drawn], DAYS + 1 + (hour + turn[drawn].astype(np.int64)) // 24)
            now = share > ease[drawn]
            other = drawn[was != now]
            turned = Slice((hour + lag[other]) * HOUR, who[other], now[was != now])
            found = _joined(late, turned, _crossings(hour, shares, clock, lag, ease, who))
            hour += 1
            this, late = _split(found, hour * HOUR)
            if len(this.at):
                changed = hour
            yield this


def _crossings(hour: int, shares: Array, clock: Array, lag: Array, ease: Array, who: Array) -> Slice:
    """Return the changes in the hour of each device that begins in `hour`, as `Diurnal.stretches` has them."""
    local = (clock + np.int8(hour % 24)) % np.int8(24)
    here, then = shares[local], shares[(local + np.int8(1)) % np.int8(24)]
    which = np.flatnonzero((here > ease) != (then > ease))
    here, then, ease = here[which], then[which], ease[which]
    at = ((hour + lag[which]) + (ease - here) / (then - here)) * HOUR
    return Slice(at, who[which], then > ease)


def _present(who: Array) -> Slice:
    return Slice(np.zeros(len(who)), who, np.ones(len(who), bool))


def _all(at: Array, who: Array, there: bool) -> Slice:
    return Slice(at, who, np.full(len(who), there))


def _joined(*slices: Slice) -> Slice:
    return ordered(*(np.concatenate(columns) for columns in zip(*slices, strict=True)))


def _split(slice: Slice, at: float) -> tuple[Slice, Slice]:
    """Return what is before `at`, and the rest."""
    place = int(np.searchsorted(slice.at, at))
    return Slice(*(column[:place] for column in slice)), Slice(*(column[place:] for column in slice))
