"""Things: the world that says when a report is here and what it cost, by device, link and availability.

A fleet is a mix of groups. Everything is data and travels in TOML; every number is keyed by the seed and the
ticket or the device, so that the same world comes out in every driver and in every order of asking (law 5).
"""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from heapq import merge
from itertools import accumulate, repeat
from math import inf, log
from pathlib import Path
from struct import unpack
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import astuple

from fedthings.errors import SpecError, nearest
from fedthings.learn.effort import LEAST
from fedthings.learn.task import within
from fedthings.protocol.events import Ticket
from fedthings.simulation import draws
from fedthings.simulation.availability import HOUR, Always, Availability, Diurnal, DutyCycle, Slice
from fedthings.simulation.devices import DEVICES, Device
from fedthings.simulation.links import LINKS, Link, carried, chunks, exchanged, moving
from fedthings.simulation.profiles import complete
from fedthings.simulation.recorded import Trace
from fedthings.simulation.stragglers import LogNormal, Stragglers
from fedthings.simulation.world import Change, Outcome, Waking, Work
from fedthings.spelling import decode, sound
from fedthings.vector import Array

CHUNK = 1 << 16
"""Changes that are Python objects at once."""

Available: TypeAlias = Always | DutyCycle | Diurnal | Trace


class Group(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Things of a kind: a `share` of the fleet with a profile `device` on a `link`, `available` at times.

    `stragglers` makes training take longer; with probability `dropout` a task is given up at some moment of it;
    a working device crashes `crash` times an hour. `leaving` says what a device that goes in the middle does:
    "wait" trains on, and moves its bytes once it is back; "lose" has lost the task. One of a duty cycle may "sleep":
    it does as with "wait", and is not gone in between, so that its work waits for it (`fedthings join --wake`).
    `effort` is the most that its owner lets it do of the local work, where the strategy takes a part.
    """

    device: str
    link: str
    share: float = 1.0
    available: Available = Always()
    stragglers: Stragglers = LogNormal(0.0)
    dropout: float = 0.0
    crash: float = 0.0
    leaving: Literal["wait", "lose", "sleep"] = "wait"
    effort: float = 1.0


class _Kind(NamedTuple):
    """A group with the figures of its profiles."""

    group: Group
    available: Availability
    flops: float
    memory: float
    joules_per_flop: float
    up: float
    down: float
    round_trip: float
    loss: float
    payload: int
    joules_up: float
    joules_down: float
    contact: float


class Things(Struct, frozen=True, forbid_unknown_fields=True, dict=True, omit_defaults=True):
    """A mix of `groups`, with profiles of one's own by name in `devices` and `links`.

    Which group a device belongs to is keyed by `seed` and its name. Raises SpecError for shares that do not make 1,
    for profiles that are unknown or lack a figure, and for a trace that cannot be.
    """

    groups: tuple[Group, ...]
    seed: int = 0
    devices: Mapping[str, Device] = {}
    links: Mapping[str, Link] = {}

    def __post_init__(self) -> None:
        if not self.groups:
            raise SpecError('groups is empty: give at least one, such as { device = "pi4", link = "wifi" }')
        for index, group in enumerate(self.groups):
            sound(f"groups[{index}]", group)
            within(f"groups[{index}].share", group.share, 0, 1)
            within(f"groups[{index}].dropout", group.dropout, 0, 1)
            within(f"groups[{index}].effort", group.effort, LEAST, 1)
            if group.leaving == "sleep" and not isinstance(group.available, DutyCycle):
                raise SpecError(
                    f'groups[{index}].leaving is "sleep": give available = {{ kind = "duty_cycle", ... }}, or "wait"'
                )
            if not 0 <= group.crash < inf:
                raise SpecError(f"groups[{index}].crash is {group.crash}: give crashes an hour of work, 0 or more")
        within("seed", self.seed, 0, 2**63 - 1)
        shares = [group.share for group in self.groups]
        if abs(sum(shares) - 1) > 1e-9:
            raise SpecError(f"the shares of groups are {shares}, together {sum(shares):g}: make them 1 together")
        for kind in self._kinds:
            if isinstance(kind.available, Trace):
                kind.available.recorded  # noqa: B018 (what is wrong with it is said now)

    @cached_property
    def _kinds(self) -> tuple[_Kind, ...]:
        devices = complete(self.devices, DEVICES, "devices")
        links = complete(self.links, LINKS, "links")
        return tuple(
            _Kind(
                group,
                group.available,
                *_figures(devices, group.device, f"groups[{index}].device"),
                *_figures(links, group.link, f"groups[{index}].link"),
            )
            for index, group in enumerate(self.groups)
        )

    @cached_property
    def _bounds(self) -> list[float]:
        """Up to which draw a device belongs to each group."""
        return [*list(accumulate(group.share for group in self.groups))[:-1], 1.0]

    def group(self, name: str) -> Group:
        """Return the group that the device `name` belongs to."""
        return self.groups[bisect_right(self._bounds, draws.uniform(draws.key(self.seed, name), 0))]

    # ---------------------------------------------------------------- outcomes

    def outcome(self, ticket: Ticket, now: float, work: Work, until: float = inf) -> Outcome:
        """Return when the report is here and what the task cost, or that it never comes, or why it is declined."""
        name = ticket.device
        key = draws.key(self.seed, name)
        kind = self._kinds[bisect_right(self._bounds, draws.uniform(key, 0))]
        group, there = kind.group, kind.available
        if work.memory(ticket, now) > kind.memory:
            at = there.after(name, key, now, kind.round_trip)
            return Outcome(at if at < inf else None, kind.contact, "memory")
        phase, version, _, attempt = ticket
        drawn = b"%d/%d/%d/%d/%b" % (self.seed, phase, version, attempt, name.encode())
        words = unpack("<6I", blake2b(drawn, digest_size=24).digest())
        falls, moment, slow, breaks, lost_down, lost_up = [(word + 0.5) * 2.0**-32 for word in words]
        bodies, flops = (work.down(ticket), work.up(ticket)), work.flops(ticket, now)
        fetched, reported = chunks(*bodies)
        down, up = exchanged(*bodies)
        if kind.loss:
            down = carried(down, kind.payload, kind.loss, lost_down)
            up = carried(up, kind.payload, kind.loss, lost_up)
        fetch = moving(down, fetched, kind.down, kind.round_trip)
        factor, share = group.stragglers.factor(slow), 1.0
        if until < inf:
            waited = there.after(name, key, now, fetch) - now
            share = work.effort(ticket, flops / kind.flops * factor, until - now - waited, group.effort)
            flops = work.flops(ticket, now, share)
        train = flops / kind.flops * factor
        report = moving(up, reported, kind.up, kind.round_trip)
        whole = fetch + train + report
        legs = (
            (fetch, kind.contact + down * kind.joules_down),
            (train, flops * kind.joules_per_flop),
            (report, kind.contact + up * kind.joules_up),
        )
        cut = moment * whole if falls < group.dropout else inf
        if group.crash:
            crash = -log(breaks) * HOUR / group.crash
            cut = min(cut, fetch + crash if crash < train else inf)
        leaves = there.leaves(name, key, now, whole)
        if group.leaving == "lose":
            cut = min(cut, leaves - now)
        if cut < whole:
            return Outcome(None, _spent(legs, cut))
        if leaves == inf:
            return Outcome(now + whole, _spent(legs, inf), effort=share)
        trained = there.after(name, key, now, fetch) + train
        at = there.after(name, key, trained, report)
        if at == inf:
            return Outcome(None, _spent(legs, fetch + train if trained < inf else 0.0))
        return Outcome(at, _spent(legs, inf), effort=share)

    # ----------------------------------------------------------------- changes

    def changes(self, names: Sequence[str]) -> Iterator[Change | Waking]:
        """Yield when each of `names` comes and goes, or wakes, in the order of time, ties by name. Raises SpecError."""
        names = sorted(names)
        keys = draws.keys(self.seed, names)
        belongs = np.searchsorted(self._bounds, draws.uniforms(keys, 0), side="right")
        every = np.array(names, object)
        streams = []
        for index, group in enumerate(self.groups):
            members = belongs == index
            own = every[members]
            if isinstance(group.available, Trace):
                group.available.fits(own.tolist(), names)
            if len(own):
                streams.append(_told(own, group, keys[members]))
        return streams[0] if len(streams) == 1 else merge(*streams)


def _figures(profiles: Mapping[str, Device] | Mapping[str, Link], name: str, where: str) -> tuple[Any, ...]:
    """Return the figures of profile `name` in the order of its fields."""
    if name not in profiles:
        raise SpecError(f"{where} is {name!r}: {nearest(name, profiles)}")
    return astuple(profiles[name])[:-1]


def _spent(legs: Sequence[tuple[float, float]], seconds: float) -> float:
    """Return the joules of the first `seconds` of `legs`, each (seconds, joules)."""
    total = 0.0
    for lasts, joules in legs:
        if seconds < lasts:
            return total + joules * (seconds / lasts)
        total += joules
        seconds -= lasts
    return total


def _told(names: Array, group: Group, keys: Array) -> Iterator[Change | Waking]:
    """Yield the changes of a group, made Python objects a chunk at a time; of sleepers only when they wake."""
    sleep = group.available.every if isinstance(group.available, DutyCycle) and group.leaving == "sleep" else 0.0
    for changes in group.available.slices(names, keys):
        for start in range(0, len(changes.at), CHUNK):
            chunk = Slice(*(column[start : start + CHUNK] for column in changes))
            if sleep:
                chunk = Slice(*(column[chunk.there] for column in chunk))
                yield from map(Waking, chunk.at.tolist(), names[chunk.who].tolist(), repeat(sleep))
                continue
            yield from map(Change, chunk.at.tolist(), names[chunk.who].tolist(), chunk.there.tolist())


# ------------------------------------------------------------------------ files


def load(path: str | Path) -> Things:
    """Read a world from a TOML file; a trace's path counts from the file. Raises SpecError."""
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"there is no file {path}: name a TOML file that describes a world")
    try:
        content = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from None
    try:
        for table, kind in (("devices", Device), ("links", Link)):
            content[table] = {
                name: _profile(figures, kind, f"{table}.{name}") for name, figures in _table(content, table).items()
            }
        _place_traces(content.get("groups"), path.parent)
        return decode(content, Things)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def dumps(world: Things) -> str:
    """Return `world` as TOML."""
    import tomli_w

    return tomli_w.dumps(msgspec.to_builtins(world))


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, Mapping):
        raise SpecError(f"{name} is {table!r:.60}: give one table a profile, such as [{name}.mine]")
    return table


def _profile(figures: Any, kind: type[Any], where: str) -> Any:
    try:
        return decode(figures, kind)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _place_traces(groups: Any, folder: Path) -> None:
    for group in groups if isinstance(groups, list) else ():
        available = group.get("available") if isinstance(group, dict) else None
        if isinstance(available, dict) and isinstance(available.get("path"), str):
            available["path"] = str(folder / available["path"])
