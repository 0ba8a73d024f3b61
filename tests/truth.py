"""Truth: 20 device processes behind links of known rate and delay, beside the same federation in a world of such links.

The acceptance test asserts what is compared here, bench/truth.py prints and draws it, docs/truth.md says what it means.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple

from msgspec.structs import replace

import fedthings as ft
from fedthings.learn.digits import digits
from fedthings.protocol.events import Ticket
from fedthings.run import Run, read
from fedthings.simulation.links import LINKS, Link, exchanged
from fedthings.simulation.world import Change, Outcome, Waking, Work, World
from processes import Processes
from proxy import Carried, Proxy

DEVICES = 20
FIRST = 2
"""Versions that are left out: to start is in the first, and bytes are counted from where a line of history appears."""
AT_ONCE = ft.Device(flops=1e12, memory=1e9, joules_per_flop=0.0)
VILLAGE = replace(LINKS["lte_m"], up=192e3, down=256e3, round_trip=0.3, loss=0.0, payload=1460)
SATELLITE = replace(VILLAGE, up=384e3, down=384e3, round_trip=0.6)
OPEN = replace(VILLAGE, up=1e10, down=1e10, round_trip=0.0, payload=1 << 16)


class Setting(NamedTuple):
    """A federation whose model has `hidden` units, on `links` in equal shares, at a pace, for some versions."""

    hidden: tuple[int, ...]
    links: tuple[str, ...]
    pace: ft.Pace
    versions: int
    more: Mapping[str, Any] = MappingProxyType({})

    @property
    def federation(self) -> ft.Federation:
        recipe = ft.Recipe(lr=0.1, batch=32)
        task = ft.Task(model=ft.mlp(64, *self.hidden, 10), loss="cross_entropy", recipe=recipe)
        return ft.Federation(task, ft.fedavg(), self.pace, seed=4, devices=DEVICES, **self.more)

    @property
    def world(self) -> ft.Things:
        own = {"village": VILLAGE, "satellite": SATELLITE}
        groups = tuple(ft.Group(device="at once", link=link, share=1 / len(self.links)) for link in self.links)
        return ft.Things(groups, seed=1, devices={"at once": AT_ONCE}, links=own)


ALL = ft.Pace(goal=DEVICES, patience=600.0)
HALF = ft.Pace(goal=DEVICES // 2, concurrency=DEVICES, patience=600.0, staleness=4)
SETTINGS = {
    "60 KB, two kinds of links": Setting((200,), ("lte_m", "village"), ALL, 8),
    "105 KB in two chunks, a long way": Setting((350,), ("satellite",), ALL, 6),
    "3 KB over NB-IoT": Setting((), ("nb_iot",), ALL, 8),
    "8 KB up over NB-IoT, down by differences": Setting(
        (200,), ("nb_iot",), ALL, 8, {"stages": (ft.eden(4),), "down": ft.delta(8)}
    ),
    "60 KB, any ten make a version": Setting((200,), ("lte_m", "village"), HALF, 14),
}


class Noted(NamedTuple):
    """A world that notes what each task moves down and up."""

    world: World
    moved: list[tuple[Ticket, tuple[float, float]]]

    def outcome(self, ticket: Ticket, now: float, work: Work, until: float = inf) -> Outcome:
        self.moved.append((ticket, exchanged(work.down(ticket), work.up(ticket))))
        return self.world.outcome(ticket, now, work, until)

    def changes(self, names: Sequence[str]) -> Iterator[Change | Waking]:
        return self.world.changes(names)


class Served(NamedTuple):
    """A real run; `carried` is what the links had carried when so many lines of its history were there."""

    run: Run
    carried: dict[int, Carried]
    model: bytes


class Compared(NamedTuple):
    """Seconds of each version, measured and simulated, and those that remain where links are no limit.

    Bytes up and down of these versions: what the links carried, what both histories say, and what the world moves.
    """

    measured: list[float]
    simulated: list[float]
    floor: float
    carried: Carried
    served: Carried
    said: Carried
    moved: Carried
    same: bool


def serve(setting: Setting, versions: int, directory: Path, links: dict[str, Link]) -> Served:
    """Serve `versions` to 20 processes behind `links`."""
    fleet, carried = digits(DEVICES, 1), {}
    with Processes(setting.federation, fleet, versions, directory, "mosquitto") as world:
        world.serve()
        with Proxy(world.port, links) as proxy:
            world.ports = proxy.ports
            for name in world.names:
                world.join(name)
            end = time.monotonic() + 240
            while world.served is not None and world.served.poll() is None:
                assert time.monotonic() < end, (directory / "serve.log").read_text()[-2000:]
                carried.setdefault(world.versions(), proxy.carried)
                time.sleep(0.01)
            world.wait(60)
        return Served(read(world.out), carried, (world.out / "model.safetensors").read_bytes())


def compare(setting: Setting, directory: Path) -> Compared:
    """Run `setting` with processes behind its links, with processes behind none, and in its world."""
    directory.mkdir(exist_ok=True)
    fleet, world, known = digits(DEVICES, 1), setting.world, {**LINKS, **setting.world.links}
    links = {name: known[world.group(name).link] for name in fleet.names}
    served = serve(setting, setting.versions, directory / "served", links)
    bare = serve(setting, 6, directory / "bare", dict.fromkeys(links, OPEN))
    noted = Noted(world, [])
    simulated = ft.simulate(setting.federation, fleet, setting.versions, world=noted)
    simulated.save(directory / "simulated")
    # A line of history is complete, and appears, when the version after it is made.
    before, after = served.carried[FIRST - 1], served.carried[setting.versions - 1]
    moved = [bytes_ for ticket, bytes_ in noted.moved if ticket.phase == 0 and ticket.version >= FIRST]
    return Compared(
        _spans(served.run)[FIRST - 1 :],
        _spans(simulated)[FIRST - 1 :],
        fmean(_spans(bare.run)[FIRST - 1 :]),
        Carried(after.up - before.up, after.down - before.down),
        _told(served.run, setting.versions),
        _told(simulated, setting.versions),
        Carried(round(sum(up for _, up in moved)), round(sum(down for down, _ in moved))),
        served.model == (directory / "simulated" / "model.safetensors").read_bytes(),
    )


def _spans(run: Run) -> list[float]:
    """Return the seconds from each version to the next."""
    return [late["time"] - early["time"] for early, late in pairwise(run.history)]


def _told(run: Run, versions: int) -> Carried:
    """Return the bytes that the history counts for the versions that are compared."""
    lines = run.history[FIRST - 1 : versions - 1]  # in the last one stands what the closing evaluation cost
    return Carried(sum(line["bytes_up"] for line in lines), sum(line["bytes_down"] for line in lines))
